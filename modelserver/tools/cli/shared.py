"""Shared parts of the commands: the folder's option, errors, progress."""

from __future__ import annotations

import logging
import os
import sys
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

    from modelserver.tools.zoo.installation import Progress as Report

# A photo that `models install --samples` writes, used if it is there.
SAMPLE = Path("samples/astronaut.png")

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MODEL_FOLDER",
    default=Path("models"),
    show_default="MODEL_FOLDER, else ./models",
    help="Where the models are.",
)


class CliError(click.ClickException):
    """An error of ours on the command line: one sentence on stderr, exit code 1."""


@contextmanager
def show_progress(
    console: Console, *, quiet: bool = False, refreshes: int = 10
) -> Iterator[Report]:
    """Yield a function that shows progress: a bar on a terminal, or plain lines.

    Args:
        quiet: show nothing if there is no terminal.
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
                # The last step stays on the screen; the bar goes.
                bar.console.print(step, highlight=False, markup=False)

        yield report


@contextmanager
def quiet_tensorflow(*, warnings: bool = False) -> Iterator[None]:
    """Keep TensorFlow off the GPU, which may be full, and off the terminal.

    Its libraries write to the descriptor itself. Errors are ours, and our modules'
    warnings are in a command's report.

    Args:
        warnings: let TensorFlow say why it uses no card; models' processes that have
            one write to a pipe that is read.
    """
    words = "1" if warnings else "3"
    environ = {"TF_CPP_MIN_LOG_LEVEL": words, "CUDA_VISIBLE_DEVICES": "-1"}
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    loggers = [logging.getLogger(name) for name in ("tensorflow", "modelserver")]
    levels = [logger.level for logger in loggers]
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
