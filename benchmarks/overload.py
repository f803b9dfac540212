"""What becomes of a server that is offered two and ten times what it can answer.

    python -m benchmarks.overload MODEL_FOLDER PHOTO [--model NAME] [--out FILE]

Capacity is what eight clients get that wait for their answers. Then requests leave at a
fixed rate, whether or not earlier ones were answered, each on a connection of its own,
and their clients wait for two seconds; beside them ``/livez`` is asked four times a
second. Prints JSON: goodput (200s in time, a second), statuses, p99s, the time from the
end of the load to the first answer at under twice the idle latency, and the processors
that the load, the front and the runner had. The load shares the machine: what it takes
is lost to the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import open_loop, results
from benchmarks.inprocess import find
from benchmarks.open_loop import Offer, Request, Sent
from benchmarks.watched import Watched, watched
from modelserver import bench

_DEADLINE_S = 2.0
_LIVEZ_RATE = 4.0
_CAPACITY_S = 10.0
_MOST_RECOVERY_S = 60.0
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


def measure(
    server: Watched, request: Request, factors: list[float], seconds: float
) -> dict[str, Any]:
    """Find the capacity, offer multiples of it, and see how it ends."""
    idle = idle_ms(server.port, request)
    # Twice, before and after: what the machine can do changes by itself.
    tops = [open_loop.capacity(server.port, [request], _CAPACITY_S)]
    rows = []
    for factor in factors:
        row = offer(server, request, factor * tops[0], seconds)
        rows.append({"factor": factor, **row})
    recovery = recovery_s(server.port, request, idle)
    tops.append(open_loop.capacity(server.port, [request], _CAPACITY_S))
    top = max(tops)
    for row in rows:
        row["share"] = row["goodput"] / min(top, row["offered"])
    return {"idle_ms": idle, "capacity": tops, "rows": rows, "recovery_s": recovery}


def main() -> None:
    """Measure as the command line says and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--seconds", type=float, default=20, help="for each factor")
    parser.add_argument("--factors", default="0.7,2,10")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    model = find(given.folder, "detection", given.model).name
    factors = [float(word) for word in given.factors.split(",")]
    with watched(given.folder.resolve()) as server:
        photo = bench.read_photo(given.photo)
        request = Request("detect", open_loop.post(server.port, model, photo))
        found = measure(server, request, factors, given.seconds)
    results.write({"model": model, "seconds": given.seconds, **found}, given.out)


if __name__ == "__main__":
    main()
