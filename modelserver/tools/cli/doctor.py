"""``modelserver inspect``, ``check`` and ``doctor``: models and this machine."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from modelserver.core import logs
from modelserver.core.errors import ModelServerError
from modelserver.core.settings import Settings
from modelserver.engine.runners import cards
from modelserver.engine.runners.cards import NO_CARDS
from modelserver.tasks import TASKS
from modelserver.tools import doctor
from modelserver.tools.cli.shared import (
    SAMPLE,
    CliError,
    quiet_tensorflow,
    show_progress,
)
from modelserver.tools.doctor.gpu import gpu_lines, gpu_report
from modelserver.tools.doctor.reports import Photo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.table import Table

    from modelserver.engine.runners.cards import Survey
    from modelserver.tasks import Task
    from modelserver.tools.doctor import FolderReport, ModelTries
    from modelserver.tools.zoo.installation import Progress

# Wide enough that no line of a table is broken for a program that reads it.
_PIPE_WIDTH = 200

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("inspect")
@click.argument("graph", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice([*TASKS]),
    help="Which task it is to do; told by its name otherwise.",
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="To show as the model is fed it; with --out.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write that picture, a PNG.",
)
@_json
@click.pass_context
def inspect_graph(
    ctx: click.Context,
    *,
    graph: Path,
    kind: str | None,
    photo: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Tell what the frozen GRAPH takes and gives, and what was guessed.

    It is read, with the sidecar beside it, and not run. Exits with 1 when it cannot be
    served. With --photo and --out it is loaded, and the photo written as it is fed.
    """
    if (photo is None) != (out is None):
        raise click.UsageError("--photo and --out go together")
    try:
        if photo is not None and out is not None:
            _show_input(graph, TASKS.get(kind or ""), photo, out)
            return
        with quiet_tensorflow():
            # It must not come into the process of any other command.
            from modelserver.tools.doctor.inspection import inspect  # noqa: PLC0415

            report = inspect(graph, TASKS.get(kind or ""))
    except ModelServerError as err:
        raise CliError(str(err)) from err
    _show(report, doctor.graph_tables(report), as_json=as_json)
    ctx.exit(1 if report.error else 0)


@click.command("check")
@click.argument(
    "folder", type=click.Path(file_okay=False, path_type=Path), required=False
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="To run the models on; golden images, a sample or noise otherwise.",
)
@click.option(
    "--label",
    help="What the photo shows: which scaling of the pixels sees it is tried.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option("--gpu", is_flag=True, help="Run them on a GPU; on the CPU otherwise.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Look again at what has not changed since it was checked.",
)
@click.option("--all", "full", is_flag=True, help="Show every model and every note.")
@_json
@click.pass_context
def check_folder(
    ctx: click.Context,
    *,
    folder: Path | None,
    photo: Path | None,
    label: str | None,
    strict: bool,
    gpu: bool,
    fresh: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Load and run every model in FOLDER (MODEL_FOLDER, else ./models).

    The server's own settings hold, and with --gpu its choice of cards. Exits with 1
    when a finding keeps a model from serving. A result is kept in your cache folder
    until a file of the model, a setting or a version changes.

    With --photo and --label, every model that knows the label is run under every
    scaling, and the sidecar that says each is printed. Exits with 1 when none sees it.
    """
    if label is not None and (photo is None or gpu):
        raise click.UsageError("--label needs the --photo of it, and is not for --gpu")
    try:
        settings = Settings.from_environ(os.environ)
        if folder is not None:
            settings = replace(settings, model_folder=folder)
        settings = replace(settings, require_gpu=gpu)
        given = _photo(photo)
        if given is not None and label is not None:
            with _progress() as report_progress:
                tries = doctor.try_scalings(settings, given, label, report_progress)
            ctx.exit(_show_tries(tries, settings, as_json=as_json))
        report = _check(settings, given, gpu=gpu, fresh=fresh)
    except ModelServerError as err:
        raise CliError(str(err)) from err
    if as_json:
        _print_json(report)
    else:
        for line in doctor.folder_lines(report, full=full):
            _print_line(line)
    failing = {"error", "warning"} if strict else {"error"}
    ctx.exit(any(finding.level in failing for finding in report.findings))


def _check(
    settings: Settings, photo: Photo | None, *, gpu: bool, fresh: bool
) -> FolderReport:
    """Check a folder, on its cards or without any."""
    survey = _cards() if gpu else NO_CARDS
    sample = _photo(SAMPLE if SAMPLE.is_file() else None)
    with _progress(warnings=gpu) as report:
        kept = doctor.KeptChecks(doctor.cache_folder(), settings, survey, fresh=fresh)
        return doctor.check_folder(
            settings, photo, sample, report, survey=survey, kept=kept
        )


@contextmanager
def _progress(*, warnings: bool = False) -> Iterator[Progress]:
    """Yield what shows progress, with TensorFlow quiet."""
    with (
        show_progress(Console(), quiet=True) as report,
        quiet_tensorflow(warnings=warnings),
    ):
        yield report


def _show_tries(
    tries: Sequence[ModelTries], settings: Settings, *, as_json: bool
) -> int:
    """Print the models' answers under every scaling; return the exit code."""
    if not tries:
        raise CliError(f"no model in {settings.model_folder} knows that label")
    _show(tries, doctor.tries_tables(tries), as_json=as_json)
    return 0 if any(trial.sees for model in tries for trial in model.tries) else 1


def _cards() -> Survey:
    """Return the cards to check models on.

    Raises:
        CliError: there is none.
    """
    survey = cards.survey()
    if not survey.cards:
        why = survey.no_gpu or "No GPU is seen here, or none is to be used."
        raise CliError(f"{why} python -m modelserver doctor gpu tells more.")
    return survey


def _show_input(graph: Path, task: Task[Any] | None, photo: Path, out: Path) -> None:
    """Write a photo as a model takes it."""
    with quiet_tensorflow():
        # It must not come into the process of any other command.
        from modelserver.tools.doctor.inspection import draw_input  # noqa: PLC0415

        settings = Settings.from_environ(os.environ)
        given = Photo(photo.name, photo.read_bytes())
        picture, sentence = draw_input(graph, task, settings, given)
    out.write_bytes(picture)
    click.echo(f"wrote {out}: {sentence}")


def _photo(path: Path | None) -> Photo | None:
    """Read a photo, if there is one."""
    return Photo(path.name, path.read_bytes()) if path else None


def _show(report: Any, tables: Iterable[Table], *, as_json: bool) -> None:
    """Print a report for people or for programs."""
    if as_json:
        _print_json(report)
        return
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    for table in tables:
        console.print(table)


def _print_json(report: Any) -> None:
    """Print a report for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(report)))


def _print_line(line: str) -> None:
    """Print a line of a report: never wrapped, so that what it names can be copied."""
    word = line.partition(" ")[0]
    colour = {"error": "red", "warning": "yellow", "notes:": "bright_black"}.get(word)
    click.secho(logs.escape(line), fg=colour)


@click.group("doctor")
def doctor_group() -> None:
    """Tell what is wrong with this machine; 'check' and 'inspect' are for models."""


@doctor_group.command("gpu")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_gpu(ctx: click.Context, *, as_json: bool) -> None:
    """Tell what the NVIDIA driver and TensorFlow see, and what is missing.

    TensorFlow is asked in a process of its own, some ten seconds a card. Exits with 1
    where it uses none.
    """
    report = gpu_report()
    if as_json:
        _print_json(report)
    else:
        for line in gpu_lines(report):
            click.echo(line)
    ctx.exit(0 if report.ok else 1)
