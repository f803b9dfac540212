"""Environments for client libraries of other servers, which never meet our own."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

LISTS = Path(__file__).parent / "clients"
CACHE = Path(__file__).parents[2] / ".cache" / "clients"
NO_CLIENTS = "the clients of other servers cannot be fetched"
_SECONDS = 300
_EXACTLY = ("--require-hashes", "--no-deps", "-r")


def python_with(name):
    """Return the Python of an environment that has what a list of packages names.

    It is made once for each content of the list, and skipped where there is no way to
    the packages.
    """
    listed = LISTS / f"{name}.txt"
    digest = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()
    home = CACHE / f"{name}-{digest[:12]}"
    python, done = home / "bin" / "python", home / "done"
    if done.exists():
        return python
    subprocess.run(
        [sys.executable, "-m", "venv", "--clear", home], check=True, timeout=_SECONDS
    )
    made = subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--only-binary=:all:",
            *_EXACTLY,
            listed,
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if made.returncode:
        # A wrong hash is no missing network.
        assert "HASHES" not in made.stderr, made.stderr
        pytest.skip(NO_CLIENTS)
    done.touch()
    return python
