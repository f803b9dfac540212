"""The doctor's reports for people."""

import io

import pytest
from rich.console import Console

from modelserver.core.findings import found
from modelserver.core.signatures import Signature
from modelserver.tools.doctor import (
    FolderReport,
    GraphReport,
    folder_lines,
    graph_tables,
)
from modelserver.tools.doctor.reports import ModelReport, Refused, Timing


def printed(tables):
    """What a console shows."""
    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def graph(**facts):
    """A report on a graph."""
    plain = {"file": "x.pb", "kind": "classification", "bytes": 1_500_000}
    plain |= {"sha256": "ab", "nodes": 3, "functions": 0, "producer": 0}
    plain |= {"parameters": 1234, "ops": {"Const": 2}}
    return GraphReport(**plain | facts)


def signature(**facts):
    """How a graph is fed."""
    plain = {"kind": "classification", "input": "x:0", "dtype": "float32"}
    plain |= {"layout": "NHWC", "outputs": {"scores": "s:0"}}
    return Signature(**plain | facts)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"size": (20, 30)}, "30 x 20, RGB, stretch"),
        ({"inner_size": (20, 30)}, "any size, RGB; resized inside to 30 x 20"),
        ({"channels": 1}, "any size, gray"),
        ({"mean": (1.0, 2.0, 3.0), "bgr": True}, "(BGR pixel - [1, 2, 3]) * [1]"),
        ({"batch": 4}, "4 at most"),
        ({"feeds": {"keep_prob:0": 1.0}}, "keep_prob:0 = 1.0"),
    ],
)
def test_how_a_graph_is_fed_is_said_in_words(facts, said):
    """The width comes before the height, as people say it."""
    assert said in printed(graph_tables(graph(signature=signature(**facts))))


def test_pixels_that_are_fed_as_they_are_need_no_formula():
    """A uint8 input has no scaling."""
    shown = printed(graph_tables(graph(signature=signature(dtype="uint8"))))
    assert "pixels" not in shown


def test_the_most_frequent_ops_are_shown():
    """The other ops are counted."""
    ops = {f"Op{number}": 30 - number for number in range(25)}
    shown = printed(graph_tables(graph(ops=ops, refused=(Refused("Op0", 1),))))
    assert "Op19" in shown
    assert "Op20" not in shown
    assert "and 5 more kinds" in shown


def model(name, **facts):
    """A report on a model that serves."""
    return ModelReport(**{"name": name, "kind": "detection", "serves": True} | facts)


def lines(models=(), findings=(), **options):
    """What is said of a folder."""
    report = FolderReport(folder="f", ok=True, models=models, findings=findings)
    return list(folder_lines(report, **options))


def test_what_matters_of_a_folder_takes_few_lines():
    """What does not serve and what is wrong, whole; sound models and notes are counted."""
    models = [model("broken", serves=False), *(model(f"m{n}") for n in range(30))]
    long = "a sentence that is longer than any terminal is wide " * 9
    findings = (
        found("crashed", "broken", long, "python -m modelserver inspect 'a b.pb'"),
        found("folder", "", "x is not used"),
        *(found("golden-none", f"m{n}", "there is none", "put one") for n in range(30)),
        found("batch-one", "m1", "one image a run"),
    )
    assert lines(models, findings) == [
        "30 of 31 models in f serve; 1 error, 1 warning, 31 notes",
        "  NO  broken (detection)",
        *(f"  yes m{n} (detection)" for n in range(4)),
        "  and 26 more that serve (--all)",
        f"error crashed broken: {long}",
        "  fix: python -m modelserver inspect 'a b.pb'",
        "warning folder: x is not used",
        "notes: golden-none (30), batch-one (1); --all shows them",
    ]
    everything = lines(models, findings, full=True)
    assert sum(line.startswith("  yes ") for line in everything) == 30
    assert everything[-1] == "note batch-one m1: one image a run"


def test_a_model_is_shown_with_what_it_answered():
    """Its device, how long it took, and the surest of what it sees, if it sees any."""
    seen = Timing(photo="x.png", decode_ms=1, run_ms=2.04, answers=(("cat", 0.934),))
    unseen = Timing(photo="x.png", decode_ms=1, run_ms=2.06, answers=())
    models = [model("a", device="CPU", timing=seen), model("b", timing=unseen)]
    assert lines(models) == [
        "2 of 2 models in f serve; nothing found",
        "  yes a (detection, CPU): 2.0 ms, cat 0.93 in x.png",
        "  yes b (detection): 2.1 ms, nothing in x.png",
    ]


def test_a_kept_result_says_since_when():
    """The oldest counts."""
    days = ("2026-11-29T12:00:59+00:00", "2026-11-28T07:01:00+00:00", "")
    *_, last = lines([model(f"m{n}", kept=day) for n, day in enumerate(days)])
    assert last == (
        "kept from 2026-11-28 07:01 UTC, nothing has changed since: 2 of 3 models; "
        "--fresh looks again"
    )
