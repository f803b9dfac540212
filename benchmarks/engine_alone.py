"""Photos a second of the engine's process alone, on one core.

    python -m benchmarks.engine_alone [--doors 2] [--window 64] [--engine-cores 0]

The real engine, between stand-ins that answer at once: doors that send photos and do no
HTTP, decoders that decode nothing, runners that run nothing, in processes of their own
and on other cores. One more door asks, a hundred times a second, a model whose queue is
full, and measures the refusals. ``per_core`` is what the engine's processor time for a
photo allows for on one core; ``per_second`` is less if the stand-ins' cores are full.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from benchmarks.support import results, stubs
from benchmarks.support.servers import descendants
from benchmarks.support.stub_runner import BUSY
from modelserver.core.messages.control import READY
from modelserver.core.messages.requests import (
    Ask,
    Evaluate,
    Refused,
    Seen,
    ToDoor,
    Told,
)
from modelserver.core.packets import PacketSocket
from modelserver.core.refusals import make_page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

MODEL = "quick"
_WAIT_S = 600.0
_START_S = 60.0
_WARM_UP_S = 1.0
_PROBE_EVERY_S = 0.01
_QUEUE = 512
_SETTINGS = {
    "QUEUE_LENGTH": str(_QUEUE),
    "THREADS": "4096",
    "MAX_QUEUE_WAIT_S": "600",
    "REQUEST_TIMEOUT_S": "600",
    "RUN_TIMEOUT_S": "3600",
    "SLOTS": "8",
}


class Door:
    """A door without HTTP: requests out, answers in, by one thread.

    Args:
        address: of the engine's socket.
    """

    def __init__(self, address: str) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(address)
        self._packets = PacketSocket(connection)
        self._packets.receive()  # its welcome
        self._answers = msgspec.msgpack.Decoder(ToDoor)
        self._number = 0
        self._upload = os.memfd_create("photo")
        os.write(self._upload, b"\xff\xd8\xff" + bytes(1000))

    def send(self, model: str) -> None:
        """Ask a model about a photo."""
        self._number += 1
        until = time.perf_counter() + _WAIT_S
        message = Evaluate(self._number, "detection", (model,), _WAIT_S, until)
        self._packets.send(msgspec.msgpack.encode(message), (self._upload,))

    def states(self) -> set[str]:
        """Return the states of all models."""
        self._number += 1
        self._packets.send(msgspec.msgpack.encode(Ask(self._number, "models")))
        told = self.receive()
        if not isinstance(told, Told):
            raise TypeError("no answer to a question")
        return {one["state"] for one in msgspec.msgpack.decode(told.body)["models"]}

    def receive(self) -> ToDoor:
        """Wait for an answer."""
        answer: ToDoor = self._answers.decode(self._packets.receive()[0])
        return answer

    def answered(self, seconds: float) -> bool:
        """Wait for an answer, but not for long; return whether one is there."""
        return bool(select.select([self._packets], [], [], seconds)[0])


def keep_asking(address: str, window: int, seconds: float, out: Connection) -> None:
    """Keep some photos with the engine; tell the answers, and those that were none."""
    door, answers, refusals = Door(address), 0, 0
    for _ in range(window):
        door.send(MODEL)
    begin = time.perf_counter() + _WARM_UP_S
    while (now := time.perf_counter()) < begin + seconds:
        good = isinstance(door.receive(), Seen)
        if now >= begin:
            answers += good
            refusals += not good
        door.send(MODEL)
    out.send((answers, refusals))


def keep_being_refused(
    address: str, _window: int, seconds: float, out: Connection
) -> None:
    """Fill a model's queue, then ask it now and then; tell how long refusals took."""
    door = Door(address)
    for _ in range(4 * _QUEUE):
        door.send(BUSY)
        if door.answered(0.001):
            break
    took: list[float] = []
    begin = time.perf_counter() + _WARM_UP_S
    while (sent := time.perf_counter()) < begin + seconds:
        door.send(BUSY)
        while not isinstance(door.receive(), Refused):
            pass
        now = time.perf_counter()
        if sent >= begin:
            took.append((now - sent) * 1000)
        time.sleep(max(0.0, _PROBE_EVERY_S - (now - sent)))
    out.send(took)


