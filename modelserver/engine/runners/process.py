"""The runner that keeps the session in a process of its own.

A valid frozen graph can kill its process, a run cannot be interrupted, and GPU memory
comes back only when a process exits: so each model has one, which may die or be killed
without harm to the engine or to other models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from concurrent.futures import Future, wait
from itertools import count, islice
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import cuda
from modelserver.core.errors import (
    BadModelOutput,
    DeviceFailed,
    GraphError,
    ModelCrashed,
    ModelError,
    OtherTask,
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
from modelserver.engine.loop import Loop
from modelserver.engine.runners.child_process import (
    CLOSE_S,
    KILL_S,
    STAYED,
    ChildProcess,
)
from modelserver.engine.runners.output import add_words, explain_fallback
from modelserver.engine.runners.watchdog import Activity, Signs, Watchdog
from modelserver.tasks import message_bytes, raw_message_bytes

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Sequence

    from modelserver.core.messages import Order

log = logging.getLogger(__name__)

# How long our own threads are waited for once the process is gone.
_JOIN_S = 3.0
# TensorFlow is read from disk, by several processes at once on a fresh machine.
_IMPORT_S = 300.0
# One run more than the child has slots lies in its socket, so that a slot that gets
# free starts it at once and does not wait for the engine.
_AHEAD = 1
_REASON_CHARS = 500
_COMPILES = (
    "; for a card that is newer than this TensorFlow the driver compiles each kernel"
    " first. It keeps them (CUDA_CACHE_PATH), so the next try gets further"
)
_LOST_CHARS = 200
# Some heartbeats and lines for the log are usual; one thread reads for all models.
_UNASKED, _WINDOW_S = 2000, 10.0
# A socket holds no more than some of these; a process's own may hold it open.
_LAST_READS = 16


class ProcessRunner:
    """Runs a graph in a child process; see ``Runner`` for the promises.

    Args:
        job: the model to load.
        arena_bytes: memory for all images in flight.
        load_timeout_s: a child that is not ready by then, counted from the end of
            TensorFlow's import, is killed.
        gpu_load_timeout_s: the same for a child that runs on a card.
        run_timeout_s: a child whose run takes longer is killed.
        loop: hears the child, and resolves all futures in its thread; by default one
            of the runner's own.
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
        loop: Loop | None = None,
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
        self._loop = loop
        self._own_loop: Loop | None = None
        self._loaded: Future[Facts | LoadError] = Future()
        self._listening = False
        self._dead = False
        self._timers: list[TimerHandle] = []
        self._window, self._unasked = 0.0, 0
        self._slots = 0
        self._heard_s: float | None = None
        self._memory_limit = load_limit(job)
        self._importing = _import_activity()
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
            if self._loop is None:
                self._loop = self._own_loop = Loop(f"loop-{self._job.name}")
                self._loop.start()
            loop = self._loop
            self._child.start(
                tuple(self._job.held.values()),
                reaped=lambda: loop.call(self._bury),
                silent=lambda: loop.call(self._tell_end),
            )
            self._watchdog.start()
            return self._load(loop)
        except BaseException:
            self.close()
            raise

    def _load(self, loop: Loop) -> Facts:
        """Send the job and wait for the facts that its load finds out."""
        channel = self._child.channel
        try:
            # Blocks, as nobody else uses the socket yet; the watchdog ends a process
            # that does not read.
            channel.send(msgspec.msgpack.encode(self._job))
            channel.never_block()
            loop.call(self._listen)
            reply = self._loaded.result()
        except (EOFError, OSError) as error:
            raise self._crash() from error
        if isinstance(reply, LoadError):
            raise self._refusal(reply)
        return explain_fallback(reply, self._child.output.about_cards)

    def _refusal(self, reply: LoadError) -> ModelError:
        """Return the error of a child that could not load its model."""
        if reply.tensors is not None:
            return OtherTask(reply.reason, reply.tensors)
        if reply.kind == "files":
            return GraphError(reply.reason)
        # It ends by itself; all that TensorFlow printed is there once it has.
        self._child.reap()
        self._child.output.join(_JOIN_S)
        return DeviceFailed(add_words(reply.reason, self._child.output.about_cards))

    def _crash(self) -> ModelError:
        """Return the error of a child that died before it was ready."""
        how = self._child.reap()
        self._child.output.join(_JOIN_S)
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
        self._count_unasked()
        if isinstance(reply, Heartbeat):
            self._heard_s = time.monotonic() if self._heard_s is not None else None
        elif isinstance(reply, LogLine):
            self._child.output.say(reply.level, reply.text)
        elif self._start_up is self._importing:
            self._start_up = self._compiling if reply.on_gpu else self._loading

    def _count_unasked(self) -> None:
        """Count a message that answers no request; end a process that floods us."""
        now = time.monotonic()
        if now - self._window > _WINDOW_S:
            self._window, self._unasked = now, 0
        self._unasked += 1
        if self._unasked > _UNASKED:
            self._child.kill(f"it sent more than {_UNASKED} messages unasked")
            raise ValueError("too many messages that answer nothing")

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
        # Nobody can cancel what the process is doing.
        future.set_running_or_notify_cancel()
        refs = [
            FrameRef(
                frame.memory.number, frame.offset, frame.shape, frame.dtype or "|u1"
            )
            for frame in frames
        ]
        raw = any(frame.dtype is not None for frame in frames)
        if raw:
            most = raw_message_bytes(self._job)
            self._child.channel.limit = max(self._child.channel.limit, most)
        with self._sending:
            for frame in frames:
                if frame.memory.number not in self._mapped:
                    self._map(frame.memory)
            number = next(self._numbers)
            with self._lock:
                if self._dead:
                    raise RunnerDied
                self._pending[number] = future
            self._send(Run(number, refs, raw))
        return future

    def _map(self, memory: Memory) -> None:
        """Give the child a memory to read images from."""
        try:
            descriptor = memory.open_read_only()
        except OSError as error:
            log.warning("%s: its process gets no images: %s", self._job.name, error)
            raise RunFailed from error
        try:
            if not self._send(Map(memory.number, memory.size), (descriptor,)):
                return
        finally:
            os.close(descriptor)
        self._mapped[memory.number] = memory
        memory.tell_reader(self._unmap)

    def _unmap(self, memory: Memory) -> None:
        with self._sending:
            if self._mapped.pop(memory.number, None) is not None:
                self._send(Unmap(memory.number))

    def _send(self, order: Order, descriptors: Sequence[int] = ()) -> bool:
        """Send a message without waiting; return whether it was sent."""
        try:
            self._child.channel.send(msgspec.msgpack.encode(order), descriptors)
        except BlockingIOError:
            # It has more to do than fits a socket, so it does not even read.
            self._child.kill("its socket is full")
        except OSError:
            # The loop sees the same end and fails all that is pending.
            log.debug("%s: the process is gone", self._job.name)
        else:
            return True
        return False

    def _listen(self) -> None:
        """Hear what the process says from now on."""
        if self._loop is not None and not self._dead:
            self._listening = True
            self._loop.watch(self._child.channel.fileno(), self._hear)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                self._read()
            except (EOFError, OSError):
                self._deafen()

    def _read(self) -> None:
        """Settle the messages that have come; what makes no sense is the child's end.

        Raises:
            BlockingIOError: there are none.
            EOFError, OSError: there will be no more.
        """
        try:
            for data in self._child.channel.read():
                self._settle(self._decoder.decode(data))
        except (EOFError, OSError):
            raise
        except Exception as error:  # the loop's edge: the child's end must be told
            if self._loaded.done():
                log.exception("%s: its process sent nonsense", self._job.name)
            elif isinstance(error, ModelError):
                self._loaded.set_exception(error)
            else:
                self._loaded.set_exception(
                    ModelCrashed("The model's process sent nonsense.")
                )
            self._child.kill("it sent nonsense")
            self._deafen()

    def _deafen(self) -> None:
        """Hear the process no more, and wait for its end, but not for long."""
        self._stop_listening()
        self._fail_load()
        if self._loop is not None:
            self._timers = [
                self._loop.after(CLOSE_S, self._child.kill, STAYED),
                self._loop.after(CLOSE_S + KILL_S, self._give_up),
            ]

    def _stop_listening(self) -> None:
        if self._listening and self._loop is not None:
            self._listening = False
            self._loop.unwatch(self._child.channel.fileno())

    def _give_up(self) -> None:
        self._child.give_up()
        self._tell_end()

    def _bury(self) -> None:
        """Fail all that is pending: the process is gone, so nothing reads its images.

        What it answered before its end still counts.
        """
        if self._dead:
            return
        with contextlib.suppress(EOFError, OSError):
            for _ in range(_LAST_READS):
                if self._listening:
                    self._read()
        self._stop_listening()
        for timer in self._timers:
            timer.cancel()
        self._watchdog.stop()
        with self._lock:
            self._dead = True
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(RunnerDied())
        self._fail_load()

    def _fail_load(self) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(EOFError())

    def _tell_end(self) -> None:
        """Resolve ``ended``, once."""
        self._bury()
        if not self._ended.done():
            if self._slots and self._child.open:
                self._log_last()
            self._ended.set_result(self._child.end)

    def _settle(self, reply: Reply) -> None:
        """Handle a message of the process."""
        if isinstance(reply, Heartbeat | LogLine):
            self._note(reply)
        elif not self._loaded.done():
            self._take_load(reply)
        elif isinstance(reply, RunResult):
            results = _results(reply)
            self._take(reply.number).set_result(results)
        elif isinstance(reply, RunError):
            self._take_error(reply)
        else:
            raise TypeError("a load was answered twice")

    def _take_load(self, reply: Reply) -> None:
        """Handle how a load goes on; after its end answers are expected."""
        if isinstance(reply, LoadStarted):
            self._note(reply)
            return
        if isinstance(reply, Facts):
            most = message_bytes(reply.signature, reply.max_batch)
            self._child.channel.limit = most
            self._memory_limit = serving_limit(self._job, reply.slots)
            self._slots = reply.slots
            self._heard_s, self._start_up = time.monotonic(), None
        elif not isinstance(reply, LoadError):
            raise ModelCrashed("The model's process sent no facts first.")
        self._loaded.set_result(reply)

    def _take_error(self, reply: RunError) -> None:
        reason = reply.reason[:_REASON_CHARS]
        log.warning("%s: a run failed: %s", self._job.name, reason)
        self._take(reply.number).set_exception(_run_error(reply, self._job.name))
        if reply.lost:
            # It ends itself, too, unless even that hangs.
            self._child.kill(f"its GPU's context was lost: {reason[:_LOST_CHARS]}")

    def _take(self, number: int) -> Future[Sequence[ImageResult]]:
        with self._lock:
            return self._pending.pop(number)

    def _log_last(self) -> None:
        """Log the last lines that the process printed, which often say why it died."""
        if last := self._child.output.last:
            fields = {"model": self._job.name, "line": last}
            log.warning("the last that a model's process printed", extra=fields)

    def close(self) -> None:
        """Close the socket, which ends the child, or else kill it. Idempotent."""
        self._watchdog.stop()
        if self._child.open:
            self._child.hang_up()
            self._child.reap()
            self._await_end()
            self._child.close()
        for memory in list(self._mapped.values()):
            memory.forget_reader(self._unmap)
        self._arena.close()
        if self._own_loop is not None:
            self._own_loop.stop()

    def _await_end(self) -> None:
        """Wait until the loop has seen the end; see to it here if it cannot."""
        loop = self._loop
        if self.pid is None or loop is None:
            return
        if not loop.inside:
            wait([self._ended], _JOIN_S)
        # Else the loop is the caller, or was ended before its runners.
        self._tell_end()


def _results(reply: RunResult) -> list[ImageResult]:
    return [
        ImageResult(
            {role: array.unpack() for role, array in arrays.items()},
            reply.run_ms,
            reply.first,
        )
        for arrays in reply.outputs
    ]


def _run_error(reply: RunError, name: str) -> RequestError:
    """Return the error for the callers of a failed run of a model."""
    if reply.lost:
        return RunnerDied()
    if reply.bad_output:
        return BadModelOutput(name, reply.reason[:_REASON_CHARS])
    return OutOfMemory() if reply.out_of_memory else RunFailed()


def _import_activity() -> Activity:
    sentence = f"TensorFlow was not imported after {_IMPORT_S:g} s"
    return Activity("import", _IMPORT_S, sentence)


def _load_activity(setting: str, limit_s: float, more: str = "") -> Activity:
    """Make the activity of loading, which a setting limits."""
    sentence = f"it was not ready after {limit_s:g} s {setting}{more}"
    return Activity("load", limit_s, sentence)
