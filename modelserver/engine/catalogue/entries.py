"""The state of each model and each of its versions, under one lock for all of them."""

from __future__ import annotations

import enum
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from modelserver.core.signatures import RAW
from modelserver.engine.catalogue.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from modelserver.core.tensor_specs import Tensors
    from modelserver.engine.discovery import Key, ModelFiles

log = logging.getLogger(__name__)

# Seconds that a first load is taken to last before any was measured: a small graph
# takes some five on two cores, most of them TensorFlow's own start.
_FIRST_LOAD_S = 5.0


class State(enum.Enum):
    """A model's life states."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"
    """Not in memory because of ``MAX_MODELS``; the first request has it loaded."""


class Loaded(Protocol):
    """A model that a loader returned: it serves until it ends or is closed."""

    @property
    def ended(self) -> Future[str]:
        """Resolves with the reason once the model can serve no more."""

    def close(self) -> None:
        """Refuse new work, end the work under way and free everything. Idempotent."""


L = TypeVar("L", bound=Loaded)


class Snapshot(NamedTuple):
    """A model's files as they were before a load.

    Attributes:
        stamp: ``ModelFiles.stamp``, taken first.
        digest: of graph, labels and sidecar.
        identity: differs once the content of any file does, golden ones included.
    """

    files: ModelFiles
    stamp: object
    digest: str
    identity: object


def read(files: ModelFiles) -> Snapshot:
    """Stamp and hash a model's files.

    Raises:
        ModelError: one is gone or cannot be read.
    """
    stamp = files.stamp
    digest = files.digest()
    return Snapshot(files, stamp, digest, files.identity(digest))


class PendingFiles(NamedTuple):
    """Files that lie still and are yet to be loaded, with their stamp of then."""

    files: ModelFiles
    stamp: object


@dataclass(eq=False)
class Version(Generic[L]):
    """One loaded version of a model.

    Attributes:
        since: when it began to serve, in the clock's seconds.
        users: leases on it.
        drain_until: when it is closed even if it has users; ``None`` while it serves.
    """

    loaded: L
    snapshot: Snapshot
    since: float
    users: int = 0
    drain_until: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it can serve no more."""
        return self.loaded.ended.done()


@dataclass(eq=False)
class Entry(Generic[L]):
    """One model's state. Changed only with the lock of :class:`Entries` held.

    Attributes:
        files: of the version that serves, or that is to be loaded.
        title: its name, or ``KIND/NAME`` once another kind has a model of that name.
        state: where it is in its life.
        first: whether its first load, at the server's start, is still under way.
        reason: why it is FAILED, or why it is loading again.
        reload_error: why the files that lie there now do not serve.
        digest: of the version that serves, or that was tried last.
        version: the one that serves, ``None`` if none does.
        retiring: versions that only finish the requests they have begun.
        pending: files that lie still and are not loaded yet.
        pending_at: they are not tried before, in the clock's seconds.
        hindered: how often loading them was hindered already.
        rejected: identity of the files that failed last.
        served: stamp of the files that last became READY.
        load_s: seconds that the last load took.
        began: when the load under way began, in the clock's seconds; ``None``: none is.
        retry_at: when the next load is due, in the clock's seconds; ``None``: never.
        restarts: how often it was brought back after a death.
        reloads_failed: how often new files did not replace the version that serves.
        resident: whether it counts among ``MAX_MODELS``.
        asked: whether a request waits for it to be loaded.
        dismissed: somebody unloaded it: requests do not bring it back.
        used: when it was last asked for, in the clock's seconds.
        removed: its files are gone.
        gone: it was removed; its thread ends.
        busy: its thread is at work, or has not looked at the latest change yet.
        tensors: of a graph that is FAILED because it does another task: it can be
            loaded raw, as an entry of its own of the kind ``RAW``. Else ``None``.
        beside: that entry, once somebody asked for it.
    """

    files: ModelFiles
    title: str
    state: State = State.LOADING
    first: bool = True
    reason: str = ""
    reload_error: str = ""
    digest: str = ""
    version: Version[L] | None = None
    retiring: list[Version[L]] = field(default_factory=list)
    pending: PendingFiles | None = None
    pending_at: float = 0.0
    hindered: int = 0
    rejected: object = None
    served: object = None
    load_s: float = 1.0
    began: float | None = None
    retry_at: float | None = None
    restarts: int = 0
    reloads_failed: int = 0
    recovery: Recovery = field(default_factory=Recovery)
    resident: bool = False
    asked: bool = False
    dismissed: bool = False
    used: float = 0.0
    removed: bool = False
    gone: bool = False
    busy: bool = True
    tensors: Tensors | None = None
    beside: Entry[L] | None = field(default=None, repr=False)
    thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.files.name

    @property
    def key(self) -> Key:
        """Kind and name, which no other model has together."""
        return self.files.key

    @property
    def loaded(self) -> L | None:
        """The model that serves, ``None`` if none does."""
        return self.version.loaded if self.version is not None else None

    @property
    def in_memory(self) -> L | None:
        """The model that serves, or that takes numbers alone; ``None`` if none does."""
        if self.loaded is None and self.beside is not None:
            return self.beside.loaded
        return self.loaded

    @property
    def raw(self) -> bool:
        """Whether it is FAILED for its task and can be fed numbers all the same."""
        return self.tensors is not None and self.state is State.FAILED

    def retire(self, drain_until: float) -> None:
        """Have the version that serves only finish the requests it has begun."""
        if self.version is not None:
            self.version.drain_until = drain_until
            self.retiring.append(self.version)
            self.version = None

    def unload(self) -> None:
        """Leave the model out of memory until a request asks for it."""
        self.resident = self.asked = self.first = False
        self.retry_at = None
        self.state = State.UNLOADED


