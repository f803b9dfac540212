"""Run the process of one model: ``python -m modelserver.runner.child``.

``ProcessRunner`` starts it with one inherited descriptor: a socket for messages. It
loads one model under limits, answers with ``Facts`` or ``LoadError``, then runs each
batch that arrives until the socket's other end is gone. The memories that images lie in
come over the socket, as descriptors for reading only.

It ignores SIGINT, SIGTERM and others, which a terminal or a service manager sends to a
whole group: the engine decides when a runner ends. It obeys the socket at once, also
during a load or a run, because the thread that watches it ends the process from outside
both. If the engine is gone the kernel ends it, also one that is stopped.

Log lines go through the socket, too; stdout and stderr are a pipe to the engine, for
the output of TensorFlow and of graphs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import socket
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import process_limits
from modelserver.core.channels import MAX_BYTES, Channel
from modelserver.core.errors import (
    DeviceFailed,
    ModelError,
    OtherTask,
    OutOfMemory,
    RequestError,
    RunnerDied,
)
from modelserver.core.messages import (
    Array,
    Heartbeat,
    Job,
    LoadError,
    LoadStarted,
    LogLine,
    Map,
    Order,
    Reply,
    Run,
    RunError,
    RunResult,
    Unmap,
)
from modelserver.runner.inline import facts, import_tensorflow, open_session, run_images
from modelserver.runner.memories import Memories
from modelserver.tasks import message_bytes, raw_message_bytes

if TYPE_CHECKING:
    from modelserver.runner.sessions import ModelSession

log = logging.getLogger(__name__)

# The engine takes a process that was silent for five times as long for dead.
_BEAT_S = 2.0
_MAX_LINE_CHARS = 2000
# EX_TEMPFAIL and EX_PROTOCOL of sysexits.h. After the first the next process may do
# better.
_LOST, _NONSENSE = 75, 76


class Child:
    """One model behind a socket.

    Args:
        channel: messages in, with a descriptor at most, and out.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._memories = Memories()
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(Order)
        self._lost = False
        self._limit = self._raw_limit = MAX_BYTES

    def send(self, reply: Reply) -> None:
        """Send one message. Thread-safe."""
        self._send(msgspec.msgpack.encode(reply))

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._channel.send(data)

    def load(self) -> ModelSession | None:
        """Receive the job, load it within its limits and report the result."""
        job = msgspec.msgpack.decode(self._channel.receive()[0], type=Job)
        import_tensorflow(job.card.gpu)
        allowed = process_limits.load_limit(job)
        limited = False

        def limit(on_gpu: bool) -> None:  # noqa: FBT001 - the one thing it is told
            nonlocal limited
            limited = not on_gpu
            self.send(LoadStarted(on_gpu=on_gpu))
            if on_gpu:
                process_limits.limit_files()
            else:
                process_limits.limit_loading(allowed)

        try:
            session = open_session(job, limit)
        except (ModelError, MemoryError) as error:
            process_limits.lift_all()
            self.send(_load_error(error, allowed if limited else None))
            return None
        process_limits.lift_loading()
        found = facts(session)
        self._raw_limit = raw_message_bytes(job)
        self._limit = message_bytes(found.signature, found.max_batch)
        self.send(found)
        return session

    def work(self, session: ModelSession) -> None:
        """Take runs from the socket, one at a time, until it closes.

        A run that lost the card's context ends the process, and so does a message that
        cannot be read.

        Each slot's thread does this. The thread that holds the lock waits for a message
        and then runs it itself, so a run changes no thread between socket and session.
        """
        while True:
            try:
                with self._receiving:
                    run = self._next_run()
                self._send(self.answer(session, run))
            except (EOFError, OSError):
                return
            except (ValueError, msgspec.DecodeError):
                log.exception("a message from the engine makes no sense")
                os._exit(_NONSENSE)
            if self._lost:
                os._exit(_LOST)

    def _next_run(self) -> Run:
        """Wait for a run; map and unmap memories until it comes."""
        while True:
            data, descriptors = self._channel.receive()
            message = self._decoder.decode(data)
            if isinstance(message, Run):
                return message
            if isinstance(message, Unmap):
                self._memories.drop(message.memory)
            else:
                self._map(message, descriptors)

    def _map(self, message: Map, descriptors: list[int]) -> None:
        """Map a memory; if that fails, so does each run that names it, in words."""
        try:
            (descriptor,) = descriptors
            self._memories.map(message.memory, descriptor, message.size)
        except (OSError, ValueError) as error:
            log.warning("memory for images cannot be mapped: %s", error)
        finally:
            for one in descriptors:
                os.close(one)

    def answer(self, session: ModelSession, message: Run) -> bytes:
        """Run a graph on the images that a message names; returns an encoded reply."""
        full = False
        try:
            data = msgspec.msgpack.encode(self._run(session, message))
        except MemoryError:
            reason = "there was not enough memory for its images or its outputs"
            full = True
        except Exception as failure:  # noqa: BLE001 - a thread's edge: somebody waits for an answer
            reason = f"{type(failure).__name__}: {failure}"
        else:
            limit = self._raw_limit if message.raw else self._limit
            if len(data) <= limit:
                return data
            reason = f"its outputs have {len(data)} bytes, more than {limit}"
            return msgspec.msgpack.encode(_bad_output(message.number, reason))
        reason = reason[:_MAX_LINE_CHARS]
        error = RunError(number=message.number, reason=reason, out_of_memory=full)
        return msgspec.msgpack.encode(error)

    def _run(self, session: ModelSession, message: Run) -> Reply:
        try:
            images = [
                self._memories.view(
                    frame.memory, frame.offset, frame.shape, frame.dtype
                )
                for frame in message.frames
            ]
            results = run_images(session, images, raw=message.raw)
        except RequestError as error:
            # No later run on this card would go well in this process.
            lost = isinstance(error, RunnerDied)
            # Another slot's run may fail otherwise before this one's thread has looked.
            self._lost |= lost
            return RunError(
                number=message.number,
                reason=str(error.__cause__ or error)[:_MAX_LINE_CHARS],
                out_of_memory=isinstance(error, OutOfMemory),
                lost=lost,
            )
        try:
            packed = [
                {role: Array.pack(array) for role, array in result.outputs.items()}
                for result in results
            ]
        except TypeError as error:
            return _bad_output(message.number, str(error))
        return RunResult(
            number=message.number,
            outputs=packed,
            run_ms=results[0].run_ms,
            first=results[0].first,
        )

    def watch(self) -> None:
        """Send heartbeats, and end this process with the socket.

        Blocks. Ends the process as soon as the socket's other end is closed.
        """
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLRDHUP)
        with contextlib.suppress(OSError):
            while not poll.poll(_BEAT_S * 1000):
                self.send(Heartbeat())
        os._exit(0)


