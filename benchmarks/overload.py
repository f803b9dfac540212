"""Offer a server two and ten times the photos that it can answer.

    python -m benchmarks.overload [MODEL_FOLDER PHOTO] [--model NAME] [--apart]

Capacity is the mean rate, just before and just after, of eight clients that wait for
their answers. In between requests leave at a fixed rate, answered or not, each on a
connection of its own, and their clients wait for two seconds; ``/livez`` is asked four
times a second. Writes JSON, of several rounds the medians: goodput (200s in time, a
second), its share of the capacity, statuses, p99s, the time from the end of the load to
the first answer at under twice the idle latency, and the processors of all three.

The load shares the machine, so its work is lost to the answers. With ``--apart`` it has
one half of the processors, and the server the other: the loss then is of refusing.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.support import open_loop, results
from benchmarks.support.open_loop import Request, Sent, offer
from benchmarks.support.servers import Server, started

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEADLINE_S = 2.0
_LIVEZ_RATE = 4.0
_CAPACITY_S = 8.0
_MOST_RECOVERY_S = 60.0


def idle_ms(port: int, request: Request) -> float:
    """Return the median latency of one request after the other."""
    sent = [asyncio.run(open_loop.send(port, request, 60)) for _ in range(9)]
    return statistics.median(one.took_ms for one in sent)


def one_load(
    server: Server, request: Request, rate: float, seconds: float
) -> dict[str, Any]:
    """Offer a load for some seconds, and return the outcomes."""
    before, own = server.processor_s(), time.process_time()
    probe = Request("livez", open_loop.get("/livez"))
    with (
        offer(server.port, _LIVEZ_RATE, lambda _: probe, _DEADLINE_S) as probes,
        offer(server.port, rate, lambda _: request, _DEADLINE_S) as sent,
    ):
        time.sleep(seconds)
    after = server.processor_s()
    cores = {who: (after[who] - before[who]) / seconds for who in after}
    cores["load"] = (time.process_time() - own) / seconds
    return figures(sent, probes, rate, seconds) | {"cores": cores}


def figures(
    sent: Sequence[Sent], probes: Sequence[Sent], rate: float, seconds: float
) -> dict[str, Any]:
    """Return the figures of one load."""
    answers, health = open_loop.figures(sent), open_loop.figures(probes)
    return {
        "offered": rate,
        "goodput": answers["statuses"].get("200", 0) / seconds,
        **answers,
        "p99_503_ms": open_loop.p_ms(sent, 0.99, "503"),
        "livez": health["statuses"],
        "p99_livez_ms": health["p99_ms"],
    }


def recovery_s(port: int, request: Request, idle: float) -> float | None:
    """Return the seconds until an answer comes in under twice the idle latency."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < _MOST_RECOVERY_S:
        one = asyncio.run(open_loop.send(port, request, _DEADLINE_S))
        if one.status == "200" and one.took_ms < 2 * idle:
            return passed
    return None


def one_round(
    server: Server, request: Request, factors: list[float], seconds: float, idle: float
) -> list[dict[str, Any]]:
    """Find the capacity, offer multiples of it, and see how each ends."""
    rows = []
    before = open_loop.capacity(server.port, [request], _CAPACITY_S)
    for factor in factors:
        row = one_load(server, request, factor * before, seconds)
        recovery = recovery_s(server.port, request, idle)
        after = open_loop.capacity(server.port, [request], _CAPACITY_S)
        top, before = (before + after) / 2, after
        share = row["goodput"] / min(top, row["offered"])
        row |= {"factor": factor, "capacity": top, "share": share}
        rows.append({**row, "recovery_s": recovery})
    return rows


def middle(values: Sequence[Any]) -> Any:
    """Return the median of some rounds' figures, in dicts each by itself.

    A round without a figure does not count for it; ``None`` if no round has one.
    """
    some = [value for value in values if value is not None]
    if not any(isinstance(value, dict) for value in some):
        return statistics.median(some) if some else None
    names = dict.fromkeys(name for one in some for name in one)
    return {name: middle([one.get(name) for one in some]) for name in names}


def measure(
    server: Server, request: Request, factors: list[float], seconds: float, rounds: int
) -> dict[str, Any]:
    """Offer multiples of the capacity for some rounds, and return the medians."""
    idle = idle_ms(server.port, request)
    found = [one_round(server, request, factors, seconds, idle) for _ in range(rounds)]
    rows = [middle(rows) for rows in zip(*found, strict=True)]
    return {"idle_ms": idle, "rounds": rounds, "rows": rows}


def halves() -> tuple[set[int], set[int]]:
    """Return the processors in two halves, the server's and the load's.

    Raises:
        SystemExit: there is but one.
    """
    processors = sorted(os.sched_getaffinity(0))
    half = len(processors) // 2
    if not half:
        raise SystemExit("One processor cannot be shared out; leave --apart away.")
    return set(processors[:half]), set(processors[half:])


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="for each factor")
    parser.add_argument("--factors", default="0.7,2,10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--apart", action="store_true", help="share the processors out")
    given = parser.parse_args()
    factors = [float(word) for word in given.factors.split(",")]
    servers, loads = halves() if given.apart else (set(), set())
    with results.subject(given) as (files, photo):
        if given.apart:
            os.sched_setaffinity(0, servers)  # a started process takes it over
        with started(files.graph.parent) as server:
            if given.apart:
                os.sched_setaffinity(0, loads)
            data = open_loop.post(server.port, files.name, photo)
            request = Request("detect", data)
            found = measure(server, request, factors, given.seconds, given.rounds)
    facts = {"model": files.name, "seconds": given.seconds, "apart": given.apart}
    results.write({**facts, **found}, given.out)


if __name__ == "__main__":
    main()