class Entries(dict["Key", Entry[L]]):
    """Every model's entry, the lock for all of them, and who is in memory.

    The registry and its supervisor share one. All of it is used with ``lock`` held;
    threads that wait for a change wait on ``lock``.

    Args:
        clock: seconds, monotonic.
        max_models: how many may be in memory; 0 for any number.
        loads: how many may load at once.
        drain_s: how long a version that was replaced, removed or unloaded may finish
            the requests it has begun.
        stay_s: how long a model stays in memory at least. Without it two models that
            share the room of one, asked for in turn, would do nothing but load.

    Attributes:
        closing: set once all models are to end.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_models: int,
        loads: int,
        drain_s: float,
        stay_s: float,
    ) -> None:
        super().__init__()
        self.lock = threading.Condition()
        self.closing = threading.Event()
        self.clock = clock
        self.drain_s = drain_s
        self._max_models = max_models
        self._stay_s = stay_s
        self._loads = loads

    def enter(self, entry: Entry[L], state: State) -> None:
        """Change a model's state and wake the threads that wait for it.

        Once the registry closes or the model is removed, only their own states count.
        """
        if not self.closing.is_set() and not entry.removed:
            entry.state = state
        self.lock.notify_all()

    def raw_of(self, entry: Entry[L]) -> Entry[L] | None:
        """Return a model's entry for raw requests; ``None`` if there was none yet."""
        return self.get((RAW, entry.name))

    def remove(self, entry: Entry[L]) -> None:
        """Have a model finish the requests it has begun, and be forgotten."""
        entry.removed, entry.pending, entry.first = True, None, False
        entry.retire(self.clock() + self.drain_s)
        entry.state, entry.busy = State.DRAINING, True
        self.lock.notify_all()

    def set_tensors(self, entry: Entry[L], tensors: Tensors | None) -> None:
        """Note what a graph of another task takes; one that was loaded raw goes."""
        if tensors != entry.tensors:
            entry.tensors = tensors
            raw = self.raw_of(entry)
            if raw is not None and not raw.removed:
                self.remove(raw)

    def ready_in(self, entry: Entry[L], now: float) -> float:
        """Estimate the seconds, 1 at least, until a model that is to load serves.

        By the loads so far, the time that its own has taken, and its place in line.
        """
        load_s = entry.load_s
        if entry.served is None:  # it never did: others' loads say how long that takes
            measured = [e.load_s for e in self.values() if e.served is not None]
            load_s = max(measured, default=_FIRST_LOAD_S)
        if entry.began is not None:
            return max(1.0, entry.began + load_s - now)
        due = entry.retry_at or 0.0
        line = [e for e in self.values() if e.began is None and e.retry_at is not None]
        ahead = sum((e.retry_at or 0.0, e.key) < (due, entry.key) for e in line)
        began = [e.began for e in self.values() if e.began is not None]
        rounds = (ahead + len(began)) // self._loads
        done_s = now - min(began) if rounds and began else 0.0
        return max(1.0, max(0.0, due - now) + (1 + rounds) * load_s - done_s)

    def make_resident(self, entry: Entry[L]) -> bool:
        """Let a model into memory if there is room; return whether it is in now."""
        if not entry.resident:
            taken = sum(other.resident for other in self.values())
            entry.resident = not self._max_models or taken < self._max_models
        return entry.resident

    def claim(self, entry: Entry[L], now: float) -> bool:
        """Let a model that is to be loaded into memory, when it is its turn.

        A model that was asked for soon gets the room of another; one that was not is
        UNLOADED if there is no room.
        """
        if entry.resident:
            return True
        if not entry.asked:
            if not self.make_resident(entry):
                entry.unload()
                self.lock.notify_all()
            return entry.resident
        waiting = [e for e in self.values() if e.asked and not e.resident]
        if entry is not min(waiting, key=lambda e: (e.retry_at or 0.0, e.key)):
            return False
        if not self.make_resident(entry):
            self._make_room(now)
        return entry.resident

    def _make_room(self, now: float) -> None:
        """Have the least recently used model drain, unless one does already."""
        if any(e.resident and e.state is State.DRAINING for e in self.values()):
            return
        able = [
            (version.users > 0, entry.used, entry.key, entry)
            for entry in self.values()
            if (version := entry.version) is not None
            and not entry.busy
            and now - version.since >= self._stay_s
        ]
        if able:
            # Keys differ, so entries are never compared.
            victim = min(able)[-1]
            log.info("%s is unloaded to make room (MAX_MODELS)", victim.name)
            victim.retire(now + self.drain_s)
            victim.state, victim.busy = State.DRAINING, True
            self.lock.notify_all()
