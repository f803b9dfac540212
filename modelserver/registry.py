"""The models by name: loading them, watching them, bringing them back, closing them.

Each model has a supervising thread, which loads it, waits for its end, and loads it
again. The registry takes the loader as a callable, so it knows neither TensorFlow nor
processes.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from modelserver.errors import (
    ModelCrashed,
    ModelError,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
)
from modelserver.recovery import DEATHS, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

    from modelserver.discovery import ModelFiles

log = logging.getLogger(__name__)

_LOOK_S = 1.0
# A supervising thread that is deep in a load is not waited for: it is a daemon.
_JOIN_S = 1.0


class Stage(enum.Enum):
    """A model's life stages."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"
    FAILED = "FAILED"


class Loaded(Protocol):
    """What a loader returns: a model that serves until it ends or is closed."""

    @property
    def ended(self) -> Future[str]:
        """Resolves with the reason once the model can serve no more."""

    def close(self) -> None:
        """Refuse new work, end what is under way and free everything. Idempotent."""


L = TypeVar("L", bound=Loaded)


@dataclass
class Entry(Generic[L]):
    """One model's state. Written by its supervising thread and by ``close`` only.

    Attributes:
        stage: where in its life it is.
        first: whether the first load is still under way.
        reason: why it is FAILED, or why it is loading again.
        loaded: what serves, in READY and DRAINING.
        seen: the files' stamp before they were last read.
        served: the stamp of the files that last became READY.
        load_s: seconds that the last load took.
        retry_at: when the next load is due, in the clock's seconds.
        restarts: how often it was brought back after a death.
    """

    files: ModelFiles
    stage: Stage = Stage.LOADING
    first: bool = True
    reason: str = ""
    loaded: L | None = None
    digest: str = ""
    seen: object = None
    served: object = None
    load_s: float = 1.0
    retry_at: float | None = None
    restarts: int = 0
    recovery: Recovery = field(default_factory=Recovery)


