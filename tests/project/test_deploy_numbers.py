"""The shipped alerts, the dashboard and the table speak of metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.core.metrics import (
    DecoderMetrics,
    Metrics,
    ModelMetrics,
    ProcessMetrics,
)
from modelserver.engine.catalogue import State

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
DOCUMENT = ROOT / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")
OF_PROMETHEUS = {"instance", "job"}

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")


def families():
    """Every family, with a sample of each."""
    model = ModelMetrics("m", "READY", 1, 1, 1, {"left": 1}, 1, 1, gpu_fallback=1)
    metrics = Metrics(
        lambda: [model],
        [state.value for state in State],
        lambda: [ProcessMetrics("door", 2, 1)],
        lambda: DecoderMetrics(1, 1, 1, 1, {"crash": 1}),
    )
    metrics.count_answer("/image", "m", 200, "doods")
    metrics.count_refusal("overloaded")
    metrics.count_evaluation("m", {"run": 1.0}, 1, [("seal", 0.9)])
    text = metrics.render()[0].decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def labels_by_sample():
    """The labels of every sample, by its name."""
    found = {}
    for family in families().values():
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


def dashboard():
    """Every expression of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [one["expr"] for panel in panels for one in panel["targets"]]


def alerts():
    """Every expression of the alert rules."""
    text = ALERTS.read_text()
    return re.findall(r"expr: (?:\|\n)?(.*?)\n +(?:for|labels):", text, re.DOTALL)


EXPRESSIONS = [*dashboard(), *alerts()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_is_asked_for_exists(expression):
    """A renamed metric would leave an empty panel, and an alert that never fires."""
    there = labels_by_sample()
    names = re.findall(r"\b(?:modelserver|process)_\w+", expression)
    assert names or expression.startswith("up{")
    labels = set(OF_PROMETHEUS)
    for name in names:
        assert name in there, name
        labels |= there[name]
    for name, chosen in re.findall(r"(\w+)\{([^}]*)\}", expression):
        own = OF_PROMETHEUS | there.get(name, set())
        assert set(re.findall(r"(\w+)=~?\"", chosen)) <= own
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {one.strip() for one in grouped.split(",")} <= labels


def test_what_alerts_ask_of_labels_can_be_true():
    """States and reasons that the server knows."""
    text = ALERTS.read_text()
    states = {state.value for state in State}
    for chosen in re.findall(r'state=~?"([^"]+)"', text):
        assert set(chosen.split("|")) <= states
    slugs = re.findall(r"`/problems/([\w-]+)`", (ROOT / "docs" / "api.md").read_text())
    for reason in re.findall(r'reason="([^"]+)"', text):
        assert reason in slugs


def test_every_metric_is_on_the_dashboard():
    """What nobody sees is of no use."""
    shown = " ".join(dashboard())
    for name in families():
        if name.startswith("modelserver_"):
            assert name in shown


def test_the_dashboards_panels_do_not_overlap():
    """And have numbers of their own."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_document_has_every_metric_as_it_is():
    """Name, type, labels and sentence."""
    rows = re.findall(
        r"^\| `(modelserver_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )
    told = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", labels)), sentence)
        for name, kind, labels, sentence in rows
    }
    there = {
        (
            f"{name}_total" if one.type == "counter" else name,
            one.type,
            frozenset(set().union(*(s.labels for s in one.samples)) - {"le"}),
            one.documentation,
        )
        for name, one in families().items()
        if name.startswith("modelserver_")
    }
    assert told == there


def test_the_document_explains_every_alert():
    """And none that there is not."""
    names = re.findall(r"alert: (\w+)", ALERTS.read_text())
    part = DOCUMENT.read_text().split("### Alerts")[1].split("## Logs")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == names


@pytest.mark.process
@needs_promtool
def test_promtool_takes_the_rules():
    """Without a warning."""
    command = [PROMTOOL, "check", "rules", ALERTS]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "SUCCESS: 9 rules" in said.stdout


@pytest.mark.process
@needs_promtool
def test_promtool_takes_what_the_server_answers(tmp_path):
    """As Prometheus's own linter sees it."""
    model = ModelMetrics("m", "READY", 1, 1, 1, {"left": 1}, 1, 1)
    metrics = Metrics(lambda: [model], ["READY"])
    metrics.count_evaluation("m", {"run": 1.0}, 1, [('a "seal"\n\\', 0.9)])
    said = subprocess.run(
        [PROMTOOL, "check", "metrics"],
        input=metrics.render()[0],
        capture_output=True,
        check=False,
    )
    assert (said.returncode, said.stderr) == (0, b""), said.stderr


# Alert: the series that make it fire, by sample; when to look, in minutes.
FIRING = {
    "ModelServerDown": ({'up{job="modelserver"}': "0x90"}, 2),
    "ModelNotServing": (
        {
            'modelserver_model_state{model="m",state="READY"}': "0x90",
            'modelserver_model_state{model="m",state="FAILED"}': "1x90",
            'modelserver_model_state{model="well",state="READY"}': "1x90",
        },
        6,
    ),
    "ModelKeepsDying": ({'modelserver_runner_restarts_total{model="m"}': "0+1x90"}, 15),
    "ModelNotReplaced": (
        {'modelserver_reloads_failed_total{model="m"}': "0x5 1x90"},
        10,
    ),
    "RequestsRefused": (
        {
            'modelserver_refusals_total{reason="overloaded"}': "0+10x90",
            'modelserver_requests_total{route="/detect",status="503"}': "0+10x90",
            'modelserver_requests_total{route="/detect",status="200"}': "0+90x90",
        },
        20,
    ),
    "ServerErrors": ({'modelserver_requests_total{status="500"}': "0+1x90"}, 10),
    "AnswersAreSlow": (
        {
            'modelserver_stage_seconds_bucket{stage="queue",le="1"}': "0+1x90",
            'modelserver_stage_seconds_bucket{stage="queue",le="5"}': "0+9x90",
            'modelserver_stage_seconds_bucket{stage="queue",le="+Inf"}': "0+9x90",
        },
        20,
    ),
    "RunnerMemoryGrows": (
        {'modelserver_runner_resident_bytes{model="m"}': "2000000000+1000000x150"},
        130,
    ),
    "GpuNotUsed": ({'modelserver_gpu_fallback{model="m"}': "1x90"}, 10),
}


@pytest.mark.process
@needs_promtool
@pytest.mark.parametrize("name", FIRING)
def test_an_alert_fires_when_it_should_and_alone(name, tmp_path):
    """On made-up series, without a server."""
    series, minutes = FIRING[name]
    case = {
        "interval": "1m",
        "input_series": [{"series": s, "values": v} for s, v in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}],
            }
        ],
    }
    file = tmp_path / "test.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": [case]}))
    said = subprocess.run(
        [PROMTOOL, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_is_made_to_fire():
    """A new one needs a case above."""
    assert list(FIRING) == re.findall(r"alert: (\w+)", ALERTS.read_text())
