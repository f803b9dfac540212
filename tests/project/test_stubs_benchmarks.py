"""The benchmarks in which stand-ins take the places of models and decoders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
