"""How the drivers take their arguments, and how their results are written."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import inputs
from benchmarks.support.servers import started
from modelserver.engine.discovery import discover
from modelserver.tasks import by_kind
from modelserver.tools import bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.support.servers import Server
    from modelserver.core.signatures import Kind
    from modelserver.engine.discovery import ModelFiles

    Run = Callable[[Server, str, bytes, argparse.Namespace], dict[str, Any]]
    Broken = Callable[[dict[str, Any]], list[str]]


def options(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser for a model folder, a photo and ``--out``."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    nothing = "with a detector; one that does next to nothing by default"
    parser.add_argument("folder", type=Path, nargs="?", help=nothing)
    parser.add_argument("photo", type=Path, nargs="?", help="made by code by default")
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    return parser


@contextmanager
def subject(
    given: argparse.Namespace, kind: Kind = "detection"
) -> Iterator[tuple[ModelFiles, bytes]]:
    """Find the model and the photo that were named, or make them for the time.

    Raises:
        SystemExit: there is no such model.
    """
    with tempfile.TemporaryDirectory() as made:
        if given.folder is None:
            inputs.write_do_nothing(Path(made))
        files = find(given.folder or Path(made), kind, given.model)
        photo = given.photo
        yield files, bench.read_photo(photo) if photo else inputs.photo()


def judge(given: argparse.Namespace, run: Run, broken: Broken) -> None:
    """Run a driver against a server of its own; write what it found, and is wrong.

    Args:
        run: is given the server, the model's name, the photo and the arguments.
        broken: returns sentences about what must not be in a result.
    """
    with (
        subject(given) as (files, photo),
        started(files.graph.parent) as server,
    ):
        result = run(server, files.name, photo, given)
    write(result | {"broken": broken(result)}, given.out)


def find(folder: Path, kind: Kind, name: str | None = None) -> ModelFiles:
    """Return the files of a model, the first if no name is given.

    Raises:
        SystemExit: there is none.
    """
    for files in discover(folder.resolve(), by_kind(kind)).models:
        if name in (None, files.name):
            return files
    raise SystemExit(f"There is no {kind} model {name or ''} in {folder}.")


def machine() -> dict[str, Any]:
    """Return the facts that figures depend on, next to the code."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2] for line in info if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0].strip() if names else platform.machine(),
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def say(sentence: str) -> None:
    """Tell the progress to the person who waits."""
    print(sentence, file=sys.stderr, flush=True)


def write(result: dict[str, Any], out: Path | None) -> None:
    """Write a result as JSON, to stdout if no file is named; end with what is broken.

    Raises:
        SystemExit: the result has sentences under ``broken``.
    """
    whole = {**result, "machine": machine()}
    text = json.dumps(whole, indent=2, default=str) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)
    if result.get("broken"):
        raise SystemExit("\n".join(result["broken"]))
