"""The command line: ``python -m modelserver``.

What an operator does around the server, never the server itself. Importing this package
imports no TensorFlow. Each command has a module of its own.
"""

from __future__ import annotations

import click

from modelserver.cli.default_models import models
from modelserver.cli.measuring import measure


@click.group()
def main() -> None:
    """ModelServer: frozen TensorFlow graphs over HTTP."""


main.add_command(models)
main.add_command(measure)
