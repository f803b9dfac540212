"""Let everything go wrong, one thing after the other, while clients ask.

    python -m benchmarks.chaos [--minutes 10] [--out FILE]

A real server with three models gets 70 % of the requests that it can answer. The
``bystander`` is never touched: none of its requests may fail. The ``victim``'s process
is killed and stopped; the ``changing`` model's file is replaced, by good ones and by a
cut one; graphs that cannot be served are added; the disk for uploads is filled, if one
can be mounted; clients hang up; garbage comes in. Doors, decoders and the engine are
killed and stopped, too: then those fail that were under way there, or, without an
engine, all until the models are loaded again. Exits with 1 if something broke.
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
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.support import inputs, open_loop, results
from benchmarks.support.open_loop import BROKEN, TIMEOUT, Request, Sent
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
# That a bad model is refused belongs into the log, and so does who was killed.
_TOLD = re.compile(
    rf"\b(hostile_\w+|{CHANGING})\b|was sent SIGKILL|the engine .* ended by SIGKILL"
)
_ANSWERS = {"200", "cut"}
_WHILE_FULL = {"503", "507"}
# What those see whose door goes; whose photo's decoder does; and all while the engine
# is away: a stopped one is missed after some seconds.
_AT_A_DOOR = {BROKEN, TIMEOUT}
_IN_A_DECODER = {"422"}
_WITHOUT_ENGINE = {"503", TIMEOUT}
# A signal takes that long to be felt.
_MOMENT_S = 0.5
_STOPPED_S = 5.0


class Window(NamedTuple):
    """A time in which requests may have other answers than 200.

    Attributes:
        also: their statuses.
    """

    start: float
    end: float
    also: set[str]

    def excuses(self, one: Sent) -> bool:
        """Return whether a request was under way in this time and ended so."""
        ended = one.at + one.took_ms / 1000
        return one.status in self.also and one.at <= self.end and ended >= self.start


@dataclass
class Chaos:
    """One run over a server.

    Attributes:
        events: each fault, its time, and how long until its victim served again.
        windows: when other answers than 200 were right.
    """

    server: Server
    folder: Path
    photo: bytes
    victim: int
    random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    events: list[dict[str, Any]] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    versions: Iterator[int] = field(default_factory=itertools.count)

    def faults(self) -> list[Callable[[], dict[str, Any]]]:
        """Return all that can be done, in turn."""
        return [
            self.kill,
            self.replace,
            self.kill_decoder,
            self.hang_up,
            self.kill_template,
            self.kill_door,
            self.fill_disk,
            self.stop_decoder,
            self.corrupt,
            self.garbage,
            self.stop,
            self.stop_door,
            self.drop_hostile,
            self.kill_engine,
            self.stop_engine,
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

    def strike(
        self, kind: Callable[[], set[int]], number: int, also: set[str]
    ) -> dict[str, Any]:
        """Send a signal to one process of a kind; wait for another in its place.

        Args:
            kind: returns the processes of the kind.
            also: what requests that are under way there may be answered with.
        """
        before = kind()
        one, begun = self.random.choice(sorted(before)), time.monotonic()
        self.windows.append(Window(begun, begun + _MOMENT_S, also))
        os.kill(one, number)

        def replaced() -> bool:
            now = kind()
            return one not in now and len(now) >= len(before)

        took = wait(replaced, _RECOVERY_S)
        if took == math.inf:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)
        return {"recovery_s": took if took < math.inf else None}

    def kill_door(self) -> dict[str, Any]:
        """SIGKILL a door: those whose connections it has lose them."""
        return self.strike(self.server.doors, signal.SIGKILL, _AT_A_DOOR)

    def stop_door(self) -> dict[str, Any]:
        """SIGSTOP a door for a while; another one answers who comes then."""
        one = self.random.choice(sorted(self.server.doors()))
        begun = self.stopped_for_a_while(one)
        self.windows.append(Window(begun, begun + _MOMENT_S, _AT_A_DOOR))
        return self.recovery(BYSTANDER)

    def stopped_for_a_while(self, pid: int) -> float:
        """Stop a process and have it go on; return when it was stopped."""
        begun = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        return begun

    def decoders(self) -> set[int]:
        """Return the decoders without their template, which started first."""
        every = self.server.decoders()
        return every - {min(every, default=0)}

    def kill_decoder(self) -> dict[str, Any]:
        """SIGKILL a decoder: its photo is tried again, once."""
        return self.strike(self.decoders, signal.SIGKILL, _IN_A_DECODER)

    def kill_template(self) -> dict[str, Any]:
        """SIGKILL the decoders' template, and with it all: photos wait for others."""
        begun = time.monotonic()
        os.kill(min(self.server.decoders()), signal.SIGKILL)
        found = self.recovery(BYSTANDER)
        # More photos come meanwhile than may wait.
        also = _IN_A_DECODER | {"503"}
        self.windows.append(Window(begun, time.monotonic() + _MOMENT_S, also))
        return found

    def stop_decoder(self) -> dict[str, Any]:
        """SIGSTOP a decoder, which the next photo for it shows."""
        return self.strike(self.decoders, signal.SIGSTOP, _IN_A_DECODER)

    def kill_engine(self) -> dict[str, Any]:
        """SIGKILL the engine: all models are loaded again."""
        begun = time.monotonic()
        found = self.strike(self.server.engines, signal.SIGKILL, _WITHOUT_ENGINE)
        for model in MODELS:
            if self.recovery(model)["recovery_s"] is None:
                found = {"recovery_s": None}
        ended = time.monotonic()
        self.windows.append(Window(begun, ended, _WITHOUT_ENGINE))
        self.victim = find_victim(self.server, self.photo)
        took = found["recovery_s"] and ended - begun
        return {"recovery_s": took}

    def stop_engine(self) -> dict[str, Any]:
        """SIGSTOP the engine for a while: it goes on where it was."""
        (one,) = self.server.engines()
        begun = self.stopped_for_a_while(one)
        found = self.recovery(BYSTANDER)
        self.windows.append(Window(begun, time.monotonic(), _WITHOUT_ENGINE))
        return found

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
        full = Window(begun - _SETTLE_S, freed + _SETTLE_S, _WHILE_FULL)
        self.windows.append(full)
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

    While the disk is full nobody's photo can be kept: then 503 and 507 are right, and
    other faults have their own. The victim may be answered with 503 at any time.
    """
    found: dict[str, Counter[str]] = {model: Counter() for model in MODELS}
    for one in sent:
        if is_failure(chaos, one):
            found[one.kind][one.status] += 1
    return {model: dict(counted) for model, counted in found.items()}


def is_failure(chaos: Chaos, one: Sent) -> bool:
    """Return whether a request may not have ended so."""
    allowed = _ANSWERS | ({"503"} if one.kind == VICTIM else set())
    excused = any(window.excuses(one) for window in chaos.windows)
    return one.status not in allowed and not excused


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
        "failed_at": [one.at - begun for one in sent if is_failure(chaos, one)],
        "events": [event | {"at": event["at"] - begun} for event in chaos.events],
        "before": before,
        "after": server.facts(),
        "harm": server.harm(_TOLD.search),
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
            if status.startswith("5") and status not in _ANSWERS | _WHILE_FULL
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
        environ |= {"WORKERS": "2"}
        with started(folder, disk="64m", environ=environ) as server:
            result = run(server, folder, given)
    results.write(result | {"broken": broken(result)}, given.out)


if __name__ == "__main__":
    main()
