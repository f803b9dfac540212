"""A long, mixed load: does anything grow, and does anything get slower?

    python -m benchmarks.soak [MODEL_FOLDER PHOTO] [--minutes 10] [--out FILE]

A real server gets 70 % of the requests that it can answer: valid ones, invalid and huge
files, clients that hang up, and garbage. Once a second its memory, descriptors and
threads are noted; the slope is the line of least squares through what was noted after a
fifth of the time, the warm-up. Without a folder a graph that does next to nothing is
served, with a photo made by code. Ends with a table on stderr, and JSON; the exit code
is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import tables
from benchmarks.support import graphs, hostile, open_loop, results
from benchmarks.support.inprocess import find
from benchmarks.support.open_loop import Offer, Request, Sent
from benchmarks.support.servers import Watched, harm, watched
from modelserver import bench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHARE = 0.7
MAX_SLOPE_MB = 1.0
"""A minute, of the whole server's memory."""

_WARM_UP = 0.2
_EVERY_S = 1.0
_HUGE = (4000, 3000)
# Of valid, invalid, huge and aborted requests and garbage.
_SHARES = (84, 5, 1, 8, 2)
# What each kind may be answered with; 503 is a full queue.
_ANSWERS = {
    "valid": {"200", "503"},
    "huge": {"200", "503"},
    "invalid": {"400", "413", "415", "422", "503"},
    "aborted": {"cut"},
    "garbage": {"400", "404", "405", "413", "414", "415", "417", "431", "501", "503"},
}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares through some points; 0 for one."""
    x = sum(point[0] for point in points) / len(points)
    y = sum(point[1] for point in points) / len(points)
    spread = sum((point[0] - x) ** 2 for point in points)
    if not spread:
        return 0.0
    return sum((point[0] - x) * (point[1] - y) for point in points) / spread


def chooser(port: int, model: str, photo: bytes) -> Callable[[int], Request]:
    """Return what gives the load's next request."""
    huge = graphs.photo(_HUGE, 2_000_000)
    hang_ups = random.Random(1)  # noqa: S311 - the same each time
    valid = Request("valid", open_loop.post(port, model, photo))
    big = Request("huge", open_loop.post(port, model, huge))
    bad = itertools.cycle(hostile.bad_photos(port, model, photo))
    junk = itertools.cycle(hostile.garbage(port))
    kinds = (
        lambda: valid,
        lambda: next(bad),
        lambda: big,
        lambda: hostile.cut(port, model, photo, hang_ups),
        lambda: next(junk),
    )
    return lambda _number: hostile.mixed(kinds, _SHARES)


def run(
    server: Watched, model: str, photo: bytes, given: argparse.Namespace
) -> dict[str, Any]:
    """Load the server and watch it."""
    choose = chooser(server.port, model, photo)
    good = [Request("valid", open_loop.post(server.port, model, photo))]
    capacity = open_loop.capacity(server.port, good, given.measure)
    rate = min(SHARE * capacity, given.rate or capacity)
    results.say(f"soak: capacity {capacity:.0f}/s, offered {rate:.0f}/s")
    seconds, noted = 60 * given.minutes, []
    with Offer(server.port, rate, choose, deadline_s=30) as offer:
        started = time.monotonic()
        while (at := time.monotonic() - started) < seconds:
            noted.append((at, server.facts()))
            time.sleep(_EVERY_S)
    return {
        "model": model,
        "seconds": seconds,
        "capacity": capacity,
        "offered": rate,
        "requests": open_loop.tally(offer.sent),
        **growth(noted, seconds),
        **drift(offer.sent, started, seconds),
        "leftovers": server.leftovers(),
        "errors": server.errors(),
    }


def growth(
    noted: Sequence[tuple[float, dict[str, float]]], seconds: float
) -> dict[str, Any]:
    """Return how memory, descriptors and threads went, after the warm-up."""
    late = [(at, facts) for at, facts in noted if at >= _WARM_UP * seconds]
    return {
        name: {
            "first": late[0][1][name],
            "last": late[-1][1][name],
            "per_minute": 60 * slope([(at, facts[name]) for at, facts in late]),
        }
        for name in ("rss_mb", "front_rss_mb", "descriptors", "threads")
    }


def drift(sent: Sequence[Sent], started: float, seconds: float) -> dict[str, Any]:
    """Return the valid requests' p99 in the second and in the last fifth."""

    def p99(fifth: int) -> float | None:
        low, high = (started + seconds * n / 5 for n in (fifth, fifth + 1))
        times = [
            one.took_ms
            for one in sent
            if one.kind == "valid" and one.status == "200" and low <= one.at < high
        ]
        return open_loop.quantile(times, 0.99)

    return {"p99_ms": {"first": p99(1), "last": p99(4)}}


def broken(result: dict[str, Any]) -> list[str]:
    """Return what must not be, in words; how fast it was is for the reader."""
    found = []
    for kind, figures in result["requests"].items():
        wrong = set(figures["statuses"]) - _ANSWERS[kind]
        found += [f"{kind}: {status}" for status in sorted(wrong)]
    if result["rss_mb"]["per_minute"] >= MAX_SLOPE_MB:
        found.append(f"memory grows: {result['rss_mb']}")
    return found + harm(result)


def table(result: dict[str, Any]) -> str:
    """Write the result for people."""
    requests = [
        (kind, str(one["statuses"]), tables.ms(one["p50_ms"]), tables.ms(one["p99_ms"]))
        for kind, one in result["requests"].items()
    ]
    names = ("rss_mb", "front_rss_mb", "descriptors", "threads")
    grown = [
        (
            name,
            f"{result[name]['first']:.0f}",
            f"{result[name]['last']:.0f}",
            f"{result[name]['per_minute']:+.2f}",
        )
        for name in names
    ]
    p99 = result["p99_ms"]
    grown.append(("p99 of valid", tables.ms(p99["first"]), tables.ms(p99["last"]), ""))
    return "\n".join(
        (
            tables.markdown(("requests", "statuses", "p50", "p99"), requests),
            tables.markdown(("", "after the warm-up", "at the end", "a minute"), grown),
        )
    )


def main() -> None:
    """Soak, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--measure", type=float, default=5, help="seconds, for capacity"
    )
    parser.add_argument("--rate", type=float, help="offer at most so much a second")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            graphs.write_do_nothing(folder)
        model = find(folder, "detection", given.model).name
        photo = bench.read_photo(given.photo) if given.photo else graphs.photo()
        server = stack.enter_context(watched(folder.resolve()))
        result = run(server, model, photo, given)
    result["broken"] = broken(result)
    results.say(table(result))
    results.write(result, given.out)
    if result["broken"]:
        raise SystemExit("\n".join(result["broken"]))


if __name__ == "__main__":
    main()
