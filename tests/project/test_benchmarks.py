"""What the benchmarks' drivers share, and the one that measures a server."""

import io
import json
import os
import subprocess
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import throughput
from benchmarks.support import inputs, results, servers
from benchmarks.support.results import find
from benchmarks.throughput import InProcess
from modelserver.tools import bench
from support import tiny_graphs
from support.tiny_graphs import write

ROOT = Path(__file__).parents[2]
DRIVERS = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} | {
    "gpu_proof"
}


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_every_driver_is_run_the_same_way(name):
    """And says how."""
    words = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert b"--out" in done.stdout


def test_every_driver_is_listed():
    """With the folder that it is in."""
    import benchmarks

    assert all(f"\n{name} " in benchmarks.__doc__ for name in DRIVERS)


def test_results_are_json(tmp_path, capsys):
    """In a file, or on stdout where none is named."""
    results.write({"a": 1}, tmp_path / "out.json")
    results.write({"a": 1}, None)
    for text in ((tmp_path / "out.json").read_text(), capsys.readouterr().out):
        written = json.loads(text)
        assert written["a"] == 1
        assert written["machine"]["cores"] >= 1
    with pytest.raises(SystemExit, match="a server died"):
        results.write({"broken": ["a server died"]}, tmp_path / "out.json")


def test_a_photo_made_by_code_is_always_the_same():
    """A JPEG of the size and about the bytes asked for, which compresses as photos do."""
    file = inputs.photo()
    assert file == inputs.photo()
    assert abs(len(file) - 100_000) < 5_000
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size) == ("JPEG", (1024, 636))


def test_the_graph_that_does_nothing_is_served(folder):
    """In this process, by the server's own decoder and session."""
    inputs.write_do_nothing(folder)
    files = find(folder, "detection")
    assert files.name == inputs.NAME
    with closing(InProcess(files)) as local:
        seen = local.run(inputs.photo((64, 48)), 2, 0.05)
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


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_found_and_weighed():
    """A process that this one started is among its children; an ended one has nothing."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.pid in servers.children(os.getpid())
        assert servers.memory_mb(child.pid)["Rss"] > 0
        child.communicate(b"\n")
    assert servers.memory_mb(child.pid) == {"Rss": 0, "Pss": 0}


@pytest.mark.real
def test_a_server_that_does_not_start_ends_the_driver(folder):
    """With what it said."""
    with (
        pytest.raises(SystemExit, match="THREADS"),
        servers.started(folder, environ={"THREADS": "many"}),
    ):
        pytest.fail("it started")


@pytest.mark.real
def test_a_driver_measures(folder):
    """Server and limit in turns, on a real server with a tiny model."""
    inputs.write_do_nothing(folder)
    data = inputs.photo((64, 48))
    with (
        servers.started(folder) as server,
        closing(InProcess(find(folder, "detection"))) as local,
    ):
        target = bench.Target.of(server.url, "/detect", inputs.NAME, [data])
        bench.check(target)
        load = Namespace(clients=2, seconds=0.5, rounds=1)
        row = throughput.measure(server, target, local, data, load)
        with pytest.raises(SystemExit, match="make --seconds longer"):
            throughput.measure(
                server,
                target,
                local,
                data,
                Namespace(clients=2, seconds=1e-6, rounds=1),
            )
    assert row["share"] > 0
    assert row["cpu_ms"] > 0
    assert row["server"]["errors"] == {}
