"""What every driver's result has, and how it is written.

    python -m benchmarks.support.results RESULTS

adds to a file of results what machine they were measured on.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserver import bench

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from modelserver.bench import Figures, Round


def machine() -> dict[str, Any]:
    """Return what the figures depend on, beside the code."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 2**30),
        "processor": processor(),
        "python": platform.python_version(),
        "tensorflow": tensorflow(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def processor() -> str:
    """Return the processor's name, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def tensorflow() -> str:
    """Return TensorFlow's version, without importing it."""
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def write(result: dict[str, Any], out: Path | None) -> None:
    """Write a result as JSON, to stdout where no file is named."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def say(sentence: str) -> None:
    """Tell whoever waits what is going on."""
    print(sentence, file=sys.stderr, flush=True)


def photo_facts(path: Path) -> dict[str, Any]:
    """Return what the tables say about a photo."""
    from PIL import Image  # noqa: PLC0415 - only here

    with Image.open(path) as photo:
        size = list(photo.size)
    return {"name": path.name, "size": size, "bytes": path.stat().st_size}


def figures(one: Figures) -> dict[str, Any]:
    """Return what the results keep of a number of clients."""
    return {
        "answers": one.answers,
        "errors": one.errors,
        "per_second": one.per_second,
        "p50_ms": one.p50_ms,
        "p90_ms": one.p90_ms,
        "p99_ms": one.p99_ms,
    }


def median_ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Return the median over rounds of ours over theirs, each round by itself.

    Raises:
        SystemExit: theirs was nothing in a round.
    """
    pairs = list(zip(ours, theirs, strict=True))
    if not all(b for _, b in pairs):
        raise SystemExit("No answer came within a round; make --seconds longer.")
    return statistics.median(a / b for a, b in pairs)


def rates(rounds: Sequence[Round]) -> list[float]:
    """Return each round's answers with status 200 a second."""
    return [bench.summarise([one]).per_second for one in rounds]


def medians_ms(rounds: Sequence[Round]) -> list[float]:
    """Return each round's median latency of the answers with status 200."""
    return [bench.summarise([one]).p50_ms or 0.0 for one in rounds]


def add_common(
    parser: argparse.ArgumentParser, *, seconds: float, rounds: int = 3
) -> None:
    """Add the options that every driver of a load has."""
    parser.add_argument("--seconds", type=float, default=seconds, help="of a round")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")


def counts(text: str) -> list[int]:
    """Read numbers of clients: ``1,8``."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Add the machine to a file of results."""
    (path,) = map(Path, sys.argv[1:])
    write(json.loads(path.read_text()) | {"machine": machine()}, path)


if __name__ == "__main__":
    main()
