"""A test that is skipped where every change is checked is a failure there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import skips

HOOKS = Path(skips.__file__).parent
# Other plugins take seconds to start.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("body", "ci", "code"),
    [
        ("pytest.skip('chromium is not here')", "true", 1),
        ("pytest.skip('chromium is not here')", "", 0),
        (f"pytest.skip({next(iter(skips.MAY_BE_SKIPPED))!r})", "true", 0),
        ("pass", "true", 0),
        ("pytest.xfail('a known fault')", "true", 0),
    ],
    ids=["not listed in CI", "not listed elsewhere", "listed", "run", "expected"],
)
def test_only_a_listed_reason_may_skip_a_test_in_ci(body, ci, code, tmp_path):
    """Elsewhere the run passes, and says what would fail in CI."""
    (tmp_path / "test_it.py").write_text(f"import pytest\ndef test():\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOOKS), "CI": ci, **ALONE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    named = "test_it.py::test: chromium is not here" in done.stdout
    assert named == ("chromium" in body)


@pytest.mark.process
def test_a_file_that_is_skipped_as_a_whole_fails_too(tmp_path):
    """As one that needs a package which nobody installed."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\npytest.importorskip('no_such_package')\ndef test(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOOKS), "CI": "true", **ALONE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no_such_package" in done.stdout.partition("must not be skipped")[2]
    assert done.returncode != 0
