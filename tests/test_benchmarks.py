"""What the benchmarks' drivers work out and write."""

import argparse
import io
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import tiny_graphs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_graphs import write

from benchmarks import all as everything
from benchmarks import peers, plot, tables, throughput
from benchmarks.support import graphs, processes, results
from benchmarks.support.inprocess import InProcess, find
from modelserver import bench

ROOT = Path(__file__).parent.parent
PHOTO = {"name": "a.jpg", "size": [1024, 636], "bytes": 100_000}
SVG = "{http://www.w3.org/2000/svg}"


def figures(per_second=10.0, ms=20.0):
    """What the results keep of one number of clients."""
    times = {"p50_ms": ms, "p90_ms": ms, "p99_ms": 2 * ms}
    return {"answers": 9, "errors": {}, "per_second": per_second, **times}


def beside(peer="litserve", clients=8, rate=1.5, p50=0.8, photo=PHOTO):
    """A row of the peers' results."""
    return {
        "peer": peer,
        "model": "net",
        "photo": photo,
        "clients": clients,
        "ours": figures(15),
        "theirs": figures(10, 30.0),
        "per_second_ratio": rate,
        "p50_ratio": p50,
    }


def held(front, runner):
    """Memory of two processes, in MB."""
    parts = {"front": front, "runners": runner, "all": front + runner}
    return {name: {"rss": mb, "pss": mb} for name, mb in parts.items()}


@pytest.fixture
def measured():
    """Results of every driver."""
    rows = [
        {
            "clients": clients,
            "threads": 2,
            "server": figures(20.0 * clients),
            "in_process": figures(21.0 * clients),
            "ratio": 0.95,
        }
        for clients in (1, 8)
    ]
    both = {"server": figures(ms=4.0), "in_process": figures(ms=2.0)}
    return {
        "machine": results.machine(),
        "startup": {"rounds": 1, "medians": {"/livez, s": 0.4, "runner, MB": 700.0}},
        "throughput": {"model": "net", "photo": PHOTO, "rows": rows},
        "overhead": {
            "photo": {"size": [1024, 636], "bytes": 100_000},
            "one": {**both, "added_p50_ms": 2.0},
            "many": {"clients": 32, "load_cores": 0.1, **figures(600.0)},
        },
        "memory": {
            "model": "do_nothing",
            "requests": [100, 10_000],
            "before_mb": held(50, 500),
            "after_mb": held(51, 500),
        },
        "peers": {"rows": [beside("flask_gunicorn"), beside(rate=1.4, p50=0.9)]},
    }


def test_a_ratio_is_the_median_of_the_rounds_own():
    """A round in which the whole machine was slow counts like any other."""
    assert results.median_ratio([10, 1, 30], [5, 0.5, 10]) == 2


def test_a_round_without_an_answer_has_no_ratio():
    """The sentence says what to do."""
    with pytest.raises(SystemExit, match="make --seconds longer"):
        results.median_ratio([1.0], [0.0])


def test_a_round_has_a_rate_and_a_median():
    """Of the answers with status 200 alone."""
    samples = [bench.Sample(200, 1, ms) for ms in (1.0, 2.0, 9.0)]
    one = bench.Round(1, 2.0, (*samples, bench.Sample(503, 1, 100.0)))
    assert results.rates([one]) == [1.5]
    assert results.medians_ms([one]) == [2.0]


def test_results_are_json(tmp_path, capsys):
    """In a file, or on stdout where none is named."""
    results.write({"a": 1}, tmp_path / "out.json")
    results.write({"a": 1}, None)
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": 1}
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_a_photo_made_by_code_is_always_the_same():
    """A JPEG of the size and about the bytes asked for, which compresses as photos do."""
    file = graphs.photo()
    assert file == graphs.photo()
    assert abs(len(file) - 100_000) < 5_000
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size) == ("JPEG", (1024, 636))


