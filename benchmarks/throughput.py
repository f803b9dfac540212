"""Answers a second of our server, and of the same work without a server.

    python -m benchmarks.throughput [MODEL_FOLDER PHOTO] [--model NAME] [--clients 1,8]

For each number of clients, rounds of HTTP and rounds in this process take turns; the
share is the median of the rounds' ratios. In this process there are as many threads as
clients, but no more than the server has slots: its own settings, decoder and session,
but no HTTP, no queue, no process of its own, and no answer put together. That is the
limit that a server can come close to. ``cpu_ms`` is the processors' time for an answer,
in all processes but the load's. Without a folder the graph does next to nothing, so
that all but the graph shows.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.servers import Server, started
from modelserver.core.settings import Settings
from modelserver.engine.loader import Loader
from modelserver.tasks import by_kind
from modelserver.tools import bench
from modelserver.tools.bench import Round, Sample

if TYPE_CHECKING:
    from modelserver.core.signatures import Kind
    from modelserver.engine.discovery import ModelFiles


class InProcess:
    """A model in this process. ``evaluate`` is thread-safe, for ``slots`` threads."""

    def __init__(self, files: ModelFiles) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        settings = Settings.from_environ({**os.environ, "ISOLATION": "inline"})
        self._model = Loader(settings)(files)
        # Past the queue and the pool of threads, which are the server's, not the limit.
        self._session = self._model.runner._session  # type: ignore[attr-defined]  # noqa: SLF001
        self.slots = self._model.facts.slots
        self.close = self._model.close

    def evaluate(self, data: bytes) -> Sample:
        """Decode a photo and run the graph on it."""
        begun = time.perf_counter()
        frame = self._model.prepare(data).frame
        try:
            self._session.run([frame.pixels])
        finally:
            frame.release()
        ended = time.perf_counter()
        return Sample(200, ended, (ended - begun) * 1000)

    def run(self, data: bytes, threads: int, seconds: float) -> Round:
        """Evaluate a photo over and over in some threads, for some seconds."""
        end = time.perf_counter() + seconds

        def work(_number: int) -> list[Sample]:
            every = iter(lambda: self.evaluate(data), None)
            return list(itertools.takewhile(lambda one: one.ended_s <= end, every))

        with ThreadPoolExecutor(threads) as pool:
            samples = itertools.chain.from_iterable(pool.map(work, range(threads)))
            return Round(threads, seconds, tuple(samples))


def measure(
    server: Server,
    target: bench.Target,
    local: InProcess,
    photo: bytes,
    load: Namespace,
) -> dict[str, Any]:
    """Measure one number of clients in turns."""
    threads = min(load.clients, local.slots)
    warm_up_s = min(1.0, load.seconds)
    bench.run(target, load.clients, warm_up_s)
    local.run(photo, threads, warm_up_s)
    served, limit, spent, shares = [], [], [], []
    for _ in range(load.rounds):
        before = sum(server.processor_s().values())
        served.append(bench.run(target, load.clients, load.seconds))
        used = sum(server.processor_s().values()) - before
        limit.append(local.run(photo, threads, load.seconds))
        ours, theirs = (bench.summarise([some[-1]]) for some in (served, limit))
        if not ours.answers or not theirs.answers:
            raise SystemExit("No answer came within a round; make --seconds longer.")
        spent.append(1000 * used / ours.answers)
        shares.append(ours.per_second / theirs.per_second)
    return {
        "server": asdict(bench.summarise(served)),
        "cpu_ms": statistics.median(spent),
        "in_process": asdict(bench.summarise(limit)),
        "share": statistics.median(shares),
    }


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--classify", action="store_true", help="a classifier")
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    kind: Kind = "classification" if given.classify else "detection"
    app = "app_classify.py" if given.classify else "app.py"
    rows = []
    with (
        results.subject(given, kind) as (files, photo),
        started(files.graph.parent, app=app) as server,
        closing(InProcess(files)) as local,
    ):
        path = by_kind(kind).endpoint.route
        target = bench.Target.of(server.url, path, files.name, [photo])
        bench.check(target)
        for clients in map(int, given.clients.split(",")):
            results.say(f"throughput of {files.name}: {clients} clients")
            load = Namespace(**{**vars(given), "clients": clients})
            rows.append(measure(server, target, local, photo, load))
    facts = {"model": files.name, "photo_bytes": len(photo), "rounds": given.rounds}
    results.write({**facts, "seconds": given.seconds, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
