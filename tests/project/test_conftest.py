"""What every test can rely on, whatever the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# A driver with two cards, as nvidia-ml-py would show it.
DRIVER = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
def nvmlDeviceGetName(handle): return "NVIDIA L4"
def nvmlDeviceGetMigMode(handle): raise NVMLError
"""
COUNTS = (
    "from modelserver.engine.runners.cards import survey; print(len(survey().cards))"
)


def cards(code, tmp_path):
    """How many cards our code sees on a machine that has two."""
    (tmp_path / "pynvml.py").write_text(DRIVER)
    path = os.pathsep.join(map(str, [tmp_path, TESTS, TESTS.parent]))
    environ = {**os.environ, "PYTHONPATH": path, "REQUIRE_GPU": "true"}
    del environ["CUDA_VISIBLE_DEVICES"]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, check=True
    )
    return int(done.stdout)


@pytest.mark.process
def test_the_tests_see_no_gpu(tmp_path):
    """On a box with cards they expect what they expect on any other."""
    assert cards(COUNTS, tmp_path) == 2
    assert cards(f"import conftest\n{COUNTS}", tmp_path) == 0


def test_what_tests_start_sees_none_either():
    """Servers and runners inherit it."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "REQUIRE_GPU" not in os.environ
