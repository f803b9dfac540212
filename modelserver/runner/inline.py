"""Run a model's session in the calling process.

For systems that isolate by themselves, for small machines and for tests: a graph that
crashes takes the whole server with it. Otherwise use the process runner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from modelserver.core import cuda
from modelserver.core.errors import RequestError, RunnerDied
from modelserver.core.frames import Arena, Frame
from modelserver.core.messages import Facts, ImageResult, Job
from modelserver.core.signatures import RAW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from modelserver.runner.sessions import ModelSession

log = logging.getLogger(__name__)

_REASON_CHARS = 500
# No process can be replaced here, and the context is the process's.
_LOST = "a lost GPU context, which needs a restart of the server"


class InlineRunner:
    """Runs a graph on threads of this process; see ``Runner`` for the promises.

    Args:
        job: the model to load.
        arena_bytes: memory for all images in flight.
        call: calls a function in the thread that futures are to be resolved in; by
            default that of the run.
    """

    # Nothing lies between here and the session's threads.
    ahead = 0

    def __init__(
        self,
        job: Job,
        *,
        arena_bytes: int,
        call: Callable[..., object] | None = None,
    ) -> None:
        self._job = job
        self._call = call or _call_here
        self._arena = Arena(arena_bytes)
        self._session: ModelSession | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._ended: Future[str] = Future()

    @property
    def ended(self) -> Future[str]:
        """Resolves when the runner is closed, or its GPU's context is lost."""
        return self._ended

    @property
    def pid(self) -> None:
        """It has no process of its own."""
        return None

    def open(self) -> Facts:
        """Load the graph in this thread; see ``Runner.open``."""
        self._arena.open()
        try:
            session = open_session(self._job)
        except BaseException:
            self._arena.close()
            raise
        self._pool = ThreadPoolExecutor(session.slots, f"run-{self._job.name}")
        self._session = session
        return facts(session)

    def allocate(self, shape: tuple[int, ...]) -> Frame:
        """See ``Runner.allocate``."""
        return self._arena.allocate(shape)

    def run(self, frames: Sequence[Frame]) -> Future[Sequence[ImageResult]]:
        """See ``Runner.run``."""
        if self._pool is None or self._session is None:
            raise RuntimeError("the runner is not open")
        pixels = [frame.pixels for frame in frames]
        raw = any(frame.dtype is not None for frame in frames)
        future: Future[Sequence[ImageResult]] = Future()
        # A run that waits for its thread cannot be cancelled in a process either.
        future.set_running_or_notify_cancel()
        self._pool.submit(self._run, self._session, pixels, future, raw=raw)
        return future

    def _run(
        self,
        session: ModelSession,
        images: Sequence[NDArray[Any]],
        future: Future[Sequence[ImageResult]],
        *,
        raw: bool,
    ) -> None:
        try:
            results = run_images(session, images, raw=raw)
        except RequestError as error:
            reason = str(error.__cause__ or error)[:_REASON_CHARS]
            log.warning("%s: a run failed: %s", self._job.name, reason)
            if isinstance(error, RunnerDied):
                self._call(self._end, f"{_LOST}: {reason}")
            self._call(future.set_exception, error)
        except BaseException as error:  # noqa: BLE001 - a thread's edge: somebody waits
            self._call(future.set_exception, error)
        else:
            self._call(future.set_result, results)

    def _end(self, how: str) -> None:
        """Resolve ``ended`` once, for the first reason that is given."""
        with contextlib.suppress(InvalidStateError):
            self._ended.set_result(how)

    def close(self) -> None:
        """Wait for the runs under way, then close the session. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._session is not None:
            self._session.close()
        self._arena.close()
        self._end("closed")


def _call_here(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


def run_images(
    session: ModelSession, images: Sequence[NDArray[Any]], *, raw: bool = False
) -> list[ImageResult]:
    """Run a session on images of one shape, and measure the time.

    Args:
        raw: they are numbers, for the graph as it was written.
    """
    first = not raw and session.is_first(images)
    started = time.perf_counter()
    outputs = session.run_raw(images) if raw else session.run(images)
    run_ms = (time.perf_counter() - started) * 1000
    return [ImageResult(arrays, run_ms, first) for arrays in outputs]


def import_tensorflow(gpu: str | None = None) -> None:
    """Import all that a session needs, which takes seconds. Idempotent.

    Args:
        gpu: the card that this process was given, if any: the libraries that it needs
            and TensorFlow would miss are then opened before.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # nothing can be written; TensorFlow only wants a name
        tempfile.tempdir = os.sep
    if gpu is not None and "tensorflow" not in sys.modules:
        for library in cuda.preload().libraries:
            if library.how == "opened" and library.detail:
                log.warning(
                    "%s is taken from %s: %s",
                    *(library.name, library.path, library.detail),
                )
    # TensorFlow must come into a process only when a session is opened in it.
    import modelserver.runner.sessions  # noqa: F401, PLC0415


def open_session(
    job: Job, chosen: Callable[[bool], None] | None = None
) -> ModelSession:
    """Import TensorFlow, load the job's graph and warm it up.

    Args:
        job: the model to load.
        chosen: called with whether it will run on a card, before anything is read.

    Raises:
        GraphError, SidecarError: the files are at fault.
        OtherTask: no task of the server's has such a graph.
        DeviceFailed: the card cannot be used now.
    """
    import_tensorflow(job.card.gpu)
    # TensorFlow must come into a process only when a session is opened in it.
    from modelserver.runner.sessions import ModelSession, RawSession  # noqa: PLC0415

    session = RawSession(job) if job.kind == RAW else ModelSession(job)
    try:
        session.open(chosen)
    except BaseException:
        session.close()
        raise
    return session


def facts(session: ModelSession) -> Facts:
    """Collect the facts that loading a session found out."""
    return Facts(
        signature=session.signature,
        device=session.device,
        device_reason=session.device_reason,
        slots=session.slots,
        max_batch=session.max_batch,
        load_ms=session.load_ms,
        notes=session.notes,
        findings=session.findings,
        sampling=session.sampling,
        inputs=session.inputs,
        outputs=session.outputs,
    )
