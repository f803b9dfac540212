"""``modelserver bench``: measure a running server, started for it if need be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from modelserver.core.contract import CLASSIFY, DETECT
from modelserver.core.errors import ModelServerError
from modelserver.tools import bench
from modelserver.tools.cli.shared import CliError, folder_option, show_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from modelserver.core.contract import Endpoint

MAX_CLIENTS = 1024
# Wide enough that no line of a table is broken for a program that reads it.
_PIPE_WIDTH = 160
_READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_POLL_S = 0.02
_ASK_S = 5.0
_END_S = 60.0
# These would start another server than the one that is to be measured.
_LEFT_OUT = ("GUNICORN_CMD_ARGS", "GUNICORN_FD", "LISTEN_FDS", "LISTEN_PID")


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
    endpoint = CLASSIFY if classify else DETECT
    url = url or f"http://127.0.0.1:{endpoint.port}"
    # Its drawing is not to cost the server anything that counts.
    bar = show_progress(Console(stderr=True), quiet=True, refreshes=2)
    try:
        files = [bench.read_photo(photo) for photo in photos]
        with _server(url, folder, endpoint, token, start=start) as url, bar as progress:
            target = bench.Target.of(url, endpoint.route, model, files, token=token)
            bench.check(target)
            figures = bench.measure(
                target, clients, seconds=seconds, rounds=rounds, progress=progress
            )
    except ModelServerError as err:
        raise CliError(str(err)) from err
    if as_json:
        names = [str(photo) for photo in photos]
        facts = {"url": url, "model": model, "photos": names, "seconds": seconds}
        results = {**facts, "rounds": rounds, "results": figures}
        click.echo(msgspec.json.format(msgspec.json.encode(results)))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        console.print(table(figures, f"{model} at {url}, times in ms"))
    ctx.exit(0 if all(row.answers and not row.errors for row in figures) else 1)


@contextmanager
def _server(
    url: str, folder: Path, endpoint: Endpoint, token: str, *, start: bool
) -> Iterator[str]:
    """Yield the URL of a server: one that is started now, if asked and none answers."""
    if not start or bench.is_listening(url):
        yield url
        return
    environ = {"API_TOKEN": token} if token else None
    with start_server(folder, endpoint, environ=environ) as server:
        yield server.url


@dataclass(frozen=True)
class Started:
    """A started server.

    Attributes:
        url: where it listens, on loopback.
        pid: of gunicorn's arbiter, which all other processes descend from.
    """

    url: str
    pid: int


@contextmanager
def start_server(
    folder: Path,
    endpoint: Endpoint = DETECT,
    *,
    environ: Mapping[str, str] | None = None,
    wait_s: float = 180.0,
) -> Iterator[Started]:
    """Start a server on a free port of loopback and end it afterwards.

    Args:
        folder: with its models.
        endpoint: of the task that it serves.
        environ: more settings, on top of this process's environment.
        wait_s: how long its models may load.

    Yields:
        The server, once no model of it loads any more; one may have failed.

    Raises:
        BenchError: it does not start; with the last line of its log.
    """
    port = bench.free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelserver-bench-") as uploads,
        tempfile.TemporaryFile() as log,
    ):
        settings = {k: v for k, v in os.environ.items() if k not in _LEFT_OUT}
        settings |= {"UPLOAD_FOLDER": uploads, **(environ or {})}
        settings |= {"HOST": "127.0.0.1", "PORT": str(port)}
        settings |= {"MODEL_FOLDER": str(folder)}
        process = subprocess.Popen(
            [sys.executable, "-m", "modelserver", "serve", endpoint.word],
            env=settings,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            if not _wait_until_loaded(process, port, wait_s):
                log.seek(0)
                raise bench.BenchError(
                    f"The server does not start: {_last_line(log.read())}"
                )
            yield Started(f"http://127.0.0.1:{port}", process.pid)
        finally:
            _end(process)


def _wait_until_loaded(
    process: subprocess.Popen[bytes], port: int, wait_s: float
) -> bool:
    """Wait until no model loads; false if the process ends or it takes too long."""
    end = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < end:
        states = _states(port)
        if states is not None and "LOADING" not in states.values():
            return True
        time.sleep(_POLL_S)
    return False


def _states(port: int) -> dict[str, Any] | None:
    """Return each model's state; ``None`` while the server does not answer."""
    target = bench.Target("127.0.0.1", port, timeout_s=_ASK_S)
    with closing(bench.Connection(target)) as connection:
        try:
            return dict(json.loads(connection.ask(_READY).body)["models"])
        except (bench.BenchError, OSError, ValueError, KeyError, TypeError):
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: bytes) -> str:
    lines = [line for line in log.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it did not get ready in time, and said nothing."


def table(figures: Iterable[bench.Figures], title: str) -> Table:
    """Return a table with a row for each number of clients, times in milliseconds.

    The stages are the server's own medians: of one request of many, so they do not add
    up to the latency, which has the network and the HTTP too.
    """
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name in ("clients", "answers/s", "p50", "p90", "p99", *bench.STAGES):
        made.add_column(name, justify="right")
    made.add_column("errors")
    for row in figures:
        errors = ", ".join(f"{count} x {kind}" for kind, count in row.errors.items())
        if not row.answers and not errors:
            errors = "no answer in time"
        made.add_row(
            str(row.clients),
            f"{row.per_second:.1f}",
            *map(_ms, (row.p50_ms, row.p90_ms, row.p99_ms)),
            *(_ms(row.stages.get(stage)) for stage in bench.STAGES),
            errors,
            style="red" if errors else None,
        )
    return made


def _ms(value: float | None) -> str:
    """Format milliseconds: a tenth counts below ten only."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"  # noqa: PLR2004 - said above