def test_the_graph_that_does_nothing_is_served(folder):
    """In this process, by the server's own decoder and session."""
    graphs.write_do_nothing(folder)
    files = find(folder, "detection")
    assert files.name == graphs.NAME
    with closing(InProcess.load(files)) as local:
        seen = local.run(graphs.photo((64, 48), 2_000), 2, 0.05)
    assert seen.clients == 2
    assert all(sample.took_ms > 0 for sample in seen.samples)


def test_a_model_is_found_by_name(folder):
    """The first where none is given; one that is not there ends the driver."""
    for name in ("b", "a"):
        write(folder / f"{name}.frozen.pb", tiny_graphs.empty())
        write(folder / f"{name}.label_map.pbtxt", b"")
    assert find(folder, "detection").name == "a"
    assert find(folder, "detection", "b").name == "b"
    with pytest.raises(SystemExit, match="There is no detection model c"):
        find(folder, "detection", "c")


def test_memory_is_read_from_the_kernels_words():
    """Kilobytes become megabytes; lines of other things are passed over."""
    text = "55 ---p [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 9 kB\n"
    assert processes.parse_rollup(text) == {"rss": 2.0, "pss": 1.0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_found_and_weighed():
    """A process that this one started is among its children."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.pid in processes.children(os.getpid())
        assert processes.memory_mb(child.pid)["rss"] > 0
        child.communicate(b"\n")


def test_a_case_is_read_from_its_words():
    """A photo's path may hold colons."""
    case = peers.Case.read("net:/a:b/c.jpg:1,8")
    assert case == peers.Case("net", Path("/a:b/c.jpg"), (1, 8))


def test_the_files_tell_a_detector(folder):
    """By the name of its graph."""
    write(folder / "a.frozen.pb", b"")
    assert peers.kind_of(folder, "a") == "detection"
    assert peers.kind_of(folder, "b") == "classification"


@pytest.mark.parametrize("peer", peers.PEERS)
def test_every_peer_is_there(peer):
    """Its command names a file of the benchmarks' folder and the port."""
    words = peers.command(peer, Path("bin"), 7)
    assert any("7" in word for word in words)
    names = [word.partition(":")[0].removesuffix(".py") for word in words]
    assert any((ROOT / "benchmarks" / f"{name}.py").exists() for name in names)
    assert peer in plot.PEERS


@given(st.floats(0.001, 1e7))
def test_an_axis_has_few_round_marks(highest):
    """Two to five marks reach the highest value, at 1, 2 or 5 x 10^n."""
    mark = plot.step(highest)
    assert highest / mark <= plot.TICKS * (1 + 1e-6)
    assert highest / mark > 1.9
    digits = f"{mark:.6e}".partition("e")[0]
    assert float(digits) in {1.0, 2.0, 5.0}


@pytest.mark.parametrize("draw", [plot.throughput, plot.latency])
def test_a_plot_is_well_formed(measured, draw):
    """It is SVG with a title, all lines inside its frame, and small."""
    drawn = draw(measured)
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"ModelServer", "LitServe", "clients", "1", "8"} <= set(words)
    for dot in root.iter(f"{SVG}circle"):
        assert plot.LEFT <= float(dot.get("cx")) <= plot.WIDTH - plot.RIGHT
        assert plot.TOP - 0.1 <= float(dot.get("cy")) <= plot.HEIGHT - plot.BOTTOM
    assert len(drawn) < 10_000
    assert "prefers-color-scheme: dark" in drawn


def test_a_plot_is_the_same_for_the_same_results(measured):
    """So that a commit shows a change only where there is one."""
    again = json.loads(json.dumps(measured))
    assert plot.throughput(measured) == plot.throughput(again)


def test_only_the_same_photo_is_compared_in_a_plot(measured):
    """A line of another photo would say nothing."""
    other = {**PHOTO, "name": "b.jpg"}
    measured["peers"]["rows"] = [beside(photo=other), beside(clients=1)]
    assert plot.from_peers(measured, "litserve", "per_second") == {1: 10}


