"""A folder of photos through the Python client, against the server's best rate.

    python -m benchmarks.client MODEL_FOLDER PHOTOS [--model NAME] [--clients 2,4,8,16]

The server is started for the time. Rounds take turns: the load generator with each
number of clients, then the folder, once, through a new ``modelserver.client.Client``,
from its making to its last answer. The best rate is of the number of clients whose
median over the rounds is the highest; the share is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.inprocess import find
from modelserver import bench
from modelserver.client import Client
from modelserver.client.folders import WORKERS
from modelserver.client.folders import find as find_photos

if TYPE_CHECKING:
    from collections.abc import Sequence


def folder_rate(
    url: str, model: str, photos: Sequence[Path], workers: int
) -> dict[str, Any]:
    """Send each photo once; photos a second, and processor ms of ours for each."""
    begun, processor = time.perf_counter(), time.process_time()
    with Client(url) as client:
        outcomes = client.detect_folder(photos, model, workers=workers)
        failed = sum(one.error is not None for one in outcomes)
    took = time.perf_counter() - begun
    used = time.process_time() - processor
    return {
        "failed": failed,
        "per_second": (len(photos) - failed) / took,
        "client_cpu_ms": used * 1000 / len(photos),
    }


def measure(
    url: str,
    model: str,
    photos: Sequence[Path],
    *,
    counts: Sequence[int],
    workers: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Measure in turns, after a warm-up of both."""
    files = [bench.read_photo(photo) for photo in photos]
    target = bench.Target.of(url, "/detect", model, files)
    bench.check(target)
    folder_rate(url, model, photos, workers)
    served: dict[int, list[bench.Round]] = {count: [] for count in counts}
    folder = []
    for number in range(1, rounds + 1):
        results.say(f"client on {model}: round {number} of {rounds}")
        for count in counts:
            served[count].append(bench.run(target, count, seconds))
        folder.append(folder_rate(url, model, photos, workers))
    rates = {count: results.rates(some) for count, some in served.items()}
    best = max(rates, key=lambda count: statistics.median(rates[count]))
    ours = [one["per_second"] for one in folder]
    return {
        "best": {"clients": best, **results.figures(bench.summarise(served[best]))},
        "folder": {
            "workers": workers,
            "failed": sum(one["failed"] for one in folder),
            "per_second": statistics.median(ours),
            "client_cpu_ms": statistics.median(one["client_cpu_ms"] for one in folder),
        },
        "share": results.median_ratio(ours, rates[best]),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--most", type=int, default=128, help="photos of the folder")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--clients", type=results.counts, default=[2, 4, 8, 16])
    results.add_common(parser, seconds=3)
    given = parser.parse_args()
    photos = [file.path for file in find_photos(given.photos)][: given.most]
    files = find(given.folder.resolve(), "detection", given.model)
    with bench.started(files.graph.parent) as server:
        row = measure(
            server.url,
            files.name,
            photos,
            counts=given.clients,
            workers=given.workers,
            seconds=given.seconds,
            rounds=given.rounds,
        )
    facts = {"model": files.name, "photos": len(photos), "seconds": given.seconds}
    results.write({**facts, "rounds": given.rounds, **row}, given.out)


if __name__ == "__main__":
    main()
