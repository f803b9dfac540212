"""A folder of photos through the Python client, against the server's best rate.

    python -m benchmarks.client MODEL_FOLDER PHOTOS [--model NAME] [--clients 2,4,8,16]

Rounds take turns: the load generator with each number of clients, then the folder,
once, through a new ``modelserver.client.Client``, from its making to its last answer.
The best rate is of the number of clients whose median over the rounds is the highest;
the share is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.servers import started
from modelserver.client import Client
from modelserver.client.folders import WORKERS
from modelserver.client.folders import find as find_photos
from modelserver.tools import bench

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_LOAD = ("clients", "workers", "seconds", "rounds")


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
    clients: Sequence[int],
    workers: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Measure in turns, after a warm-up of both."""
    files = [bench.read_photo(photo) for photo in photos]
    target = bench.Target.of(url, "/detect", model, files)
    bench.check(target)
    folder_rate(url, model, photos, workers)
    served: dict[int, list[bench.Round]] = {count: [] for count in clients}
    folder = []
    for number in range(1, rounds + 1):
        results.say(f"client on {model}: round {number} of {rounds}")
        for count in clients:
            served[count].append(bench.run(target, count, seconds))
        folder.append(folder_rate(url, model, photos, workers))
    rates = {count: results.rates(some) for count, some in served.items()}
    best = max(rates, key=lambda count: statistics.median(rates[count]))
    ours = [one["per_second"] for one in folder]
    return {
        "best": asdict(bench.summarise(served[best])),
        "folder": {
            "failed": sum(one["failed"] for one in folder),
            "per_second": statistics.median(ours),
            "client_cpu_ms": statistics.median(one["client_cpu_ms"] for one in folder),
        },
        "share": results.median_ratio(ours, rates[best]),
    }


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__, "a folder of photos")
    parser.add_argument("--most", type=int, default=128, help="photos of the folder")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--clients", type=results.counts, default=[2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.photo is None:
        parser.error("MODEL_FOLDER and PHOTOS are needed")
    photos = [file.path for file in find_photos(given.photo)][: given.most]
    files = results.find(given.folder, "detection", given.model)
    load = {name: getattr(given, name) for name in _LOAD}
    with started(files.graph.parent) as server:
        row = measure(server.url, files.name, photos, **load)
    facts = {"model": files.name, "photos": len(photos), **load}
    results.write({**facts, **row}, given.out)


if __name__ == "__main__":
    main()
