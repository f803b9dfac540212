"""``python -m modelserver bench``: how fast a running server is."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console

from modelserver.core.errors import ModelServerError
from modelserver.tools import bench
from modelserver.tools.cli.shared import Sentence, folder_option, reporting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelserver.core.signatures import Kind

MAX_CLIENTS = 1024
# No line of a table is to be broken for a program that reads it.
_PIPE_WIDTH = 160


def _counts(_ctx: click.Context, _param: click.Parameter, value: str) -> list[int]:
    """Convert some numbers of clients, ``1,8,32``, or fail with a sentence."""
    try:
        counts = [int(word) for word in value.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= MAX_CLIENTS for count in counts):
        raise click.BadParameter(
            f"{value!r} are no numbers of clients from 1 to {MAX_CLIENTS},"
            " such as 1,8,32."
        )
    return counts


@click.command("bench")
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
    metavar="COUNTS",
    callback=_counts,
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
