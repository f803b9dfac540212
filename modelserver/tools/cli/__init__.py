"""The command line: ``modelserver``, or ``python -m modelserver``.

Importing this package imports click alone: each command has a module of its own, which
is imported when the command is asked for, and may need packages that are not there.
"""

from __future__ import annotations

import click

from modelserver import __version__
from modelserver.tools.cli.commands import Commands


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="modelserver")
def main() -> None:
    """ModelServer: frozen TensorFlow graphs over HTTP."""