class Registry(Generic[L]):
    """Models keyed by prefix. Thread-safe; a context manager; close it once.

    Args:
        loader: loads one model, in that model's supervising thread.
        hint: what to say where there are no models at all.
        loads: how many models may load at once.
        clock: seconds, monotonic.
        rescan: returns a model's files as they are now, ``None`` when gone.
        look_s: how often a model's files are looked at while it does not serve.
    """

    def __init__(
        self,
        loader: Callable[[ModelFiles], L],
        *,
        hint: str = "",
        loads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        rescan: Callable[[str], ModelFiles | None] = lambda _name: None,
        look_s: float = _LOOK_S,
    ) -> None:
        self._loader = loader
        self._hint = hint
        self._loads = threading.Semaphore(loads)
        self._clock = clock
        self._rescan = rescan
        self._look_s = look_s
        self._entries: dict[str, Entry[L]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Condition()
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if any(entry.loaded for entry in self._entries.values()):
            warnings.warn("a registry was dropped open", ResourceWarning, stacklevel=1)

    def add(self, files: ModelFiles) -> None:
        """Start loading a model, in a thread of its own.

        Raises:
            ValueError: there is a model of that name, or the registry is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise ValueError("the registry is closed")
            if files.name in self._entries:
                raise ValueError(f"there is a model {files.name!r} already")
            entry: Entry[L] = Entry(files)
            self._entries[files.name] = entry
            # A daemon: atexit, which closes the registry, runs only when all others
            # have ended.
            thread = threading.Thread(
                target=self._supervise,
                args=(entry,),
                name=f"supervise-{files.name}",
                daemon=True,
            )
            self._threads.append(thread)
        thread.start()

    def get(self, name: str) -> L:
        """Return the model that serves under a name.

        Raises:
            ModelNotFound: nothing of that name; the sentence names what there is.
            ModelNotReady: it is loading, restarting or draining.
            ModelFailed: it could not be loaded.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(name, sorted(self._entries), self._hint)
        loaded = entry.loaded
        if entry.stage is Stage.READY and loaded is not None:
            return loaded
        left_s = max(0.0, (entry.retry_at or 0.0) - self._clock())
        wait_s = max(1.0, left_s + entry.load_s)
        if entry.stage is Stage.FAILED:
            raise ModelFailed(name, left_s if entry.retry_at else 60.0)
        state = "restarting" if entry.restarts else entry.stage.value.lower()
        raise ModelNotReady(name, state, wait_s)

    def __iter__(self) -> Iterator[Entry[L]]:
        return iter(sorted(self._entries.values(), key=lambda e: e.files.name))

    @property
    def ready(self) -> bool:
        """Whether no model is in its first load and at least one serves."""
        entries = list(self._entries.values())
        return not any(e.first for e in entries) and any(
            e.stage is Stage.READY for e in entries
        )

    def wait(
        self, done: Callable[[Registry[L]], bool], timeout_s: float | None = None
    ) -> bool:
        """Block until ``done(registry)`` holds, as looked at when a stage changes.

        Returns:
            Whether it came to hold within the time.
        """
        with self._lock:
            return self._lock.wait_for(lambda: done(self), timeout_s)

    def close(self) -> None:
        """Drain and close all models, last come first. Idempotent.

        A model whose close fails is logged and does not keep the others open.
        """
        with self._lock:
            self._closing.set()
            entries = list(reversed(self._entries.values()))
        for entry in entries:
            with self._lock:
                loaded, entry.loaded = entry.loaded, None
                self._enter(entry, Stage.DRAINING if loaded else Stage.CLOSED)
            if loaded is not None:
                self._shut(entry, loaded)
                with self._lock:
                    self._enter(entry, Stage.CLOSED)
        for thread in self._threads:
            thread.join(timeout=_JOIN_S)

    def _shut(self, entry: Entry[L], loaded: L) -> None:
        try:
            loaded.close()
        except Exception:  # whatever it is, the other models must still be closed
            log.exception("closing %s failed", entry.files.name)

    def _supervise(self, entry: Entry[L]) -> None:
        """Keep one model alive until the registry closes; a thread's whole life."""
        while not self._closing.is_set():
            loaded = self._load(entry)
            if loaded is not None:
                self._died(entry, loaded, loaded.ended.result())
            self._wait(entry)

    def _load(self, entry: Entry[L]) -> L | None:
        name = entry.files.name
        with self._lock:
            self._enter(entry, Stage.LOADING)
        try:
            with self._loads:
                started = self._clock()
                if self._closing.is_set():
                    return None
                entry.seen = stamp(entry.files)
                entry.digest = entry.files.digest()
                loaded = self._loader(entry.files)
        except (ModelError, OSError) as error:
            if self._may_pass(entry, error):
                self._recover(entry, f"It could not be loaded: {error}")
            else:
                log.error("%s cannot be served: %s", name, error)  # noqa: TRY400 - the reason says it all
                self._fail(entry, str(error))
            return None
        except Exception:  # a thread's edge: a bug here must not hide the model's state
            log.exception("loading %s failed", name)
            self._fail(entry, "An internal error; the log has more.")
            return None
        with self._lock:
            closing = self._closing.is_set()
            if not closing:
                entry.loaded, entry.served = loaded, entry.seen
                entry.load_s = self._clock() - started
                entry.reason, entry.retry_at, entry.first = "", None, False
                self._enter(entry, Stage.READY)
        if closing:
            self._shut(entry, loaded)
            return None
        return loaded

    def _fail(self, entry: Entry[L], reason: str) -> None:
        """Leave a model that cannot be loaded until its files change."""
        with self._lock:
            entry.reason, entry.retry_at, entry.first = reason, None, False
            self._enter(entry, Stage.FAILED)

    def _enter(self, entry: Entry[L], stage: Stage) -> None:
        """Change a stage, with the lock held, and wake who waits for it.

        Once the registry closes, only its own stages count.
        """
        if not self._closing.is_set() or stage in (Stage.DRAINING, Stage.CLOSED):
            entry.stage = stage
        self._lock.notify_all()

    def _died(self, entry: Entry[L], loaded: L, how: str) -> None:
        """Decide when a model that served and ended is loaded again."""
        with self._lock:
            if self._closing.is_set():
                return
            entry.loaded = None
            entry.restarts += 1
        self._recover(entry, f"Its process died of {how}.")
        self._shut(entry, loaded)

    def _may_pass(self, entry: Entry[L], error: Exception) -> bool:
        """Whether a load may go well next time, with the very same files.

        Not so for a graph that never served and that crashes or hangs by itself.
        """
        if isinstance(error, ModelCrashed):
            return error.from_outside or entry.served == entry.seen
        return isinstance(error, OSError)

    def _recover(self, entry: Entry[L], reason: str) -> None:
        """Have a model loaded again in a while, longer each time."""
        with self._lock:
            wait_s, opened = entry.recovery.after_death(self._clock())
            entry.retry_at = self._clock() + wait_s
            entry.reason, entry.first = reason, False
            if opened:
                entry.reason = f"{reason} That was {DEATHS} times within a minute."
            self._enter(entry, Stage.FAILED if opened else Stage.LOADING)
        log.warning("%s: %s Next try in %g s.", entry.files.name, entry.reason, wait_s)

    def _wait(self, entry: Entry[L]) -> None:
        """Wait until a retry is due, the files have changed or the registry closes."""
        while not self._closing.is_set():
            left = self._look_s
            if entry.retry_at is not None:
                left = entry.retry_at - self._clock()
            if left <= 0:
                return
            files = self._rescan(entry.files.name)
            if files is not None and stamp(files) != entry.seen:
                log.info("%s: its files have changed", files.name)
                entry.files = files
                return
            self._closing.wait(min(left, self._look_s))


def stamp(files: ModelFiles) -> object:
    """Return what differs once any of a model's files was added or changed."""
    return files.paths, files.fingerprint