def _bad_output(number: int, reason: str) -> RunError:
    return RunError(number=number, reason=reason, out_of_memory=False, bad_output=True)


def _load_error(error: ModelError | MemoryError, allowed: int | None) -> LoadError:
    """Explain why a load failed; ``allowed``: its limit in bytes, if it had one."""
    full = isinstance(error, MemoryError) or isinstance(error.__cause__, OutOfMemory)
    if full and allowed is not None:
        reason = (
            f"Loading it needs more than {allowed // process_limits.MIB} MiB of memory,"
            " which is all that it may use (MODEL_MEMORY_MB)."
        )
        return LoadError(reason=reason)
    if isinstance(error, MemoryError):
        return LoadError(reason="There is not enough main memory to load it.")
    if isinstance(error, OtherTask):
        return LoadError(reason=str(error), tensors=error.tensors)
    device = isinstance(error, DeviceFailed)
    return LoadError(reason=str(error), kind="device" if device else "files")


class Sender(logging.Handler):
    """Sends log records to the engine.

    Args:
        child: whose socket to use.
    """

    def __init__(self, child: Child) -> None:
        super().__init__(logging.INFO)
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record as a line. Thread-safe."""
        text = self.format(record)[:_MAX_LINE_CHARS]
        # Without an engine there is nobody to tell.
        with contextlib.suppress(OSError):
            self._child.send(LogLine(level=record.levelno, text=text))


def main(socket_fd: int) -> None:
    """Serve one model until the engine closes the socket."""
    process_limits.ignore_signals()
    process_limits.end_with_parent()
    process_limits.forbid_core_dumps()
    channel = Channel(socket.socket(fileno=socket_fd), takes=1)
    with contextlib.closing(channel):
        serve(Child(channel))


def serve(child: Child) -> None:
    """Load a model and run the batches that arrive, until the socket is closed."""
    threading.Thread(target=child.watch, name="watch", daemon=True).start()
    logging.basicConfig(handlers=[Sender(child)], level=logging.INFO)
    session = child.load()
    if session is None:
        return
    # TensorFlow's half a million objects stay: the collector need not look at them.
    gc.freeze()
    threads = [
        threading.Thread(target=child.work, args=(session,), name=f"slot-{number}")
        for number in range(session.slots)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # As the watching thread does: TensorFlow's own end takes long and may hang.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
