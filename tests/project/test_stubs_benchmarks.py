"""The benchmarks in which stand-ins take the places of models and decoders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import cores
from benchmarks.support import stubs

ROOT = Path(__file__).parents[2]


def run(name, tmp_path, *options):
    """Run a driver; give what it wrote."""
    out = tmp_path / "out.json"
    words = [sys.executable, "-m", f"benchmarks.{name}", *options, "--out", str(out)]
    subprocess.run(words, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return json.loads(out.read_text())


@pytest.mark.real
def test_the_engine_alone_answers_all_but_what_it_has_no_room_for(tmp_path):
    """Every photo of the quick model is answered, every one of the busy is refused."""
    seen = run("engine_alone", tmp_path, "--seconds", "1", "--rounds", "1")
    assert seen["per_second"] > 0
    assert seen["unanswered"] == 0
    assert seen["refusals"] > 0
    assert 0 < seen["engine_us"] < 1e6


@pytest.mark.real
def test_the_server_is_measured_over_the_number_of_its_doors(tmp_path):
    """Each row says what came, how soon, and which processes took how many cores."""
    options = ("--doors", "1", "--seconds", "1", "--rounds", "1", "--run-ms", "1")
    (row,) = run("scaling", tmp_path, *options)["rows"]
    assert (row["doors"], row["ratio"], row["failed"]) == (1, 1.0, 0)
    assert row["per_second"] > 0
    assert 1 <= row["p50_ms"] <= row["p99_ms"]
    assert row["cores"].keys() == {"door", "engine", "decoder", "runner"}
    assert row["cores"]["runner"] > 0


def test_cores_are_named_by_numbers_and_ranges():
    """Without any, all are meant that this process may use."""
    assert cores("0-2,5") == {0, 1, 2, 5}
    assert cores("") == os.sched_getaffinity(0)


@pytest.mark.process
def test_a_process_that_has_a_stand_in_becomes_it():
    """Only the modules that are named do; each gets the words that it was started by."""
    with stubs.replaced(7) as more:
        environ = stubs.environ(more)
        words = [sys.executable, "-m", stubs.RUNNER, "no-number"]
        ended = subprocess.run(
            words, env=environ, capture_output=True, text=True, check=False
        )
        assert "stub_runner.py" in ended.stderr
        assert "no-number" in ended.stderr
        words = [sys.executable, "-m", stubs.DECODER, "no-number"]
        ended = subprocess.run(
            words, env=environ, capture_output=True, text=True, check=False
        )
        assert "modelserver/decoder/process.py" in ended.stderr


def test_a_process_is_pinned_with_all_its_threads():
    """Cores that are not there are left out; without any, all are allowed."""
    before = os.sched_getaffinity(0)
    first = min(before)
    stubs.pin([os.getpid()], [first, 4096])
    assert os.sched_getaffinity(0) == {first}
    os.sched_setaffinity(0, before)
    stubs.pin([os.getpid()], [4096])
    assert os.sched_getaffinity(0) == before
