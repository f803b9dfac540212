"""The command line: ``python -m modelserver``.

What an operator does around the server, never the server itself. Importing this module
imports no TensorFlow.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from modelserver import bench, zoo
from modelserver.errors import ModelServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelserver.signatures import Kind
    from modelserver.zoo.installation import Progress as Report

SAMPLES_FOLDER = Path("samples")
MAX_CLIENTS = 1024
# No line of a table is to be broken for a program that reads it.
_PIPE_WIDTH = 160

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


class Counts(click.ParamType[list[int]]):
    """Some numbers of clients: ``1,8,32``."""

    name = "counts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Convert, or fail with a sentence."""
        try:
            counts = [int(word) for word in str(value).split(",")]
        except ValueError:
            counts = []
        if not counts or not all(1 <= count <= MAX_CLIENTS for count in counts):
            self.fail(
                f"{value!r} are no numbers of clients from 1 to {MAX_CLIENTS},"
                " such as 1,8,32.",
                param,
                ctx,
            )
        return counts


@main.command("bench")
@click.option("--model", required=True, help="The model's name, as in /models.")
@click.option(
    "--image",
    "photos",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="The photo to send; given again, the photos are sent in turn.",
)
@click.option(
    "--url", help="Of the server; http://127.0.0.1:5000, with --classify :5432."
)
@click.option("--classify", is_flag=True, help="The model is a classifier.")
@click.option(
    "--clients",
    type=Counts(),
    default="1,2,4,8,16",
    show_default=True,
    help="Numbers of clients to measure, each waiting for its answers.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="How long each round is.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds to take the medians of.",
)
@click.option("--token", envvar="API_TOKEN", default="", help="Or from API_TOKEN.")
@click.option("--start", is_flag=True, help="Start a server if none answers.")
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def measure(
    ctx: click.Context,
    *,
    model: str,
    photos: Sequence[Path],
    url: str | None,
    clients: Sequence[int],
    seconds: float,
    rounds: int,
    token: str,
    folder: Path,
    classify: bool,
    start: bool,
    as_json: bool,
) -> None:
    """Measure a running server: answers a second and latency, by number of clients.

    Exits with 1 when any answer was not a 200.
    """
    kind: Kind = "classification" if classify else "detection"
    url = url or f"http://127.0.0.1:{5432 if classify else 5000}"
    path = bench.PATHS[kind]
    # Its drawing is not to cost the server anything that counts.
    bar = reporting(Console(stderr=True), quiet=True, refreshes=2)
    try:
        files = [bench.read_photo(photo) for photo in photos]
        with serving(url, folder, kind, token, start=start) as url, bar as progress:
            target = bench.Target.of(url, path, model, files, token=token)
            bench.check(target)
            figures = bench.measure(
                target, clients, seconds=seconds, rounds=rounds, progress=progress
            )
    except ModelServerError as err:
        raise Sentence(str(err)) from err
    if as_json:
        names = [str(photo) for photo in photos]
        facts = {"url": url, "model": model, "photos": names, "seconds": seconds}
        results = {**facts, "rounds": rounds, "results": figures}
        click.echo(msgspec.json.format(msgspec.json.encode(results)))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        console.print(bench.table(figures, f"{model} at {url}, times in ms"))
    ctx.exit(0 if all(one.answers and not one.errors for one in figures) else 1)


@contextmanager
def serving(
    url: str, folder: Path, kind: Kind, token: str, *, start: bool
) -> Iterator[str]:
    """Give the URL of a server: one that is started now, if asked and none answers."""
    if not start or bench.listening(url):
        yield url
        return
    environ = {"API_TOKEN": token} if token else None
    with bench.started(folder, kind, environ=environ) as server:
        yield server.url


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
