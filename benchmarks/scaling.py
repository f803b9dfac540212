"""Answers a second over the number of doors, with each process on cores of its own.

    python -m benchmarks.scaling [--doors 1,2,4,8] [--run-ms 20]

The real server, but that a model's process waits where it would run: so doors, engine
and decoders show, whatever a graph costs. Each kind of process runs on the cores that
it is given (``--door-cores 0-7``, and so on), by default on all; ``cores`` says how
many of them each kind used, so one that is full shows. ``ratio`` is to the first
number of doors.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import inputs, results, stubs
from benchmarks.support.servers import Server, children, command, descendants, started
from modelserver.tasks import by_kind
from modelserver.tools import bench

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MODEL = "waiting"
_KINDS = {
    "engine": "modelserver.engine.process",
    "decoder": stubs.DECODER,
    "runner": "benchmarks.support.stub_runner",
}
_WARM_UP_S = 1.0


def cores(text: str) -> set[int]:
    """Return the cores that ``0-3,8`` names; all for an empty text."""
    if not text:
        return os.sched_getaffinity(0)
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def processes(server: Server) -> dict[str, set[int]]:
    """Return the process ids of each kind of a server's processes."""
    below = descendants(server.process.pid)
    found = {
        kind: {pid for pid in below if module in command(pid)}
        for kind, module in _KINDS.items()
    }
    known = set().union(*found.values())
    return {"door": set(children(server.process.pid)) - known, **found}


def ask(target: bench.Target, clients: int, seconds: float, out: Connection) -> None:
    """Be one process of the load; tell good answers, others and latencies."""
    bench.run(target, clients, _WARM_UP_S)
    # All processes of the load count the same seconds.
    samples = bench.run(target, clients, seconds).samples
    good = [one.took_ms for one in samples if one.status == 200]  # noqa: PLR2004
    out.send((len(good), len(samples) - len(good), good))


def load(
    target: bench.Target, given: argparse.Namespace, clients: int
) -> tuple[float, int, list[float]]:
    """Have some clients ask; return answers a second, failures and latencies."""
    fork = multiprocessing.get_context("fork")
    ends, asking = [], []
    for _ in range(given.load_processes):
        ours, theirs = fork.Pipe()
        share = max(1, clients // given.load_processes)
        one = fork.Process(target=ask, args=(target, share, given.seconds, theirs))
        one.start()
        stubs.pin([one.pid or 0], cores(given.load_cores))
        ends.append(ours)
        asking.append(one)
    told = [end.recv() for end in ends]
    for one in asking:
        one.join()
    good, bad, took = (list(each) for each in zip(*told, strict=True))
    latencies = [each for some in took for each in some]
    return sum(good) / given.seconds, sum(bad), latencies


def measure(doors: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Measure a server with some doors."""
    route = by_kind("detection").endpoint.route
    settings = {
        "WORKERS": str(doors),
        "SLOTS": str(given.slots),
        "QUEUE_LENGTH": "1000",
        "MAX_QUEUE_WAIT_S": "30",
    }
    with (
        stubs.replaced(given.run_ms) as more,
        started(folder, environ={**settings, **more}) as server,
    ):
        photo = inputs.photo((given.side, given.side))
        target = bench.Target.of(server.url, route, MODEL, [photo])
        bench.check(target)
        # By now there are decoders.
        kinds = processes(server)
        for kind, pids in kinds.items():
            stubs.pin(pids, cores(getattr(given, f"{kind}_cores")))
        rounds = []
        for _ in range(given.rounds):
            before, begun = spent(kinds), time.perf_counter()
            found = load(target, given, given.clients * doors)
            passed = time.perf_counter() - begun
            used = {k: (s - before[k]) / passed for k, s in spent(kinds).items()}
            rounds.append((*found, used))
    return summary(doors, rounds)


def spent(kinds: dict[str, set[int]]) -> dict[str, float]:
    """Return the seconds of processors that each kind has had."""
    return {kind: sum(map(stubs.processor_s, pids)) for kind, pids in kinds.items()}


def summary(
    doors: int, rounds: list[tuple[float, int, list[float], dict[str, float]]]
) -> dict[str, Any]:
    """Return the medians of the rounds of one number of doors."""
    took = sorted(each for _, _, latencies, _ in rounds for each in latencies)
    if not took:
        raise SystemExit("No answer came; make --seconds longer.")
    used = [cores_used for *_, cores_used in rounds]
    return {
        "doors": doors,
        "per_second": round(statistics.median(rate for rate, *_ in rounds), 1),
        "failed": sum(bad for _, bad, *_ in rounds),
        "p50_ms": round(took[len(took) // 2], 1),
        "p99_ms": round(took[int(0.99 * (len(took) - 1))], 1),
        "cores": {
            kind: round(statistics.median(one[kind] for one in used), 2)
            for kind in used[0]
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--doors", default="1,2,4,8", help="numbers of doors")
    parser.add_argument("--run-ms", type=float, default=20, help="instead of a run")
    parser.add_argument("--slots", type=int, default=64, help="runs side by side")
    parser.add_argument("--clients", type=int, default=16, help="for each door")
    parser.add_argument("--side", type=int, default=128, help="of the photo, in pixels")
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load-processes", type=int, default=1)
    for kind in ("door", "engine", "decoder", "runner", "load"):
        parser.add_argument(f"--{kind}-cores", default="", help="such as 0-3,8")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        stubs.write_model(Path(folder), MODEL)
        for doors in map(int, given.doors.split(",")):
            row = measure(doors, Path(folder), given)
            first = rows[0]["per_second"] if rows else row["per_second"]
            rows.append({**row, "ratio": round(row["per_second"] / first, 2)})
            results.say(f"scaling: {rows[-1]}")
    results.write({"run_ms": given.run_ms, "side": given.side, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
