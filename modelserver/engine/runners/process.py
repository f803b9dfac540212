"""The runner that keeps the session in a process of its own.

A valid frozen graph can kill its process, a run cannot be interrupted, and GPU memory
comes back only when a process exits: so each model has one, which may die or be killed
without harm to the front or to other models.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import Future
from itertools import count, islice
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import cuda
from modelserver.core.errors import (
    DeviceFailed,
    GraphError,
    ModelCrashed,
    ModelError,
    OutOfMemory,
    RequestError,
    RunFailed,
    RunnerDied,
)
from modelserver.core.frames import Arena, Frame, Memory
from modelserver.core.messages import (
    Facts,
    FrameRef,
    Heartbeat,
    ImageResult,
    Job,
    LoadError,
    LoadStarted,
    LogLine,
    Map,
    Reply,
    Run,
    RunError,
    RunResult,
    Unmap,
)
from modelserver.core.process_limits import MIB, load_limit, serving_limit
from modelserver.engine.runners.child_process import ChildProcess
from modelserver.engine.runners.output import add_words, explain_fallback
from modelserver.engine.runners.watchdog import Activity, Signs, Watchdog
from modelserver.tasks import message_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.messages import Order

log = logging.getLogger(__name__)

# How long our own threads are waited for once the process is gone.
_JOIN_S = 2.0
# TensorFlow is read from disk, by several processes at once on a fresh machine.
_IMPORT_S = 300.0
# One run more than the child has slots lies in its socket, so that a slot that gets
# free starts it at once and does not wait for the front.
_AHEAD = 1
_REASON_CHARS = 500
_COMPILES = (
    "; for a card that is newer than this TensorFlow the driver compiles each kernel"
    " first. It keeps them (CUDA_CACHE_PATH), so the next try gets further"
)
_LOST_CHARS = 200


class ProcessRunner:
    """Runs a graph in a child process; see ``Runner`` for the promises.

    Args:
        job: the model to load.
        arena_bytes: memory for all images in flight.
        load_timeout_s: a child that is not ready by then, counted from the end of
            TensorFlow's import, is killed.
        gpu_load_timeout_s: the same for a child that runs on a card.
        run_timeout_s: a child whose run takes longer is killed.
    """

    ahead = _AHEAD

    def __init__(
        self,
        job: Job,
        *,
        arena_bytes: int,
        load_timeout_s: float = 120.0,
        gpu_load_timeout_s: float = 600.0,
        run_timeout_s: float = 60.0,
    ) -> None:
        self._job = job
        self._arena = Arena(arena_bytes)
        self._run_timeout_s = run_timeout_s
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._numbers = count()
        # In the order they were sent, so the first ones are those that run.
        self._pending: dict[int, Future[Sequence[ImageResult]]] = {}
        self._lock = threading.Lock()
        # A memory that is retired while it is being mapped comes back by it.
        self._sending = threading.RLock()
        self._mapped: dict[int, Memory] = {}
        self._ended: Future[str] = Future()
        self._child = ChildProcess(job.name, job.card.gpu)
        self._reader: threading.Thread | None = None
        self._dead = False
        self._slots = 0
        self._heard_s: float | None = None
        self._memory_limit = load_limit(job)
        self._importing = Activity(
            "import", _IMPORT_S, f"TensorFlow was not imported after {_IMPORT_S:g} s"
        )
        self._loading = _load_activity("(LOAD_TIMEOUT_S)", load_timeout_s)
        self._compiling = _load_activity(
            "(GPU_LOAD_TIMEOUT_S)", gpu_load_timeout_s, _COMPILES
        )
        self._start_up: Activity | None = self._importing
        self._watchdog = Watchdog(
            f"watch-{job.name}",
            self._signs,
            self._child.kill,
            tick_s=min(load_timeout_s, run_timeout_s) / 4,
        )

    @property
    def ended(self) -> Future[str]:
        """Resolves when the process is gone: the signal or exit code, and why."""
        return self._ended

    @property
    def pid(self) -> int | None:
        """The child's process id, once started."""
        return self._child.pid

    def open(self) -> Facts:
        """Start the process and wait until its model is warm; see ``Runner.open``."""
        try:
            self._arena.open()
            self._child.start(tuple(self._job.held.values()))
            self._watchdog.start()
            facts = self._load()
            self._slots = facts.slots
            self._child.limit_messages(message_bytes(facts.signature, facts.max_batch))
            self._memory_limit = serving_limit(self._job, facts.slots)
            self._heard_s, self._start_up = time.monotonic(), None
            reader = threading.Thread(
                target=self._receive, name=f"replies-{self._job.name}", daemon=True
            )
            reader.start()
            self._reader = reader
        except BaseException:
            self.close()
            raise
        return facts

    def _load(self) -> Facts:
        """Send the job and wait for the facts that its load finds out."""
        try:
            self._child.send(msgspec.msgpack.encode(self._job))
            reply = self._decoder.decode(self._child.receive())
            while isinstance(reply, LoadStarted | Heartbeat | LogLine):
                self._note(reply)
                reply = self._decoder.decode(self._child.receive())
        except (EOFError, OSError) as error:
            raise self._crash() from error
        except (msgspec.DecodeError, ValueError) as error:
            raise ModelCrashed("The model's process sent nonsense.") from error
        if isinstance(reply, LoadError):
            raise self._refusal(reply)
        if not isinstance(reply, Facts):
            raise ModelCrashed("The model's process sent no facts first.")
        return explain_fallback(reply, self._child.output.about_cards)

    def _refusal(self, reply: LoadError) -> ModelError:
        """Return the error of a child that could not load its model."""
        if reply.kind == "files":
            return GraphError(reply.reason)
        # It ends by itself; all that TensorFlow printed is there once it has.
        self._child.reap()
        self._child.output.join(_JOIN_S)
        return DeviceFailed(add_words(reply.reason, self._child.output.about_cards))

    def _crash(self) -> ModelError:
        """Return the error of a child that died before it was ready."""
        how = self._child.reap()
        self._log_last()
        if verdict := self._child.verdict:
            return ModelCrashed(
                f"The model's process was ended while loading it: {verdict}.",
                # It had not read the files yet, or its compiled kernels are kept.
                from_outside=self._start_up in {self._importing, self._compiling},
            )
        output = self._child.output
        if self._job.card.gpu is not None:
            died = f"The model's process died while loading it on a GPU: {how}."
            words = output.about_cards or (output.last,)
            if any(map(cuda.fault, words)) or cuda.fault(output.last):
                return DeviceFailed(add_words(died, words))
            return ModelCrashed(died, from_outside=how == signal.SIGKILL.name)
        return ModelCrashed(
            f"The model's process died while loading it: {how}. It may use "
            f"{self._memory_limit // MIB} MiB of memory (MODEL_MEMORY_MB).",
            from_outside=how == signal.SIGKILL.name,
        )

    def _note(self, reply: LoadStarted | Heartbeat | LogLine) -> None:
        """Handle a message that answers no request."""
        if isinstance(reply, Heartbeat):
            self._heard_s = time.monotonic() if self._heard_s is not None else None
        elif isinstance(reply, LogLine):
            self._child.output.say(reply.level, reply.text)
        elif self._start_up is self._importing:
            self._start_up = self._compiling if reply.on_gpu else self._loading

    def _signs(self) -> Signs:
        """Return the signs that the watchdog judges."""
        activities = [self._start_up] if self._start_up is not None else []
        with self._lock:
            running = list(islice(self._pending, self._slots))
        limit_s = self._run_timeout_s
        sentence = f"a run took longer than {limit_s:g} s (RUN_TIMEOUT_S)"
        activities += [Activity(number, limit_s, sentence) for number in running]
        return Signs(
            activities,
            self._heard_s,
            unread=self._child.has_sent(),
            memory=self._child.memory(),
            memory_limit=self._memory_limit,
        )

    def allocate(self, shape: tuple[int, ...]) -> Frame:
        """See ``Runner.allocate``."""
        return self._arena.allocate(shape)

    def run(self, frames: Sequence[Frame]) -> Future[Sequence[ImageResult]]:
        """See ``Runner.run``."""
        future: Future[Sequence[ImageResult]] = Future()
        refs = [
            FrameRef(frame.memory.number, frame.offset, frame.shape) for frame in frames
        ]
        with self._sending:
            for frame in frames:
                if frame.memory.number not in self._mapped:
                    self._map(frame.memory)
            number = next(self._numbers)
            with self._lock:
                if self._dead:
                    raise RunnerDied
                self._pending[number] = future
            self._send(Run(number, refs))
        return future

    def _map(self, memory: Memory) -> None:
        """Give the child a memory to read images from."""
        try:
            descriptor = memory.open_read_only()
        except OSError as error:
            log.warning("%s: its process gets no images: %s", self._job.name, error)
            raise RunFailed from error
        try:
            self._send(Map(memory.number, memory.size), (descriptor,))
        finally:
            os.close(descriptor)
        self._mapped[memory.number] = memory
        memory.tell_reader(self._unmap)

    def _unmap(self, memory: Memory) -> None:
        with self._sending:
            if self._mapped.pop(memory.number, None) is not None:
                self._send(Unmap(memory.number))

    def _send(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        try:
            self._child.send(msgspec.msgpack.encode(order), descriptors)
        except OSError:
            # The reader sees the same end and fails all that is pending.
            log.debug("%s: the process is gone", self._job.name)

    def _receive(self) -> None:
        """Give each reply to the future that waits for it, until the child is gone."""
        try:
            while True:
                self._settle(self._decoder.decode(self._child.receive()))
        except (EOFError, OSError):
            pass
        except Exception:  # a thread's edge: its end must be told in any case
            log.exception("%s: its process sent nonsense", self._job.name)
            self._child.kill("it sent nonsense")
        how = self._child.reap()
        self._watchdog.stop()
        with self._lock:
            self._dead = True
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(RunnerDied())
        if self._child.open:
            self._log_last()
        self._ended.set_result(how)

    def _settle(self, reply: Reply) -> None:
        if isinstance(reply, RunResult):
            results = [
                ImageResult(
                    {role: array.unpack() for role, array in arrays.items()},
                    reply.run_ms,
                    reply.first,
                )
                for arrays in reply.outputs
            ]
            self._take(reply.number).set_result(results)
        elif isinstance(reply, RunError):
            reason = reply.reason[:_REASON_CHARS]
            log.warning("%s: a run failed: %s", self._job.name, reason)
            self._take(reply.number).set_exception(_run_error(reply))
            if reply.lost:
                # It ends itself, too, unless even that hangs.
                self._child.kill(f"its GPU's context was lost: {reason[:_LOST_CHARS]}")
        elif isinstance(reply, Heartbeat | LogLine):
            self._note(reply)
        else:
            raise TypeError("a load was answered twice")

    def _take(self, number: int) -> Future[Sequence[ImageResult]]:
        with self._lock:
            return self._pending.pop(number)

    def _log_last(self) -> None:
        """Log the last lines that the process printed, which often say why it died."""
        self._child.output.join(_JOIN_S)
        if last := self._child.output.last:
            fields = {"model": self._job.name, "line": last}
            log.warning("the last that a model's process printed", extra=fields)

    def close(self) -> None:
        """Close the socket, which ends the child, or else kill it. Idempotent."""
        self._watchdog.stop()
        if self._child.open:
            self._child.hang_up()
            self._child.reap()
            if self._reader is not None:
                self._reader.join(_JOIN_S)
            self._child.close()
        for memory in list(self._mapped.values()):
            memory.forget_reader(self._unmap)
        self._arena.close()


def _run_error(reply: RunError) -> RequestError:
    """Return the error for the callers of a failed run."""
    if reply.lost:
        return RunnerDied()
    return OutOfMemory() if reply.out_of_memory else RunFailed()


def _load_activity(setting: str, limit_s: float, more: str = "") -> Activity:
    """Make the activity of loading, which a setting limits."""
    sentence = f"it was not ready after {limit_s:g} s {setting}{more}"
    return Activity("load", limit_s, sentence)
