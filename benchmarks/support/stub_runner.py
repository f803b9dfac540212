"""A model's process that runs nothing: it answers each run after a wait, with a box.

``stubs`` has a server start it in place of ``modelserver.runner.child``. A model that
is named ``BUSY`` never answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

import msgspec
import numpy as np

from modelserver.core.channels import Channel
from modelserver.core.messages import (
    Array,
    Facts,
    Heartbeat,
    Job,
    LoadStarted,
    Order,
    Run,
    RunResult,
)
from modelserver.core.process_limits import end_with_parent
from modelserver.core.signatures import Signature

BUSY = "busy"
"""Name of a model that never answers."""

_BEAT_S = 2.0
_NEVER_S = 1e6
_ROLES = {
    "boxes": np.array([[0.1, 0.2, 0.6, 0.7]], np.float32),
    "scores": np.array([0.9], np.float32),
    "classes": np.array([1], np.float32),
    "count": np.array([1], np.float32),
}
_OUTPUTS = {role: Array.pack(values) for role, values in _ROLES.items()}


class StubRunner:
    """Answers runs in as many threads as there are slots.

    Args:
        channel: to the engine, of which a message brings a descriptor at most.
        wait_s: seconds that a run takes.
    """

    def __init__(self, channel: Channel, wait_s: float) -> None:
        self._channel = channel
        self._wait_s = wait_s
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._orders = msgspec.msgpack.Decoder(Order)

    def send(self, message: object) -> None:
        """Send a message. Thread-safe."""
        data = msgspec.msgpack.encode(message)
        with self._sending:
            self._channel.send(data)

    def load(self) -> int:
        """Take the job and say that it is loaded; return the number of slots."""
        job = msgspec.msgpack.decode(self._channel.receive()[0], type=Job)
        if job.name == BUSY:
            self._wait_s = _NEVER_S
        slots = job.slots or os.cpu_count() or 1
        signature = Signature(
            kind="detection",
            input="image_tensor:0",
            dtype="uint8",
            layout="NHWC",
            outputs={role: f"{role}:0" for role in _ROLES},
        )
        self.send(LoadStarted())
        self.send(
            Facts(
                signature=signature,
                device="CPU",
                slots=slots,
                max_batch=job.max_batch or 1,
                load_ms=1.0,
            )
        )
        return slots

    def work(self) -> None:
        """Answer runs until the socket closes."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                with self._receiving:
                    run = self._next_run()
                if self._wait_s:
                    time.sleep(self._wait_s)
                outputs = [_OUTPUTS] * len(run.frames)
                run_ms = self._wait_s * 1000
                self.send(RunResult(number=run.number, outputs=outputs, run_ms=run_ms))
        os._exit(0)

    def _next_run(self) -> Run:
        while True:
            data, descriptors = self._channel.receive()
            for descriptor in descriptors:
                os.close(descriptor)
            order = self._orders.decode(data)
            if isinstance(order, Run):
                return order

    def beat(self) -> None:
        """Say every other second that this process lives."""
        with contextlib.suppress(OSError):
            while True:
                time.sleep(_BEAT_S)
                self.send(Heartbeat())


def main(wait_ms: float, connection: int) -> None:
    """Be the process of one model."""
    end_with_parent()
    runner = StubRunner(Channel(socket.socket(fileno=connection), 1), wait_ms / 1000)
    slots = runner.load()
    # Without a wait one thread answers as fast as more would.
    threads = slots if wait_ms else 1
    for _ in range(threads):
        threading.Thread(target=runner.work).start()
    runner.beat()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
