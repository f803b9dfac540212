"""The optional packages of this one, by extra, and how they are installed here."""

from __future__ import annotations

from importlib import metadata

# Each extra's file, for those who use the project from its folder.
_FILES = {
    "cpu": "requirements-cpu.txt",
    "gpu": "requirements.txt",
    "otel": "requirements-otel.txt",
}


def install_command(extra: str) -> str:
    """Return the command line that installs an extra's packages.

    For an installed package that is the extra's name; in the project's folder it is a
    file, as pip would not know the name.
    """
    try:
        metadata.distribution("modelserver")
    except metadata.PackageNotFoundError:
        return f"pip install -r {_FILES[extra]}"
    return f"pip install 'modelserver[{extra}]'"
