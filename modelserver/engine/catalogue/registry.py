"""The registry, which the rest of the server asks for models by name.

The registry is given the loader as a callable, so it knows neither TensorFlow nor
processes; and its models' files are put into it, so it knows no folder.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Generic

from modelserver.core.errors import (
    AmbiguousModel,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
)
from modelserver.core.signatures import RAW
from modelserver.engine.catalogue.entries import (
    Entries,
    Entry,
    L,
    PendingFiles,
    State,
    Version,
)
from modelserver.engine.catalogue.supervisor import Supervisor, close_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from modelserver.core.signatures import Kind
    from modelserver.engine.discovery import ModelFiles

_POLL_S = 1.0
_DRAIN_S = 35.0
_STAY_S = 10.0
# A supervising thread that is deep in a load is not waited for: it is a daemon.
_JOIN_S = 1.0
# Seconds that a client is told to wait for a FAILED model that needs other files.
_FAILED_S = 60.0


class Registry(Generic[L]):
    """Models by kind and name. Thread-safe; a context manager; close it once.

    A model that is asked for by its name alone is the only one of that name.

    Args:
        loader: loads one model, in that model's supervising thread.
        hint: returns the sentence for a folder without models.
        loads: how many models may load at once.
        max_models: how many models may be in memory; 0 for any number.
        clock: seconds, monotonic.
        poll_s: how often a thread that waits for a time looks at the clock.
        drain_s: how long a version that was replaced, removed or unloaded may finish
            the requests it has begun.
        stay_s: how long a model is in memory before another may replace it there.
    """

    def __init__(
        self,
        loader: Callable[[ModelFiles], L],
        *,
        hint: Callable[[], str] = str,
        loads: int = 1,
        max_models: int = 0,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = _POLL_S,
        drain_s: float = _DRAIN_S,
        stay_s: float = _STAY_S,
    ) -> None:
        self._hint = hint
        self._entries: Entries[L] = Entries(
            clock,
            max_models=max_models,
            loads=loads,
            drain_s=drain_s,
            stay_s=stay_s,
        )
        self._clock = clock
        self._lock = self._entries.lock
        self._closing = self._entries.closing
        self._supervisor = Supervisor(loader, self._entries, loads=loads, poll_s=poll_s)

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

    def add(self, files: ModelFiles, *, first: bool = True) -> None:
        """Start loading a model, in a thread of its own, if there is room for it.

        Args:
            first: whether the server counts as ready only once this load has ended.

        Raises:
            ValueError: there is that model, or the registry is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise ValueError("the registry is closed")
            if files.key in self._entries:
                raise ValueError(f"there is a model {files.name!r} already")
            now = self._clock()
            title = self._title(files)
            entry: Entry[L] = Entry(files, title, first=first, retry_at=now, used=now)
            if not self._entries.make_resident(entry):
                entry.unload()
            self._supervise(entry)

    def _supervise(self, entry: Entry[L]) -> None:
        """Take an entry, and give it its thread.

        Raises:
            RuntimeError: there are no more threads; it was not taken.
        """
        self._entries[entry.key] = entry
        # A daemon: atexit, which closes the registry, runs only when all others have
        # ended.
        entry.thread = threading.Thread(
            target=self._supervisor.supervise,
            args=(entry,),
            name=f"supervise-{entry.title}",
            daemon=True,
        )
        try:
            entry.thread.start()
        except RuntimeError:  # the folder is looked at again, or somebody asks again
            del self._entries[entry.key]
            raise

    def _title(self, files: ModelFiles) -> str:
        """Return a new model's name in logs and metrics, which name no kind.

        If the name is taken, both models are called by their kinds from now on.
        """
        namesakes = [e for e in self if e.name == files.name]
        for entry in namesakes:
            entry.title = "/".join(entry.key)
        return "/".join(files.key) if namesakes else files.name

    def put(self, files: ModelFiles, stamp: object = None) -> None:
        """Take a model's files, which are new or have changed, and now lie still.

        A new model is added. A version that serves goes on until the new one is
        loaded, and for good if that fails. Nothing happens if the content is the
        same as before, or the registry is closed.

        Args:
            stamp: the files' ``stamp``, by default as they are now. If they have
                changed again until they are loaded, they are left for another call.
        """
        with self._lock:
            if self._closing.is_set():
                return
            entry = self._entries.get(files.key)
            if entry is None:
                self.add(files, first=False)
                return
            stamp = stamp if stamp is not None else files.stamp
            entry.pending = PendingFiles(files, stamp)
            entry.pending_at, entry.removed = self._clock(), False
            entry.hindered, entry.busy, entry.dismissed = 0, True, False
            self._lock.notify_all()

    def hold(self, name: str, reason: str, kind: Kind | None = None) -> None:
        """Note that a model's files cannot be used now; a version that serves goes on.

        Args:
            reason: for ``/models``.
        """
        with self._lock:
            entry = self._find(name, kind)
            if entry is not None and entry.version is not None:
                # Files that failed before are tried again once they can be used.
                entry.reload_error, entry.rejected = reason, None

    def remove(self, name: str, kind: Kind | None = None) -> None:
        """Have a model finish the requests it has begun, and forget it.

        It is not found any more once it is gone. Unknown names are ignored.
        """
        with self._lock:
            entry = self._find(name, kind)
            if entry is None or self._closing.is_set():
                return
            self._entries.set_tensors(entry, None)
            self._entries.remove(entry)

    def unload(self, name: str, kind: Kind | None = None) -> None:
        """Have a model finish the requests it has begun, and leave memory.

        It stays away until :meth:`load`, or until its files change.

        Raises:
            AmbiguousModel, ModelNotFound: as :meth:`entry`.
            ModelNotReady: it is loading.
        """
        with self._lock:
            entry = self.asked(self.entry(name, kind))
            if entry.state is State.DRAINING:  # it is on its way, and stays away now
                entry.dismissed, entry.asked = True, False
                return
            if entry.version is None and entry.busy:
                raise ModelNotReady(name, _activity(entry), max(1.0, entry.load_s))
            entry.dismissed, entry.pending, entry.retry_at = True, None, None
            if entry.version is not None:
                entry.retire(self._clock() + self._entries.drain_s)
                entry.state, entry.busy = State.DRAINING, True
            elif entry.state is not State.FAILED:
                entry.unload()
            self._lock.notify_all()

    def load(self, name: str, kind: Kind | None = None) -> None:
        """Have a model loaded that does not serve; returns at once.

        Raises:
            AmbiguousModel, ModelNotFound: as :meth:`entry`.
        """
        with self._lock:
            entry = self.asked(self.entry(name, kind))
            entry.dismissed = False
            if entry.state is State.DRAINING and not entry.removed:
                # It comes back as soon as it is away.
                entry.asked = True
            if entry.state in {State.UNLOADED, State.FAILED}:
                entry.rejected = None
                entry.asked, entry.retry_at = True, self._clock()
                entry.busy = True
                self._lock.notify_all()

    @contextlib.contextmanager
    def lease(self, name: str, kind: Kind | None = None) -> Iterator[Version[L]]:
        """Use the version that serves under a name; it is not closed meanwhile.

        Raises:
            RequestError: as :meth:`take`.
        """
        _, version = self.take(name, kind)
        try:
            yield version
        finally:
            self.give_back(version)

    def take(
        self, name: str, kind: Kind | None = None, *, raw: bool = False
    ) -> tuple[str, Version[L]]:
        """Return a model's title and the version that serves, to be given back.

        A version that is replaced while it is in use is closed once the last of its
        users has left, or after ``drain_s``.

        Args:
            raw: it is to be fed numbers, which a graph that no task serves takes too.

        Raises:
            AmbiguousModel, ModelNotFound: as :meth:`entry`.
            ModelNotReady: it is loading, restarting or draining; or it is not in
                memory, and is loaded from now on.
            ModelFailed: it could not be loaded.
        """
        with self._lock:
            entry = self.entry(name, kind)
            version = self._serving_version(self.asked(entry) if raw else entry)
            version.users += 1
            return entry.title, version

    def give_back(self, version: Version[L]) -> None:
        """End the use of a version that was taken."""
        with self._lock:
            version.users -= 1
            if not version.users and version.drain_until is not None:
                self._lock.notify_all()

    def entry(self, name: str, kind: Kind | None = None) -> Entry[L]:
        """Return the entry of a model.

        Raises:
            AmbiguousModel: there are several of that name, and no kind was given.
            ModelNotFound: there is none of that name; the sentence lists the others.
        """
        with self._lock:
            entry = self._find(name, kind)
            if entry is None:
                known = sorted({e.name for e in self.of(kind)})
                raise ModelNotFound(name, known, self._hint())
            return entry

    def asked(self, entry: Entry[L]) -> Entry[L]:
        """Return the entry that is fed numbers: another for a graph of another task.

        That is made when it is first asked for, and not loaded yet.
        """
        with self._lock:
            if not entry.raw or self._closing.is_set():
                return entry
            raw = self._entries.raw_of(entry)
            if raw is None:
                now = self._clock()
                raw = Entry(entry.files.raw(), entry.title, first=False, used=now)
                raw.unload()
                self._supervise(raw)
                entry.beside = raw
            return raw

    def title(self, name: str, kind: Kind | None = None) -> str:
        """Return a model's title; empty if there is no such model.

        Raises:
            AmbiguousModel: as :meth:`entry`.
        """
        with self._lock:
            entry = self._find(name, kind)
            return entry.title if entry is not None else ""

    def of(self, kind: Kind | None) -> list[Entry[L]]:
        """Return the models of one kind, or all, by name."""
        return [entry for entry in self if kind in {None, entry.files.kind}]

    def _find(self, name: str, kind: Kind | None) -> Entry[L] | None:
        if kind is not None:
            return self._entries.get((kind, name))
        found = [entry for entry in self if entry.name == name]
        if len(found) > 1:
            raise AmbiguousModel(name, sorted(entry.files.kind for entry in found))
        return found[0] if found else None

    def _serving_version(self, entry: Entry[L]) -> Version[L]:
        name = entry.name
        version, now = entry.version, self._clock()
        entry.used = now
        if entry.state is State.READY and version is not None and not version.ended:
            return version
        left_s = max(0.0, (entry.retry_at or 0.0) - now)
        if entry.state is State.FAILED:
            raise ModelFailed(name, _FAILED_S if entry.retry_at is None else left_s)
        if entry.state is State.UNLOADED:
            if entry.dismissed:
                raise ModelNotReady(name, "unloaded", _FAILED_S)
            self._ask(entry, now)
        wait_s = self._entries.ready_in(entry, now)
        raise ModelNotReady(name, _activity(entry), wait_s)

    def _ask(self, entry: Entry[L], now: float) -> None:
        """Have an UNLOADED model loaded."""
        if not entry.asked:
            entry.asked, entry.retry_at = True, now
            self._lock.notify_all()

    def __len__(self) -> int:
        return sum(kind != RAW for kind, _ in list(self._entries))

    def __iter__(self) -> Iterator[Entry[L]]:
        """Give the models of the folder, by name; none of those loaded raw."""
        with self._lock:
            entries = [e for e in self._entries.values() if e.files.kind != RAW]
        return iter(sorted(entries, key=lambda entry: (entry.name, entry.key)))

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    @property
    def ready(self) -> bool:
        """Whether no model is in its first load and at least one serves or would.

        A model that comes later, or is loaded on demand, changes nothing about it.
        """
        able = (State.READY, State.UNLOADED)
        entries = list(self)
        return not any(e.first for e in entries) and any(
            e.state in able for e in entries
        )

    def wait(
        self, condition: Callable[[Registry[L]], bool], timeout_s: float | None = None
    ) -> bool:
        """Block until ``condition(registry)`` holds, checked at each change of a state.

        Returns:
            Whether it came to hold within the time.
        """
        with self._lock:
            return self._lock.wait_for(lambda: condition(self), timeout_s)

    def close(self) -> None:
        """Drain and close all models, last come first. Idempotent.

        A model whose close fails is logged and does not keep the others open.
        """
        with self._lock:
            self._closing.set()
            entries = list(reversed(self._entries.values()))
            self._lock.notify_all()
        for entry in entries:
            with self._lock:
                entry.retire(self._clock())
                versions, entry.retiring = entry.retiring, []
                entry.state = State.DRAINING if versions else State.CLOSED
            for version in versions:
                close_logged(entry.name, version.loaded)
            with self._lock:
                entry.state = State.CLOSED
                self._lock.notify_all()
        for entry in entries:
            if entry.thread is not None and entry.thread.ident is not None:
                entry.thread.join(timeout=_JOIN_S)


def _activity(entry: Entry[Any]) -> str:
    """Name the activity of a model that does not serve, in a word or two."""
    if entry.state is State.UNLOADED:
        return "being loaded"
    died = entry.state is State.READY  # just now: its thread does not know yet
    if died or (entry.restarts and entry.state is State.LOADING):
        return "restarting"
    return str(entry.state.value.lower())