class Engine(NamedTuple):
    """The process that is measured, and where it listens."""

    process: subprocess.Popen[bytes]
    address: str


@contextlib.contextmanager
def engine(environ: dict[str, str]) -> Iterator[Engine]:
    """Start the engine's process as an arbiter does, and end it afterwards."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models, uploads = home / "models", home / "uploads"
        for folder in (models, uploads):
            folder.mkdir()
        for name in (MODEL, BUSY):
            stubs.write_model(models, name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(listener)
        listener.bind(str(home / "engine"))
        listener.listen()
        page = make_page()
        stack.callback(os.close, page)
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(control)
        given = [listener.fileno(), page, theirs.fileno()]
        environ |= {"MODEL_FOLDER": str(models), "UPLOAD_FOLDER": str(uploads)}
        command = [sys.executable, "-m", "modelserver.engine.process"]
        process = subprocess.Popen(
            [*command, *map(str, given), "detection"],
            stdout=subprocess.DEVNULL,
            pass_fds=given,
            env=environ,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        theirs.close()
        control.settimeout(_START_S)
        if control.recv(100) != READY:
            raise SystemExit("The engine does not start.")
        yield Engine(process, str(home / "engine"))


def wait_until_ready(address: str) -> None:
    """Wait until all models serve.

    Raises:
        SystemExit: they do not.
    """
    door, end = Door(address), time.monotonic() + _START_S
    while door.states() != {"READY"}:
        if time.monotonic() > end:
            raise SystemExit("The models are not loaded.")
        time.sleep(0.1)


def measure(
    one: Engine, doors: int, window: int, seconds: float, cores: set[int]
) -> dict[str, Any]:
    """Measure one round."""
    fork = multiprocessing.get_context("fork")
    ends, asking = [], []
    for number in range(doors + 1):
        ours, theirs = fork.Pipe()
        target = keep_asking if number else keep_being_refused
        arguments = (one.address, max(1, window // doors), seconds, theirs)
        process: ForkProcess = fork.Process(target=target, args=arguments)
        process.start()
        stubs.pin([process.pid or 0], cores)
        ends.append(ours)
        asking.append(process)
    time.sleep(_WARM_UP_S + 0.2 * seconds)
    before, begun = stubs.processor_s(one.process.pid), time.perf_counter()
    time.sleep(0.6 * seconds)
    spent = stubs.processor_s(one.process.pid) - before
    passed = time.perf_counter() - begun
    refusals, *told = [end.recv() for end in ends]
    for process in asking:
        process.join()
    per_second = sum(answers for answers, _ in told) / seconds
    return {
        "per_second": round(per_second),
        "per_core": round(per_second * passed / spent),
        "engine_us": round(1e6 * spent / passed / per_second),
        "engine_cores": round(spent / passed, 2),
        "unanswered": sum(refused for _, refused in told),
        "refusals": len(refusals),
        "refusal_p50_ms": round(statistics.median(refusals), 2),
        "refusal_p99_ms": round(statistics.quantiles(refusals, n=100)[-1], 2),
    }


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--doors", type=int, default=2)
    parser.add_argument("--window", type=int, default=64, help="photos in flight")
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine-cores", default="0", help="such as 0 or 0,2")
    given = parser.parse_args()
    theirs = {int(core) for core in given.engine_cores.split(",")}
    others = os.sched_getaffinity(0) - theirs or os.sched_getaffinity(0)
    rows = []
    with (
        stubs.replaced(0, decoders=True) as more,
        engine(stubs.environ({**_SETTINGS, **more})) as one,
    ):
        wait_until_ready(one.address)
        stubs.pin(descendants(one.process.pid), others)
        stubs.pin([one.process.pid], theirs)
        for _ in range(given.rounds):
            rows.append(measure(one, given.doors, given.window, given.seconds, others))
            results.say(f"engine_alone: {rows[-1]}")
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    facts = {"doors": given.doors, "window": given.window, "seconds": given.seconds}
    results.write({**facts, **medians, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
