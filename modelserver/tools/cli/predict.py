"""``modelserver predict``: a running server's answers for photos."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from modelserver.client import folders
from modelserver.client.errors import ClientError
from modelserver.client.folders import Client
from modelserver.client.writers import Format, writer
from modelserver.core.contract import CLASSIFY, DETECT
from modelserver.tools.cli.shared import CliError

if TYPE_CHECKING:
    from collections.abc import Generator

    from modelserver.client.folders import Outcome

_MAX_WORKERS = 256
# Some seconds: a person at a command line wants to know soon that nobody answers.
_RETRIES = 5


@click.command("predict")
@click.argument(
    "photos",
    nargs=-1,
    required=True,
    metavar="PHOTOS...",
    type=click.Path(path_type=Path),
)
@click.option("--model", required=True, help="The model's name, as in /models.")
@click.option(
    "--url", help="Of the server; http://127.0.0.1:5000, with --classify :5432."
)
@click.option("--classify", is_flag=True, help="The model is a classifier.")
@click.option("--token", envvar="API_TOKEN", default="", help="Or from API_TOKEN.")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="jsonl",
    show_default=True,
    help="JSON lines, CSV, or COCO's JSON with boxes in pixels.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    default="-",
    help="A file instead of stdout; one that is there is replaced.",
)
@click.option("--recursive", is_flag=True, help="Take folders within folders, too.")
@click.option(
    "--workers",
    type=click.IntRange(1, _MAX_WORKERS),
    default=folders.WORKERS,
    show_default=True,
    help="Photos on their way at a time.",
)
@click.option("--min-confidence", type=float, help="0..1; the server's by default.")
@click.option("--labels", help="Only these, between commas.")
@click.option("--max-results", type=int, help="The best so many of each photo.")
@click.option(
    "--coordinates",
    type=click.Choice(["normalized", "pixel"]),
    help="What boxes are in; 0..1 by default.",
)
@click.option("--top-k", type=int, help="With --classify: so many classes.")
@click.option("--gpu", is_flag=True, help="Only if the server runs it on a GPU.")
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    *,
    photos: tuple[Path, ...],
    model: str,
    url: str | None,
    token: str,
    form: Format,
    output: str,
    workers: int,
    classify: bool,
    recursive: bool,
    gpu: bool,
    **values: Any,
) -> None:
    """Write what a running server finds in PHOTOS, which are files and folders.

    A photo that fails is in the output with its error, and the others go on; the exit
    code is 1 then.
    """
    if classify and form == "coco":
        raise click.UsageError("COCO is for boxes, which classifiers have none of.")
    options = _options(values, classify=classify)
    url = url or f"http://127.0.0.1:{(CLASSIFY if classify else DETECT).port}"
    try:
        with Client(url, token or None, retries=_RETRIES) as client:
            if gpu:
                kind = "classification" if classify else "detection"
                _require_gpu(client, model, kind)
            many = client.classify_folder if classify else client.detect_folder
            outcomes = many(
                photos[0] if len(photos) == 1 else photos,
                model,
                workers=workers,
                recursive=recursive,
                # On one terminal, the results are the progress.
                progress=not (output == "-" and sys.stdout.isatty()),
                **options,
            )
            failed = _write(outcomes, form, output)
    except ClientError as error:
        raise CliError(str(error)) from error
    ctx.exit(1 if failed else 0)


def _require_gpu(client: Client, model: str, kind: str) -> None:
    """Refuse a model that is run on the CPU.

    Raises:
        CliError: it is, or it is not there.
    """
    devices = {(m.kind, m.name): m.facts.get("device") for m in client.models()}
    device = devices.get((kind, model))
    if not str(device).startswith("GPU"):
        where = f"on {device}" if device else "nowhere"
        raise CliError(
            f"The server runs {model} {where}, and --gpu was asked for. On its machine "
            "python -m modelserver doctor gpu tells why."
        )


def _options(values: dict[str, Any], *, classify: bool) -> dict[str, Any]:
    """Return the options that were given; refuse those that the route lacks."""
    options = {name: value for name, value in values.items() if value is not None}
    for name in options:
        if classify != (name == "top_k"):
            flag = "--" + name.replace("_", "-")
            tasks = ("without", "with") if classify else ("with", "without")
            raise click.UsageError(f"{flag} goes {tasks[0]} --classify only.")
    return options


def _write(outcomes: Generator[Outcome], form: Format, output: str) -> int:
    """Write all outcomes and a summary on stderr; return how many failed."""
    begun = time.monotonic()
    done = failed = 0
    # A file's name may be no text; it comes out as it went in.
    target = click.open_file(
        output, "w", encoding="utf-8", errors="surrogateescape", lazy=False
    )
    with target as file, closing(writer(form, file)) as lines, closing(outcomes):
        for outcome in outcomes:
            lines.write(outcome)
            done += 1
            failed += outcome.error is not None
    seconds = time.monotonic() - begun
    rate = f"{done / seconds:.1f} a second" if seconds else "at once"
    click.echo(f"{done} photos in {seconds:.1f} s, {rate}; {failed} failed.", err=True)
    return failed
