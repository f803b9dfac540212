"""How this package is used here: installed by pip, or from the project's folder.

Messages name commands and packages as they are there: a wheel has no requirements files
and no ``app.py``, and pip does not know the extras of a folder.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

# Each extra's file, for those who use the project from its folder.
_FILES = {
    "cpu": "requirements-cpu.txt",
    "gpu": "requirements.txt",
    "grpc": "requirements-grpc.txt",
    "otel": "requirements-otel.txt",
}


def is_installed() -> bool:
    """Return whether pip installed this package."""
    try:
        metadata.distribution("modelserver")
    except metadata.PackageNotFoundError:
        return False
    return True


def packages(extra: str) -> str:
    """Return the name of an extra's packages: the extra, or the requirements file."""
    return f"'modelserver[{extra}]'" if is_installed() else _FILES[extra]


def install_command(extra: str) -> str:
    """Return the command line that installs an extra's packages."""
    return f"pip install {'' if is_installed() else '-r '}{packages(extra)}"


def made_python(root: Path = Path(__file__).parents[2]) -> str:
    """Return the Python of the project's own environment, which has all packages.

    Empty if that is the one that runs, or if there is none.
    """
    environment = root / ".venv"
    python = environment / "bin" / "python"
    if not python.is_file() or Path(sys.prefix).resolve() == environment.resolve():
        return ""
    return str(python.relative_to(Path.cwd()) if root == Path.cwd() else python)


def serve_command(word: str, app: str) -> str:
    """Return the command line that serves a task.

    Args:
        word: the task's, as ``modelserver serve`` takes it.
        app: the task's file in the project's folder.
    """
    return f"modelserver serve {word}" if is_installed() else f"python {app}"