def test_a_name_in_a_plot_is_text():
    """Whatever it is called, it is no markup."""
    drawn = plot.chart("a < b", [plot.Line("<b>&", {1: 1.0}, "a")])
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert "<b>&" in [text.text for text in root.iter(f"{SVG}text")]


def test_every_result_has_a_table(measured):
    """Each is Markdown whose rows are as wide as the head above them."""
    assert set(tables.WRITERS) == set(measured)
    for name, writer in tables.WRITERS.items():
        written = writer(measured[name])
        assert written.endswith("\n")
        for part in written.split("\n\n"):
            widths = {line.count("|") for line in part.splitlines()}
            assert len(widths) == 1, part


def test_the_better_peer_counts(measured):
    """The smaller of the rates' ratios, the larger of the latencies'."""
    table = tables.better(measured["peers"]["rows"])
    assert "| `net`, 1024x636, 100 kB, 8 clients | 1.40 | 0.90 |" in table


def test_a_table_is_put_between_its_marks():
    """What stands around it stays; without one place for it nothing is written."""
    text = "a\n<!-- peers -->\nold\n<!-- /peers -->\nb\n"
    assert tables.replaced(text, "peers", "new \\1\n") == text.replace("old", "new \\1")
    for wrong in ("no marks", text + text):
        with pytest.raises(ValueError, match="not one place for 'peers'"):
            tables.replaced(wrong, "peers", "new")


def test_the_document_has_a_place_for_every_table(measured):
    """The drivers can write docs/benchmarks.md, twice."""
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    for name, writer in tables.WRITERS.items():
        document = tables.replaced(document, name, writer(measured[name]))
        document = tables.replaced(document, name, writer(measured[name]))


def options(folder, *photos, **changed):
    """What the command line of ``all`` gives."""
    nothing = {"detector": None, "classifier": None, "cache": None, "quick": False}
    return argparse.Namespace(folder=folder, photos=photos, **(nothing | changed))


def test_all_measures_a_detector_and_a_classifier(folder):
    """The first photo for everything, the others beside the peers."""
    for name in ("net.frozen.pb", "cats.pb"):
        write(folder / name, b"")
    one, two = folder / "1.jpg", folder / "2.jpg"
    plan = everything.plan(options(folder, one, two))
    assert list(plan) == ["startup", "throughput", "overhead", "memory", "peers"]
    cases = [word for word in plan["peers"] if ":" in str(word)]
    assert cases == [f"net:{one}:1,8", f"net:{two}:8", f"cats:{one}:16"]
    assert plan["throughput"][:4] == [folder, one, "--model", "net"]


def test_all_does_without_a_classifier_but_not_without_a_detector(folder):
    """A folder of detectors is measured as it is."""
    with pytest.raises(SystemExit, match=r"There is no NAME\.frozen\.pb"):
        everything.plan(options(folder, folder / "1.jpg"))
    write(folder / "net.frozen.pb", b"")
    plan = everything.plan(options(folder, folder / "1.jpg", quick=True))
    assert sum(":" in str(word) for word in plan["peers"]) == 1
    assert plan["overhead"] == ["--seconds", 1, "--rounds", 1]


@pytest.mark.real
def test_a_driver_measures(folder):
    """Server and limit in turns, on a real server with a tiny model."""
    graphs.write_do_nothing(folder)
    data = graphs.photo((64, 48), 2_000)
    with (
        bench.started(folder) as server,
        closing(InProcess.load(find(folder, "detection"))) as local,
    ):
        target = bench.Target.of(server.url, "/detect", graphs.NAME, [data])
        bench.check(target)
        row = throughput.measure(target, local, data, clients=2, seconds=0.5, rounds=1)
    assert row["ratio"] > 0
    assert row["server"]["errors"] == {}
