"""A folder of photos through the Python client, against the server's best rate.

    python -m benchmarks.client [MODEL_FOLDER PHOTO] [--model NAME] [--clients 2,4,8,16]

The folder holds 128 copies of the photo. Rounds take turns: the load generator with
each number of clients, then the folder, once, through a new ``Client``, from its making
to its last answer. The best rate is of the number of clients whose median over the
rounds is the highest; the share is the median of the rounds' ratios, and its bar 0.95.
``share_by_cpu`` is the ratio of the processors' time for an answer, which is the share
where all processors are busy, and is steadier beside other work.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.support import results
from benchmarks.support.servers import started
from modelserver.client import Client
from modelserver.client.folders import WORKERS
from modelserver.tools import bench

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from benchmarks.support.servers import Server

# Longer than any round.
_NO_END_S = 3600.0


def folder_rate(server: Server, model: str, folder: Path, workers: int) -> Rate:
    """Send each photo of a folder once.

    Raises:
        SystemExit: one was not answered.
    """
    with _timed(server) as timed, Client(server.url) as client:
        outcomes = list(client.detect_folder(folder, model, workers=workers))
    if any(one.error is not None for one in outcomes):
        raise SystemExit(f"A photo was not answered: {outcomes}")
    return timed.rate(len(outcomes))


def load_rate(server: Server, target: bench.Target, clients: int, answers: int) -> Rate:
    """Let the load generator ask for a number of answers."""
    with _timed(server) as timed:
        bench.run(target, clients, _NO_END_S, requests=answers)
    return timed.rate(answers)


class Rate(NamedTuple):
    """What one side reached.

    Attributes:
        per_second: answers.
        cpu_ms: processors' time for an answer, of the server and of who asked.
        own_cpu_ms: the part of who asked.
    """

    per_second: float
    cpu_ms: float
    own_cpu_ms: float


class _Timed:
    """Time on the wall and of the processors, of this process and of a server's."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.begin()

    def begin(self) -> None:
        self._began = time.perf_counter()
        self._own, self._servers = time.process_time(), self._processor_s()

    def _processor_s(self) -> float:
        return sum(self._server.processor_s().values())

    def end(self) -> None:
        self._took = time.perf_counter() - self._began
        self._own = time.process_time() - self._own
        self._servers = self._processor_s() - self._servers

    def rate(self, answers: int) -> Rate:
        own = 1000 * self._own / answers
        return Rate(answers / self._took, own + 1000 * self._servers / answers, own)


@contextmanager
def _timed(server: Server) -> Iterator[_Timed]:
    timed = _Timed(server)
    yield timed
    timed.end()


def measure(
    server: Server, model: str, photo: bytes, given: Namespace
) -> dict[str, Any]:
    """Measure in turns, after a warm-up of both."""
    counts = [int(count) for count in given.clients.split(",")]
    target = bench.Target.of(server.url, "/detect", model, [photo])
    bench.check(target)
    loads: dict[int, list[Rate]] = {count: [] for count in counts}
    folder = []
    with tempfile.TemporaryDirectory() as made:
        photos = Path(made)
        for number in range(given.photos):
            (photos / f"{number:04}.jpg").write_bytes(photo)
        folder_rate(server, model, photos, given.workers)
        for number in range(1, given.rounds + 1):
            results.say(f"client on {model}: round {number} of {given.rounds}")
            for count in counts:
                loads[count].append(load_rate(server, target, count, given.answers))
            folder.append(folder_rate(server, model, photos, given.workers))
    best = max(counts, key=lambda n: statistics.median(r.per_second for r in loads[n]))
    pairs = list(zip(folder, loads[best], strict=True))
    return {
        "best": {"clients": best, **_medians(loads[best])},
        "folder": _medians(folder),
        "share": statistics.median(f.per_second / b.per_second for f, b in pairs),
        "share_by_cpu": statistics.median(b.cpu_ms / f.cpu_ms for f, b in pairs),
    }


def _medians(rates: Sequence[Rate]) -> dict[str, float]:
    columns = zip(*rates, strict=True)
    return dict(zip(Rate._fields, map(statistics.median, columns), strict=True))


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--photos", type=int, default=128, help="in the folder")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--clients", default="2,4,8,16")
    parser.add_argument("--answers", type=int, default=256, help="to the generator")
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
