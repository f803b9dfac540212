"""Answers a second of our server, and of the same work without a server.

    python -m benchmarks.throughput MODEL_FOLDER PHOTO [--model NAME] [--clients 1,8]

The server is started for the time. For each number of clients, rounds of HTTP and
rounds in this process take turns; the ratio is the median of the rounds' ratios. In
this process there are as many threads as clients, but no more than the server has
slots.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.support import results
from benchmarks.support.inprocess import InProcess, find
from modelserver import bench


def measure(
    target: bench.Target,
    local: InProcess,
    data: bytes,
    *,
    clients: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Measure one number of clients in turns."""
    threads = min(clients, local.slots)
    bench.run(target, clients, min(1.0, seconds))
    local.run(data, threads, min(1.0, seconds))
    served, limit = [], []
    for _ in range(rounds):
        served.append(bench.run(target, clients, seconds))
        limit.append(local.run(data, threads, seconds))
    return {
        "clients": clients,
        "threads": threads,
        "server": results.figures(bench.summarise(served)),
        "in_process": results.figures(bench.summarise(limit)),
        "ratio": results.median_ratio(results.rates(served), results.rates(limit)),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--clients", type=results.counts, default=[1, 2, 4, 8, 16])
    results.add_common(parser, seconds=5)
    given = parser.parse_args()
    data = bench.read_photo(given.photo)
    files = find(given.folder.resolve(), "detection", given.model)
    rows = []
    with (
        bench.started(files.graph.parent) as server,
        closing(InProcess.load(files)) as local,
    ):
        target = bench.Target.of(server.url, "/detect", files.name, [data])
        bench.check(target)
        for clients in given.clients:
            results.say(f"throughput of {files.name}: {clients} clients")
            row = measure(
                target,
                local,
                data,
                clients=clients,
                seconds=given.seconds,
                rounds=given.rounds,
            )
            rows.append(row)
    result = {
        "model": files.name,
        "photo": results.photo_facts(given.photo),
        "seconds": given.seconds,
        "rounds": given.rounds,
        "rows": rows,
    }
    results.write(result, given.out)


if __name__ == "__main__":
    main()
