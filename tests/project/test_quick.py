"""The quick part of the tests starts no process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import quick

pytestmark = pytest.mark.process

SUPPORT = Path(quick.__file__).parent
STARTS = "import subprocess\nsubprocess.run(['true'], check=True)"


@pytest.mark.parametrize(
    ("body", "asked", "status"),
    [
        (STARTS, True, 1),
        (STARTS, False, 0),
        ("pass", True, 0),
    ],
    ids=["quick, with a process", "all, with a process", "quick, without"],
)
def test_a_quick_test_that_starts_a_process_fails(tmp_path, body, asked, status):
    """The failure names the mark that it lacks; without --quick the test passes."""
    body = body.replace("\n", "\n    ")
    (tmp_path / "test_it.py").write_text(f"def test():\n    {body}\n")
    (tmp_path / "conftest.py").write_text(
        "from quick import pytest_configure, pytest_runtest_protocol\n"
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--quick', action='store_true')\n"
    )
    words = ["--quick"] if asked else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert ("pytest.mark.process" in done.stdout) == bool(status)
