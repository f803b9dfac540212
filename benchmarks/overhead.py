"""What a server adds to a call, measured with a graph that does next to nothing.

    python -m benchmarks.overhead [--seconds 4] [--rounds 3]

The graph and the photo, a JPEG of 1024 x 636 pixels and about 100 kB, are made by code.
For one client, rounds of HTTP and rounds of decode and run in this process take turns;
the difference of the medians is what HTTP, the queue and the runner's process add. Then
many clients: requests a second, with what the load generator takes of one core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.support import graphs, results
from benchmarks.support.inprocess import InProcess, find
from modelserver import bench


def added(
    target: bench.Target, local: InProcess, data: bytes, seconds: float, rounds: int
) -> dict[str, Any]:
    """Measure one client in turns."""
    bench.run(target, 1, min(1.0, seconds))
    local.run(data, 1, min(1.0, seconds))
    served, limit = [], []
    for _ in range(rounds):
        served.append(bench.run(target, 1, seconds))
        limit.append(local.run(data, 1, seconds))
    pairs = zip(results.medians_ms(served), results.medians_ms(limit), strict=True)
    return {
        "server": results.figures(bench.summarise(served)),
        "in_process": results.figures(bench.summarise(limit)),
        "added_p50_ms": statistics.median(ours - theirs for ours, theirs in pairs),
    }


def many(
    target: bench.Target, clients: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Measure many clients; ``load_cores`` is what this process took meanwhile."""
    bench.run(target, clients, min(1.0, seconds))
    cores, seen = [], []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        seen.append(bench.run(target, clients, seconds))
        taken = time.process_time() - processor
        cores.append(taken / (time.perf_counter() - wall))
    figures = results.figures(bench.summarise(seen))
    return {"clients": clients, **figures, "load_cores": statistics.median(cores)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=32)
    results.add_common(parser, seconds=4)
    given = parser.parse_args()
    data = graphs.photo()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs.write_do_nothing(folder)
        files = find(folder, "detection")
        with (
            bench.started(folder) as server,
            closing(InProcess.load(files)) as local,
        ):
            target = bench.Target.of(server.url, "/detect", files.name, [data])
            bench.check(target)
            results.say("overhead: 1 client")
            one = added(target, local, data, given.seconds, given.rounds)
            results.say(f"overhead: {given.clients} clients")
            most = many(target, given.clients, given.seconds, given.rounds)
    result = {
        "photo": {"size": list(graphs.SIZE), "bytes": len(data)},
        "seconds": given.seconds,
        "rounds": given.rounds,
        "one": one,
        "many": most,
    }
    results.write(result, given.out)


if __name__ == "__main__":
    main()
