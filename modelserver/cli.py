"""The command line: ``python -m modelserver``.

What an operator does around the server, never the server itself. Importing this module
imports no TensorFlow.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from modelserver import zoo
from modelserver.errors import ModelServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelserver.zoo.installation import Progress as Report

SAMPLES_FOLDER = Path("samples")

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MODEL_FOLDER",
    default=Path("models"),
    show_default="MODEL_FOLDER, else ./models",
    help="Where the models are.",
)


class Sentence(click.ClickException):
    """An error of ours on the command line: one sentence on stderr, exit code 1."""


@click.group()
def main() -> None:
    """ModelServer: frozen TensorFlow graphs over HTTP."""


@main.group()
def models() -> None:
    """List and install the default models."""


@models.command("list")
@folder_option
def list_models(folder: Path) -> None:
    """List the default models and whether they are in the folder."""
    for name in zoo.names():
        state = "installed" if zoo.is_installed(name, folder) else "not installed"
        click.echo(f"{name:28}{zoo.kind(name):16}{state}")


@models.command("install")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@folder_option
@click.option("--samples", is_flag=True, help="Sample photos too, into ./samples.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the downloaded packages in this folder.",
)
def install_models(
    names: Sequence[str], folder: Path, cache: Path | None, *, samples: bool
) -> None:
    """Install default models by NAME; without one, or with 'all', every one."""
    chosen = zoo.names() if not names or "all" in names else names
    try:
        with reporting(Console()) as report:
            for name in chosen:
                zoo.install(name, folder, cache=cache, progress=report)
            if samples:
                zoo.install_samples(SAMPLES_FOLDER, cache=cache, progress=report)
    except ModelServerError as err:
        raise Sentence(str(err)) from err


@contextmanager
def reporting(console: Console) -> Iterator[Report]:
    """Give a function that shows progress: a bar on a terminal, else plain lines."""
    if not console.is_terminal:
        yield lambda _done, _total, step: click.echo(step)
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, step: str) -> None:
            bar.update(task, completed=done, total=total, description=step)
            if done == total:
                # What is finished stays on the screen; the bar goes on.
                bar.console.print(step, highlight=False, markup=False)

        yield report
