"""A folder of photos through the Python client, against the server's best rate.

    python -m benchmarks.client [MODEL_FOLDER PHOTO] [--model NAME] [--clients 2,4,8,16]

The folder holds 128 copies of the photo. Rounds take turns: the load generator with
each number of clients, then the folder, once, through a new ``Client``, from its making
to its last answer. The best rate is of the number of clients whose median over the
rounds is the highest; the share is the median of the rounds' ratios, and its bar 0.95.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.servers import started
from modelserver.client import Client
from modelserver.client.folders import WORKERS
from modelserver.tools import bench

if TYPE_CHECKING:
    from argparse import Namespace

    from benchmarks.support.servers import Server


def folder_rate(url: str, model: str, folder: Path, workers: int) -> dict[str, Any]:
    """Send each photo once; photos a second, and processor ms of ours for each."""
    begun, processor = time.perf_counter(), time.process_time()
    with Client(url) as client:
        outcomes = list(client.detect_folder(folder, model, workers=workers))
    took = time.perf_counter() - begun
    used = time.process_time() - processor
    failed = sum(one.error is not None for one in outcomes)
    return {
        "failed": failed,
        "per_second": (len(outcomes) - failed) / took,
        "client_cpu_ms": used * 1000 / len(outcomes),
    }


def measure(
    server: Server, model: str, photo: bytes, given: Namespace
) -> dict[str, Any]:
    """Measure in turns, after a warm-up of both."""
    counts = [int(count) for count in given.clients.split(",")]
    target = bench.Target.of(server.url, "/detect", model, [photo])
    bench.check(target)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    folder = []
    with tempfile.TemporaryDirectory() as made:
        photos = Path(made)
        for number in range(given.photos):
            (photos / f"{number:04}.jpg").write_bytes(photo)
        folder_rate(server.url, model, photos, given.workers)
        for number in range(1, given.rounds + 1):
            results.say(f"client on {model}: round {number} of {given.rounds}")
            for count in counts:
                seen = bench.run(target, count, given.seconds)
                rates[count].append(bench.summarise([seen]).per_second)
            folder.append(folder_rate(server.url, model, photos, given.workers))
    best = max(counts, key=lambda count: statistics.median(rates[count]))
    shares = [f["per_second"] / b for f, b in zip(folder, rates[best], strict=True)]
    return {
        "best": {"clients": best, "per_second": statistics.median(rates[best])},
        "folder": {
            name: statistics.median(one[name] for one in folder) for name in folder[0]
        },
        "share": statistics.median(shares),
        "shares": shares,
    }


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--photos", type=int, default=128, help="in the folder")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--clients", default="2,4,8,16")
    parser.add_argument("--seconds", type=float, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with (
        results.subject(given) as (files, photo),
        started(files.graph.parent) as server,
    ):
        row = measure(server, files.name, photo, given)
    facts = {"model": files.name, "photos": given.photos, "workers": given.workers}
    results.write({**facts, "rounds": given.rounds, **row}, given.out)


if __name__ == "__main__":
    main()
