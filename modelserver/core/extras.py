"""The optional packages of this one, by extra, and how they are installed here."""

from __future__ import annotations

from importlib import metadata

# What brings each extra's packages where the project is used from its folder.
_FILES = {
    "cpu": "requirements-cpu.txt",
    "gpu": "requirements.txt",
    "otel": "requirements-otel.txt",
}


def install_command(extra: str) -> str:
    """Return the command line that installs an extra's packages.

    Whoever installed this package names the extra; whoever runs it from the project's
    folder has the file, and pip would not know the name.
    """
    try:
        metadata.distribution("modelserver")
    except metadata.PackageNotFoundError:
        return f"pip install -r {_FILES[extra]}"
    return f"pip install 'modelserver[{extra}]'"
