"""The command line: ``python -m modelserver``.

What an operator does around the server, never the server itself. Importing this package
imports no TensorFlow. Each command has a module of its own.
"""

from __future__ import annotations

import click

from modelserver.cli.default_models import models
from modelserver.cli.doctoring import doctor_group
from modelserver.cli.importing import convert_labels, import_model
from modelserver.cli.inspecting import check_folder, inspect_graph
from modelserver.cli.measuring import measure
from modelserver.cli.predicting import predict


@click.group()
def main() -> None:
    """ModelServer: frozen TensorFlow graphs over HTTP."""


main.add_command(models)
main.add_command(measure)
main.add_command(predict)
main.add_command(import_model)
main.add_command(convert_labels)
main.add_command(inspect_graph)
main.add_command(check_folder)
main.add_command(doctor_group)
