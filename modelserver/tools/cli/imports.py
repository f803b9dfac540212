"""``modelserver import`` and ``labels``: import a model, convert its labels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from modelserver.core.errors import ModelServerError
from modelserver.core.findings import other_scaling
from modelserver.tasks import TASKS
from modelserver.tools.cli.shared import (
    SAMPLE,
    CliError,
    folder_option,
    quiet_tensorflow,
    show_progress,
)
from modelserver.tools.importing import model_files
from modelserver.tools.importing.model_files import ROLES, SCALINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


class Output(click.ParamType[tuple[str, str]]):
    """A role and the model's own name of an output: ``boxes=output_1``."""

    name = "role=output"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Convert, or fail with a sentence."""
        role, sign, output = str(value).partition("=")
        if not sign or not output or role not in ROLES:
            self.fail(
                f"{value!r} is not ROLE=OUTPUT with a role of {', '.join(ROLES)}.",
                param,
                ctx,
            )
        return role, output


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name, as clients send it.")
@folder_option
@click.option("--labels", type=_file, help="Class names: .pbtxt, .txt or .json.")
@click.option(
    "--kind",
    type=click.Choice([*TASKS]),
    help="Which task it does; told by its outputs otherwise.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    type=Output(),
    help="Which of the model's outputs plays a role, where its name does not tell.",
)
@click.option(
    "--scaling",
    type=click.Choice(list(SCALINGS)),
    help="How it wants its pixels, for the sidecar; told by the graph otherwise.",
)
@click.option("--signature", help="Of a SavedModel; serving_default otherwise.")
@click.option("--first-id", type=click.IntRange(0), help="Of labels without numbers.")
@click.option(
    "--photo", type=_file, help=f"To compare on; {SAMPLE} otherwise, if it is there."
)
@click.option("--force", is_flag=True, help="Overwrite a model of that name.")
@click.pass_context
def import_model(
    ctx: click.Context,
    /,
    *,
    source: Path,
    name: str,
    folder: Path,
    outputs: Sequence[tuple[str, str]],
    photo: Path | None,
    **facts: Any,
) -> None:
    """Turn the model at SOURCE into a frozen graph that this server runs.

    SOURCE is a SavedModel's folder, a Keras file (.keras, .h5), a TensorFlow.js model
    (its folder or its model.json), a frozen graph in text form (.pbtxt), or a .zip of
    one of these, as Teachable Machine hands it out. Nothing is written unless the graph
    answers as the original does.
    """
    if photo is None and SAMPLE.is_file():
        photo = SAMPLE
    try:
        model_files.refuse_missing(source)
        with show_progress(Console()) as report, quiet_tensorflow():
            report(0, 1, "starting TensorFlow")
            # It must not come into the process of any other command.
            from modelserver.tools.importing import importer  # noqa: PLC0415

            options = importer.ImportOptions(
                outputs=dict(outputs),
                photo=photo.read_bytes() if photo else None,
                **facts,
            )
            made = importer.import_model(source, name, folder, options, report)
    except ModelServerError as err:
        raise CliError(str(err)) from err
    for note in made.notes:
        click.echo(f"note: {note}")
        if scaling := other_scaling(note):
            again = _command(ctx, scaling=scaling, force=True)
            click.echo(f"  if it was trained otherwise: {again}")
    click.echo(f"wrote {', '.join(str(path) for path in made.paths)}")


def _command(ctx: click.Context, **changes: Any) -> str:
    """Return the command line of a context with some other options, to be copied."""
    words = ["python", "-m", "modelserver", str(ctx.info_name)]
    given = {**ctx.params, **changes}
    for parameter in ctx.command.params:
        value = given[str(parameter.name)]
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(value, bool):
            words += parameter.opts[:value]
        elif parameter.multiple:
            for each in value:
                words += [parameter.opts[0], "=".join(each)]
        elif value not in (None, parameter.default):
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)


@click.command("labels")
@click.argument("source", type=_file)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--first-id",
    type=click.IntRange(0),
    help="Of a file without numbers; 1 for NAME.label_map.pbtxt, else 0.",
)
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
def convert_labels(
    *, source: Path, target: Path, first_id: int | None, force: bool
) -> None:
    """Write the class names in SOURCE (.txt, .json, .pbtxt) to TARGET as a label map.

    A detector's ids are counted from 1, a classifier's from 0, as TARGET's name says.
    """
    try:
        names = model_files.write_label_map(source, target, first_id, force=force)
    except ModelServerError as err:
        raise CliError(str(err)) from err
    click.echo(
        f"wrote {target}: {len(names)} classes, ids {min(names)} to {max(names)}"
    )
