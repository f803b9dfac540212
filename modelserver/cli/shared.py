"""What several commands share: the folder, one-sentence errors, progress."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from modelserver.zoo.installation import Progress as Report

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


@contextmanager
def reporting(
    console: Console, *, quiet: bool = False, refreshes: int = 10
) -> Iterator[Report]:
    """Give a function that shows progress: a bar on a terminal, else plain lines.

    Args:
        quiet: show nothing where there is no terminal.
        refreshes: of the bar, a second.
    """
    if not console.is_terminal:
        yield lambda _done, _total, step: None if quiet else click.echo(step)
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(), text, TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=refreshes
    ) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, step: str) -> None:
            bar.update(task, completed=done, total=total, description=step)
            if done == total:
                # What is finished stays on the screen; the bar goes on.
                bar.console.print(step, highlight=False, markup=False)

        yield report
