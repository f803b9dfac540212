"""What becomes of a server that is offered two and ten times what it can answer.

    python -m benchmarks.overload MODEL_FOLDER PHOTO [--model NAME] [--apart]

Capacity is what eight clients get that wait for their answers: the mean of just before
and just after. In between requests leave at a fixed rate, whether or not earlier ones
were answered, each on a connection of its own, and their clients wait for two seconds;
beside them ``/livez`` is asked four times a second. Prints JSON, of several rounds the
medians: goodput (200s in time, a second), its share of the capacity, statuses, p99s,
the time from the end of the load to the first answer at under twice the idle latency,
and the processors that the load, the front and the runner had.

The load shares the machine: what it takes is lost to the answers. With ``--apart`` the
server has one half of the processors, and the load the other: what is lost then is
what refusing costs.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import open_loop, results
from benchmarks.support.inprocess import find
from benchmarks.support.open_loop import Offer, Request, Sent
from benchmarks.support.servers import Watched, watched
from modelserver import bench

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEADLINE_S = 2.0
_LIVEZ_RATE = 4.0
_CAPACITY_S = 8.0
_MOST_RECOVERY_S = 60.0
_COUNTS = {"statuses", "livez"}
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Return the seconds that a process has had of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def idle_ms(port: int, request: Request) -> float:
    """Return the median latency of one request after the other."""
    sent = [asyncio.run(open_loop.send(port, request, 60)) for _ in range(9)]
    return statistics.median(one.took_ms for one in sent)


def offer(
    server: Watched, request: Request, rate: float, seconds: float
) -> dict[str, Any]:
    """Offer a load for some seconds, and tell what became of it."""
    pids = {"front": [server.front], "runner": sorted(server.runners())}
    before = {who: sum(map(processor_s, some)) for who, some in pids.items()}
    own = time.process_time()
    probe = Request("livez", open_loop.get("/livez"))
    load = Offer(server.port, rate, lambda _: request, _DEADLINE_S)
    probes = Offer(server.port, _LIVEZ_RATE, lambda _: probe, _DEADLINE_S)
    with probes, load:
        time.sleep(seconds)
    cores = {
        who: (sum(map(processor_s, some)) - before[who]) / seconds
        for who, some in pids.items()
    }
    cores["load"] = (time.process_time() - own) / seconds
    return figures(load.sent, probes.sent, rate, seconds) | {"cores": cores}


def figures(
    sent: list[Sent], probes: list[Sent], rate: float, seconds: float
) -> dict[str, Any]:
    """Return what one load is told by."""
    good = [one.took_ms for one in sent if one.status == "200"]
    refused = [one.took_ms for one in sent if one.status == "503"]
    return {
        "offered": rate,
        "goodput": len(good) / seconds,
        "statuses": dict(collections.Counter(one.status for one in sent)),
        "p50_ms": open_loop.quantile(good, 0.5),
        "p99_ms": open_loop.quantile(good, 0.99),
        "p99_503_ms": open_loop.quantile(refused, 0.99),
        "livez": dict(collections.Counter(one.status for one in probes)),
        "p99_livez_ms": open_loop.quantile([one.took_ms for one in probes], 0.99),
    }


def recovery_s(port: int, request: Request, idle: float) -> float | None:
    """Return the seconds until an answer comes in under twice the idle latency."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < _MOST_RECOVERY_S:
        one = asyncio.run(open_loop.send(port, request, _DEADLINE_S))
        if one.status == "200" and one.took_ms < 2 * idle:
            return passed
    return None


def one_round(
    server: Watched, request: Request, factors: list[float], seconds: float, idle: float
) -> list[dict[str, Any]]:
    """Find the capacity, offer multiples of it, and see how each ends."""
    rows = []
    before = open_loop.capacity(server.port, [request], _CAPACITY_S)
    for factor in factors:
        row = offer(server, request, factor * before, seconds)
        recovery = recovery_s(server.port, request, idle)
        after = open_loop.capacity(server.port, [request], _CAPACITY_S)
        top, before = (before + after) / 2, after
        share = row["goodput"] / min(top, row["offered"])
        row |= {"factor": factor, "capacity": top, "share": share}
        rows.append({**row, "recovery_s": recovery})
    return rows


def middle(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the same figures of several rounds together: sums of counts, else medians."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        if name in _COUNTS:
            counts: collections.Counter[str] = collections.Counter()
            for one in values:
                counts.update(one)
            found[name] = dict(counts)
        elif name == "cores":
            found[name] = middle(values)
        else:
            found[name] = statistics.median(values) if values else None
    return found


def measure(
    server: Watched, request: Request, factors: list[float], seconds: float, rounds: int
) -> dict[str, Any]:
    """Offer multiples of the capacity for some rounds, and give the medians."""
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
    if len(processors) == 1:
        raise SystemExit("One processor cannot be shared out; leave --apart away.")
    half = len(processors) // 2
    return set(processors[:half]), set(processors[half:])


def main() -> None:
    """Measure as the command line says and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--seconds", type=float, default=20, help="for each factor")
    parser.add_argument("--factors", default="0.7,2,10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--apart", action="store_true", help="share the processors out")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    model = find(given.folder, "detection", given.model).name
    factors = [float(word) for word in given.factors.split(",")]
    if given.apart:
        servers, loads = halves()
        os.sched_setaffinity(0, servers)  # which what is started takes over
    with watched(given.folder.resolve()) as server:
        if given.apart:
            os.sched_setaffinity(0, loads)
        photo = bench.read_photo(given.photo)
        request = Request("detect", open_loop.post(server.port, model, photo))
        found = measure(server, request, factors, given.seconds, given.rounds)
    facts = {"model": model, "seconds": given.seconds, "apart": given.apart}
    results.write({**facts, **found}, given.out)


if __name__ == "__main__":
    main()
