"""One app for both tasks, also if both have a model of the same name."""

import io
import re

import pytest

from modelserver.engine.startup_hint import command
from modelserver.tasks import CLASSIFICATION
from support import tiny_graphs
from support.app_client import make_settings, photo
from support.tiny_graphs import write
from support.transports import TRANSPORTS

OVER = TRANSPORTS

BOTH = ("detection", "classification")
RED = (250, 20, 20)


@pytest.fixture
def both(serving, folder):
    """Return an app of both tasks; ``m`` is a detector and a classifier."""
    for name in ("m", "boxes"):
        write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
        (folder / f"{name}.label_map.pbtxt").write_text('item { id: 26 name: "box" }')
    for name in ("m", "colour"):
        write(folder / f"{name}.pb", tiny_graphs.classifier())
        (folder / f"{name}.labels.txt").write_text("red\ngreen\nblue\n")
    return serving(*BOTH)


def post(client, path, *names, **fields):
    """POST a red photo."""
    file = (io.BytesIO(photo(RED)), "red.png")
    return client.post(path, data={"modelname": [*names], **fields, "file": file})


def test_each_route_asks_the_model_of_its_task(both):
    """Each route finds models of its own task only."""
    (box,) = post(both, "/detect", "m").json
    assert box["label"] == "box"
    assert post(both, "/classify", "m").json == {"class": "red"}
    missing = post(both, "/detect", "colour")
    assert missing.status_code == 404
    assert "The models here are: boxes, m." in missing.json["detail"]
    assert post(both, "/detect", "m", labels="red").status_code == 400


def test_every_model_of_the_task_may_be_asked(both):
    """``*`` means all models of the route's task."""
    found = post(both, "/detect", "*").json["results"]
    assert [entry["model"] for entry in found] == ["boxes", "m"]
    found = post(both, "/classify", "*").json["results"]
    assert [(entry["model"], entry["class"]) for entry in found] == [
        ("colour", "red"),
        ("m", "red"),
    ]


def test_all_models_are_listed_with_their_kinds(both):
    """Models are listed by name, and by kind if names are equal."""
    found = [
        (entry["name"], entry["kind"]) for entry in both.get("/models").json["models"]
    ]
    assert found == [
        ("boxes", "detection"),
        ("colour", "classification"),
        ("m", "classification"),
        ("m", "detection"),
    ]


@pytest.mark.parametrize("path", ["", "/labels"])
def test_a_name_in_both_needs_its_kind(both, path):
    """An ambiguous name is refused with a hint; others need no kind."""
    refused = both.get(f"/models/m{path}")
    assert refused.status_code == 409
    assert refused.json["type"] == "/problems/ambiguous-model"
    assert "?kind=classification or ?kind=detection" in refused.json["detail"]
    for kind in BOTH:
        assert both.get(f"/models/m{path}?kind={kind}").status_code == 200
    assert both.get(f"/models/colour{path}").status_code == 200
    assert both.get(f"/models/colour{path}?kind=classification").status_code == 200
    assert both.get(f"/models/colour{path}?kind=detection").status_code == 404
    assert both.get(f"/models/colour{path}?kind=boxes").status_code == 400


def test_the_model_that_is_asked_for_is_told(both):
    """``?kind=`` chooses the model's report and labels."""
    assert both.get("/models/m?kind=detection").json["kind"] == "detection"
    labels = both.get("/models/m/labels?kind=classification").json["labels"]
    assert [entry["name"] for entry in labels] == ["red", "green", "blue"]


def test_readiness_names_the_kind_where_a_name_is_in_both(both):
    """Readiness shows both models of one name."""
    found = both.get("/readyz").json["models"]
    names = {"boxes", "colour", "classification/m", "detection/m"}
    assert found == dict.fromkeys(names, "READY")


def test_the_numbers_of_two_models_of_one_name_are_told_apart(both, capsys):
    """Metrics and lines on stdout name the kind."""
    post(both, "/detect", "m")
    post(both, "/classify", "m")
    post(both, "/classify", "colour")
    text = both.get("/metrics").text
    states = set(re.findall(r'modelserver_model_state\{model="([^"]+)"', text))
    assert states == {"boxes", "colour", "classification/m", "detection/m"}
    for route, model in (("/detect", "detection/m"), ("/classify", "colour")):
        assert re.search(f'requests_total{{.*{route}.*model="{model}"', text) or (
            re.search(f'requests_total{{.*model="{model}".*{route}', text)
        )
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["detection/m", "classification/m", "colour"]


def test_the_page_has_the_models_of_both(both):
    """The page lists both tasks' models in two groups."""
    page = both.get("/").text
    assert "<title>ModelServer</title>" in page
    groups = re.findall(r'<optgroup label="(\w+)">(.*?)</optgroup>', page, re.DOTALL)
    listed = {name: re.findall(r'value="(\w+)"', text) for name, text in groups}
    assert listed == {"Classification": ["colour", "m"], "Detection": ["boxes", "m"]}
    assert re.findall(r'formaction="([^"]+)"', page) == ["/detect", "/classify"]
    assert both.get("/detect").text == both.get("/classify").text == page


def test_the_description_has_the_routes_of_both(both):
    """OpenAPI has both routes, and the answer to ambiguous names."""
    found = both.get("/openapi.json").json["paths"]
    assert {"/detect", "/classify"} < found.keys()
    assert "409" in found["/models/{name}"]["get"]["responses"]


def test_an_empty_folder_is_told_what_either_task_needs(serving):
    """The hint names both tasks' files once, and no other app."""
    client = serving(*BOTH)
    detail = post(client, "/detect", "m").json["detail"]
    assert "NAME.frozen.pb and NAME.label_map.pbtxt, or NAME.pb" in detail
    assert "app_classify" not in detail


def test_the_line_to_try_is_of_the_models_task():
    """The line to try has the route of the first model that serves."""
    line = command(CLASSIFICATION, make_settings(), "m", ("127.0.0.1", 5000))
    assert line.endswith(":5000/classify")
