"""Let everything go wrong, one thing after the other, while clients ask.

    python -m benchmarks.chaos [--minutes 10] [--out FILE]

A real server with three models gets 70 % of the requests that it can answer. The
``bystander`` is never touched: none of its requests may fail. The ``victim``'s process
is killed and stopped; the ``changing`` model's file is replaced, by good ones and by a
cut one; graphs that cannot be served are added; the disk for uploads is filled, if one
can be mounted; clients hang up; garbage comes in. Exits with 1 if something broke.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import inputs, open_loop, results
from benchmarks.support.open_loop import Request, Sent
from benchmarks.support.servers import Server, processor_s, started, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BYSTANDER, VICTIM, CHANGING = MODELS = ("bystander", "victim", "changing")
RUN_TIMEOUT_S = 3
"""Given to the server: a runner that does not answer for so long is replaced."""

_RECOVERY_S = 60.0
# An open circuit is tried again after ten minutes at the latest.
_CIRCUIT_S = 660.0
_FULL_S = 2.0
_SETTLE_S = 1.0
# That a bad model is refused belongs into the log.
_REFUSED = re.compile(rf"\b(hostile_\w+|{CHANGING})\b")
_ANSWERS = {"200", "cut"}
_WHILE_FULL = _ANSWERS | {"503", "507"}


@dataclass
class Chaos:
    """One run over a server.

    Attributes:
        events: each fault, its time, and how long until its victim served again.
        full: from when to when the disk was full.
    """

    server: Server
    folder: Path
    photo: bytes
    victim: int
    random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    events: list[dict[str, Any]] = field(default_factory=list)
    full: list[tuple[float, float]] = field(default_factory=list)
    versions: Iterator[int] = field(default_factory=itertools.count)

    def faults(self) -> list[Callable[[], dict[str, Any]]]:
        """Return all that can be done, in turn."""
        return [
            self.kill,
            self.replace,
            self.hang_up,
            self.fill_disk,
            self.corrupt,
            self.garbage,
            self.stop,
            self.drop_hostile,
        ]

    def do(self, fault: Callable[[], dict[str, Any]]) -> None:
        """Do one of them and note it."""
        at = time.monotonic()
        self.events.append({"event": fault.__name__, "at": at, **fault()})
        results.say(f"chaos: {self.events[-1]}")

    def serves(self, model: str) -> bool:
        """Ask a model once."""
        request = Request("probe", open_loop.post(self.server.port, model, self.photo))
        one = asyncio.run(open_loop.send(self.server.port, request, RUN_TIMEOUT_S))
        return one.status == "200"

    def recovery(self, model: str) -> dict[str, Any]:
        """Wait until a model serves; ``None`` if it does not."""
        took = wait(lambda: self.serves(model), _RECOVERY_S)
        return {"recovery_s": took if took < math.inf else None}

    def signalled(self, number: int) -> dict[str, Any]:
        """Send the victim's process a signal and wait until another one serves."""
        before, old = self.server.runners(), self.victim
        if old not in before:  # the last fault took longer than was waited for
            wait(lambda: self.serves(VICTIM), _CIRCUIT_S)
            before = self.server.runners()
            old = find_victim(self.server, self.photo)
        os.kill(old, number)
        begun = time.monotonic()
        fresh: set[int] = set()

        def replaced() -> bool:
            fresh.update(self.server.runners() - before)
            return bool(fresh) and old not in self.server.runners()

        if wait(replaced, _RECOVERY_S) == math.inf:
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGCONT)
            return {"recovery_s": None}
        found = self.recovery(VICTIM)
        self.victim = max(fresh & self.server.runners(), default=old)
        took = time.monotonic() - begun
        return found if found["recovery_s"] is None else {"recovery_s": took}

    def kill(self) -> dict[str, Any]:
        """SIGKILL the victim's process."""
        return self.signalled(signal.SIGKILL)

    def stop(self) -> dict[str, Any]:
        """SIGSTOP it: it is there and does nothing."""
        return self.signalled(signal.SIGSTOP)

    def replace(self) -> dict[str, Any]:
        """Put another version of a model in its place, whole."""
        graph = self.folder / f"{CHANGING}.frozen.pb"
        beside = self.folder / f"{CHANGING}.tmp"
        good = graph.read_bytes()
        beside.write_bytes(inputs.another_version(good, next(self.versions)))
        beside.replace(graph)
        return self.recovery(CHANGING)

    def corrupt(self) -> dict[str, Any]:
        """Cut a model's file, and repair it after a while."""
        graph = self.folder / f"{CHANGING}.frozen.pb"
        good = graph.read_bytes()
        graph.write_bytes(good[: len(good) // 2])
        time.sleep(3 * _SETTLE_S)
        graph.write_bytes(good)
        return self.recovery(CHANGING)

    def drop_hostile(self) -> dict[str, Any]:
        """Drop models that cannot be served, and take them away again."""
        good = (self.folder / f"{BYSTANDER}.frozen.pb").read_bytes()
        names = inputs.drop_models(self.folder, good)
        time.sleep(3 * _SETTLE_S)
        told = self.server.models()
        serving = [name for name in names if told.get(name, {}).get("state") == "READY"]
        for path in self.folder.glob("hostile_*"):
            path.unlink()
        return {"recovery_s": 0.0, "dropped": len(names), "serving": serving}

    def fill_disk(self) -> dict[str, Any]:
        """Fill the disk that uploads go to, and free it after a while."""
        if not self.server.small_disk:
            return {"recovery_s": None, "skipped": "no disk can be mounted here"}
        begun = time.monotonic()
        filler = self.server.uploads / "somebody-elses-file"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(_FULL_S)
        filler.unlink()
        freed = time.monotonic()
        found = self.recovery(BYSTANDER)
        self.full.append((begun - _SETTLE_S, freed + _SETTLE_S))
        return found

    def hang_up(self) -> dict[str, Any]:
        """Let 100 clients hang up, each somewhere else in its request."""
        port = self.server.port
        one = (inputs.cut(port, VICTIM, self.photo, self.random) for _ in range(100))
        return self.together(list(one))

    def garbage(self) -> dict[str, Any]:
        """Send bytes that are no request at all, and bad requests."""
        return self.together(inputs.garbage(self.server.port))

    def together(self, requests: list[Request]) -> dict[str, Any]:
        """Send requests at once; then the bystander must serve."""
        sent = open_loop.at_once(self.server.port, requests, 10)
        statuses = Counter(one.status for one in sent)
        return self.recovery(BYSTANDER) | {"statuses": dict(statuses)}


def find_victim(server: Server, photo: bytes) -> int:
    """Return the process of the victim: the one that works when only it is asked."""
    before = {pid: processor_s(pid) for pid in server.runners()}
    asked = [Request("", open_loop.post(server.port, VICTIM, photo))]
    open_loop.capacity(server.port, asked, 1.0)
    return max(before, key=lambda pid: processor_s(pid) - before[pid])


def failures(chaos: Chaos, sent: list[Sent]) -> dict[str, dict[str, int]]:
    """Return the requests that may not have failed, by model and status.

    While the disk is full nobody's photo can be kept: then 503 and 507 are right. The
    victim may be answered with 503 at any time; it tells so by itself.
    """
    found: dict[str, Counter[str]] = {model: Counter() for model in MODELS}
    for one in sent:
        full = any(start <= one.at <= end for start, end in chaos.full)
        allowed = _ANSWERS | ({"503"} if one.kind == VICTIM else set())
        if one.status not in (_WHILE_FULL if full else allowed):
            found[one.kind][one.status] += 1
    return {model: dict(counted) for model, counted in found.items()}


def run(server: Server, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Do everything in turn, at 70 % load, until the time is over."""
    photo, port = inputs.photo((320, 240)), server.port
    requests = [Request(model, open_loop.post(port, model, photo)) for model in MODELS]
    chaos = Chaos(server, folder, photo, find_victim(server, photo))
    load = open_loop.offered(port, requests, given)
    results.say(f"chaos: {load}")
    before, begun = server.facts(), time.monotonic()
    with open_loop.offer(port, load["offered"], open_loop.in_turn(requests)) as sent:
        over = False
        while not over:  # each at least once
            for fault in chaos.faults():
                chaos.do(fault)
                time.sleep(given.pause)
            over = time.monotonic() - begun > 60 * given.minutes
    wait(lambda: chaos.serves(VICTIM), _RECOVERY_S)
    # What a reload replaced ends when its last answer is out.
    wait(lambda: len(server.runners()) == before["runners"], _RECOVERY_S)
    time.sleep(_SETTLE_S)
    return {
        "seconds": time.monotonic() - begun,
        **load,
        "requests": open_loop.tally(sent),
        "failures": failures(chaos, sent),
        "events": [event | {"at": event["at"] - begun} for event in chaos.events],
        "before": before,
        "after": server.facts(),
        "harm": server.harm(_REFUSED.search),
    }


def broken(result: dict[str, Any]) -> list[str]:
    """Return all that must not be, in words."""
    failed = result["failures"].items()
    found = [f"{model}: {statuses}" for model, statuses in failed if statuses]
    for event in result["events"]:
        if event["recovery_s"] is None and "skipped" not in event:
            found.append(f"no recovery from {event['event']}")
        if event.get("serving"):
            found.append(f"served: {event['serving']}")
        found += [
            f"{event['event']} answered {status}"
            for status in event.get("statuses", {})
            if status.startswith("5") and status not in _WHILE_FULL
        ]
    runners = [result[when]["runners"] for when in ("before", "after")]
    if runners[0] != runners[1]:
        found.append(f"models' processes: {runners[0]} before, {runners[1]} after")
    found += result["harm"]
    return found


def main() -> None:
    """Let it happen, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    open_loop.add_load(parser)
    parser.add_argument("--pause", type=float, default=6, help="seconds between faults")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in MODELS:
            inputs.write_do_nothing(folder, model)
        environ = {"RUN_TIMEOUT_S": str(RUN_TIMEOUT_S), "RELOAD_S": "1"}
        with started(folder, disk="64m", environ=environ) as server:
            result = run(server, folder, given)
    results.write(result | {"broken": broken(result)}, given.out)


if __name__ == "__main__":
    main()
