"""A long, mixed load: does anything grow, and does anything get slower?

    python -m benchmarks.soak [MODEL_FOLDER PHOTO] [--minutes 10] [--out FILE]

A real server gets 70 % of the requests that it can answer: valid ones, invalid and huge
files, clients that hang up, and garbage. Once a second its memory, descriptors and
threads are noted; the slope is the line of least squares through the notes after a
fifth of the time, the warm-up. Writes JSON; the exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.support import inputs, open_loop, results
from benchmarks.support.open_loop import Request, Sent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from benchmarks.support.servers import Server

MAX_SLOPE_MB = 1.0
"""A minute, of the whole server's memory."""

_WARM_UP = 0.2
_EVERY_S = 1.0
_HUGE = (4000, 3000)
# Of valid, invalid, huge and aborted requests and garbage.
_SHARES = (84, 5, 1, 8, 2)
# The statuses that each kind may be answered with; 503 is a full queue.
_ANSWERS = {
    "valid": {"200", "503"},
    "huge": {"200", "503"},
    "invalid": {"400", "413", "415", "422", "503"},
    "aborted": {"cut"},
    "garbage": {"400", "404", "405", "413", "414", "415", "417", "431", "501", "503"},
}


def chooser(port: int, model: str, photo: bytes) -> Callable[[int], Request]:
    """Return a function that gives the load's next request."""
    huge = inputs.photo(_HUGE)
    hang_ups = random.Random(1)  # noqa: S311 - the same each time
    valid = Request("valid", open_loop.post(port, model, photo))
    big = Request("huge", open_loop.post(port, model, huge))
    bad = itertools.cycle(inputs.bad_photos(port, model, photo))
    junk = itertools.cycle(inputs.garbage(port))
    kinds = (
        lambda: valid,
        lambda: next(bad),
        lambda: big,
        lambda: inputs.cut(port, model, photo, hang_ups),
        lambda: next(junk),
    )
    mixed = random.Random(2)  # noqa: S311 - same
    return lambda _number: mixed.choices(kinds, _SHARES)[0]()


def run(
    server: Server, model: str, photo: bytes, given: argparse.Namespace
) -> dict[str, Any]:
    """Load the server and watch it."""
    choose = chooser(server.port, model, photo)
    good = [Request("valid", open_loop.post(server.port, model, photo))]
    load = open_loop.offered(server.port, good, given)
    results.say(f"soak: {load}")
    seconds, noted = 60 * given.minutes, []
    with open_loop.offer(server.port, load["offered"], choose, 30) as sent:
        begun = time.monotonic()
        while (at := time.monotonic() - begun) < seconds:
            noted.append((at, server.facts()))
            time.sleep(_EVERY_S)
    return {
        "model": model,
        "seconds": seconds,
        **load,
        "requests": open_loop.tally(sent),
        **growth(noted, seconds),
        "p99_ms": drift(sent, begun, seconds),
        "harm": server.harm(),
    }


def growth(
    noted: Sequence[tuple[float, dict[str, float]]], seconds: float
) -> dict[str, Any]:
    """Return how memory, descriptors and threads went, after the warm-up.

    ``most`` is of the whole time.
    """
    times = [at for at, _ in noted if at >= _WARM_UP * seconds]

    def one(values: Sequence[float]) -> dict[str, float]:
        late = values[-len(times) :]
        rise = 60 * statistics.linear_regression(times, late).slope
        ends = {"first": late[0], "last": late[-1]}
        return {**ends, "most": max(values), "per_minute": rise}

    return {name: one([facts[name] for _, facts in noted]) for name in noted[0][1]}


def drift(sent: Sequence[Sent], begun: float, seconds: float) -> dict[str, Any]:
    """Return the valid requests' p99 in the second and in the last fifth."""

    def p99(fifth: int) -> float | None:
        low, high = (begun + seconds * n / 5 for n in (fifth, fifth + 1))
        some = [one for one in sent if one.kind == "valid" and low <= one.at < high]
        return open_loop.p_ms(some, 0.99)

    return {"first": p99(1), "last": p99(4)}


def broken(result: dict[str, Any]) -> list[str]:
    """Return all that must not be, in words; speed is for the reader to judge."""
    found = []
    for kind, figures in result["requests"].items():
        wrong = set(figures["statuses"]) - _ANSWERS[kind]
        found += [f"{kind}: {status}" for status in sorted(wrong)]
    if result["rss_mb"]["per_minute"] >= MAX_SLOPE_MB:
        found.append(f"memory grows: {result['rss_mb']}")
    found += result["harm"]
    return found


def main() -> None:
    """Soak, and write."""
    parser = results.options(__doc__)
    open_loop.add_load(parser)
    results.judge(parser.parse_args(), run, broken)


if __name__ == "__main__":
    main()
