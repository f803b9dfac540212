"""The doctor's reports for people."""

import io

import pytest
from rich.console import Console

from modelserver.core.findings import found
from modelserver.core.signatures import Signature
from modelserver.tools.doctor import FolderReport, GraphReport, graph_tables
from modelserver.tools.doctor.reports import ModelReport, Refused, folder_tables


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


def test_nothing_is_read_as_markup():
    """A label or a name in brackets is shown as it is, and ends no table."""
    report = FolderReport(
        folder="[red]f",
        ok=False,
        models=(ModelReport(name="[bold]m", kind="detection", serves=False),),
        findings=(found("crashed", "[/]", "[link=x]died", ""),),
    )
    shown = printed(folder_tables(report))
    for text in ("[red]f", "[bold]m", "NO", "[/]", "[link=x]died"):
        assert text in shown


def test_a_folder_without_findings_has_one_table():
    """There is no table without findings."""
    report = FolderReport(folder="f", ok=True, models=(), findings=())
    assert len(list(folder_tables(report))) == 1
