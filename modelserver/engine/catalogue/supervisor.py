"""Loads, reloads, revives and closes the models.

Each model has a thread of its own, which waits until something is due: a load, a
reload, the recovery from a death, the end of an old version. ``due`` decides with the
lock of all entries held; the task that it returns is done without the lock.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from modelserver.core.errors import (
    DeviceFailed,
    ModelCrashed,
    ModelError,
    OtherTask,
)
from modelserver.engine.catalogue.entries import (
    Entries,
    Entry,
    L,
    Loaded,
    PendingFiles,
    Snapshot,
    State,
    Version,
    read,
)
from modelserver.engine.catalogue.recovery import DEATHS

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from modelserver.core.tensor_specs import Tensors
    from modelserver.engine.discovery import ModelFiles

log = logging.getLogger(__name__)

# How long after a reload that was hindered, not refused, it is tried again: longer each
# time, as each holds a second version in memory.
_HINDERED_S, _MAX_HINDERED_S = 10.0, 600.0
_INTERNAL = "An internal error; the log has more."


class FilesChangedError(ModelError):
    """A model's files changed while it was being loaded."""

    def __init__(self) -> None:
        super().__init__("Its files changed while it was loaded.")


class Supervisor(Generic[L]):
    """Keeps models alive. Thread-safe by the entries' lock; see ``Registry``.

    Args:
        loader: loads one model.
        entries: all models.
        loads: how many may load at once.
        poll_s: how often a thread that waits for a time looks at the clock.
    """

    def __init__(
        self,
        loader: Callable[[ModelFiles], L],
        entries: Entries[L],
        *,
        loads: int,
        poll_s: float,
    ) -> None:
        self._loader = loader
        self._entries = entries
        self._lock = entries.lock
        self._closing = entries.closing
        self._clock = entries.clock
        self._loads = loads
        self._loading = 0
        self._poll_s = poll_s

    def supervise(self, entry: Entry[L]) -> None:
        """Look after one model until it is gone or all are closed; a thread's life."""
        while task := self._next(entry):
            task()

    def _next(self, entry: Entry[L]) -> Callable[[], None] | None:
        """Wait for the next task and return it; ``None`` at the end."""
        with self._lock:
            while not self._closing.is_set() and not entry.gone:
                if task := self.due(entry):
                    entry.busy = True
                    return task
                if entry.busy:
                    entry.busy = False
                    self._lock.notify_all()
                self._lock.wait(self._wait_s(entry))
        return None

    def due(self, entry: Entry[L]) -> Callable[[], None] | None:
        """Return the task that is due now, with the lock held; ``None`` if none is.

        The caller must do it: the things that it needs are taken already.
        """
        now = self._clock()
        for version in entry.retiring:
            over = version.drain_until is not None and now >= version.drain_until
            if over or version.users == 0 or version.ended:
                entry.retiring.remove(version)
                return partial(self._dispose, entry, version)
        # Nothing new before the old is gone: never more than two versions in memory.
        if entry.retiring:
            return None
        if entry.version is not None:
            if entry.version.ended:
                return partial(self._revive, entry, entry.version)
            return self._due_reload(entry, now)
        if entry.removed:
            return partial(self._forget, entry)
        return self._due_load(entry, now)

    def _due_reload(self, entry: Entry[L], now: float) -> Callable[[], None] | None:
        pending = entry.pending
        if pending is None or now < entry.pending_at or self._loading >= self._loads:
            return None
        entry.pending = None
        self._loading += 1
        return partial(self._do_load, entry, partial(self._reload, entry, pending))

    def _due_load(self, entry: Entry[L], now: float) -> Callable[[], None] | None:
        if entry.pending is not None:
            entry.files, entry.pending = entry.pending.files, None
            entry.retry_at = now
        if entry.retry_at is None or now < entry.retry_at:
            return None
        if self._loading >= self._loads or not self._entries.claim(entry, now):
            return None
        entry.retry_at, entry.asked = None, False
        entry.began = now
        self._loading += 1
        self._entries.enter(entry, State.LOADING)
        return partial(self._do_load, entry, partial(self._load, entry))

    def _wait_s(self, entry: Entry[L]) -> float | None:
        """Return the seconds after which to look at the clock again."""
        times = [version.drain_until for version in entry.retiring]
        times.append(entry.retry_at)
        if entry.pending is not None:
            times.append(entry.pending_at)
        coming = [time for time in times if time is not None]
        if not coming:
            return None
        left = min(coming) - self._clock()
        return min(left, self._poll_s) if left > 0 else self._poll_s

    def _do_load(self, entry: Entry[L], task: Callable[[], None]) -> None:
        """Do a load and let the next one begin."""
        try:
            task()
        finally:
            with self._lock:
                self._loading -= 1
                entry.began = None
                self._lock.notify_all()

    def _load(self, entry: Entry[L]) -> None:
        """Load a model of which no version serves."""
        snapshot = None
        started = self._clock()
        try:
            snapshot = read(entry.files)
            with self._lock:
                entry.digest = snapshot.digest
            if snapshot.identity == entry.rejected:
                reason = entry.reload_error or entry.reason
                self._fail(entry, reason, snapshot, entry.tensors)
                return
            loaded = self._open(snapshot)
        except (ModelError, OSError) as error:
            if _served_before(entry, snapshot) or _may_pass(error):
                self._recover(entry, f"It could not be loaded: {error}")
            else:
                log.error("%s cannot be served: %s", entry.name, error)  # noqa: TRY400 - the reason says it all
                tensors = error.tensors if isinstance(error, OtherTask) else None
                self._fail(entry, str(error), snapshot, tensors)
        except Exception:  # a thread's edge: a bug here must not hide the model's state
            log.exception("loading %s failed", entry.name)
            if _served_before(entry, snapshot):
                self._recover(entry, _INTERNAL)
            else:
                self._fail(entry, _INTERNAL, snapshot)
        else:
            self._serve(entry, snapshot, loaded, started)

    def _reload(self, entry: Entry[L], pending: PendingFiles) -> None:
        """Load a new version next to the one that serves."""
        snapshot = None
        started = self._clock()
        try:
            snapshot = read(pending.files)
            if snapshot.stamp != pending.stamp or self._is_known(entry, snapshot):
                return
            log.info("%s: its files have changed; loading them beside", entry.name)
            loaded = self._open(snapshot)
        except FilesChangedError:
            log.info("%s: its files changed again", entry.name)
        except (ModelError, OSError) as error:
            retry = pending if _may_pass(error) else None
            self._refuse(entry, str(error), snapshot, retry)
        except Exception:  # a thread's edge, as above: the old version must serve on
            log.exception("reloading %s failed", entry.name)
            self._refuse(entry, _INTERNAL, snapshot, None)
        else:
            self._serve(entry, snapshot, loaded, started)

    def _is_known(self, entry: Entry[L], snapshot: Snapshot) -> bool:
        """Check whether such files serve already, or have failed already."""
        with self._lock:
            version = entry.version
            if version is None or snapshot.identity != version.snapshot.identity:
                return snapshot.identity == entry.rejected
            entry.files, entry.served = snapshot.files, snapshot.stamp
            entry.reload_error, entry.rejected = "", None
            return True

    def _open(self, snapshot: Snapshot) -> L:
        loaded = self._loader(snapshot.files)
        if snapshot.files.stamp != snapshot.stamp:
            close_logged(snapshot.files.name, loaded)
            raise FilesChangedError
        if loaded.ended.done():
            how = loaded.ended.result()
            close_logged(snapshot.files.name, loaded)
            raise ModelCrashed(
                f"The model's process died of {how} as soon as it was loaded.",
                from_outside=how == signal.SIGKILL.name,
            )
        return loaded

    def _serve(
        self, entry: Entry[L], snapshot: Snapshot, loaded: L, started: float
    ) -> None:
        """Have a version serve, and the one before only finish its requests."""
        now = self._clock()
        version = Version(loaded, snapshot, since=now)
        with self._lock:
            wanted = not self._closing.is_set() and not entry.removed
            if wanted:
                entry.retire(now + self._entries.drain_s)
                entry.version, entry.files = version, snapshot.files
                entry.served, entry.digest = snapshot.stamp, snapshot.digest
                entry.load_s = now - started
                entry.reason = entry.reload_error = ""
                entry.retry_at = entry.rejected = None
                entry.hindered = 0
                entry.first, entry.resident = False, True
                entry.dismissed = False
                self._entries.set_tensors(entry, None)
                self._entries.enter(entry, State.READY)
        if not wanted:
            close_logged(entry.name, loaded)
        loaded.ended.add_done_callback(self._wake)

    def _wake(self, _ended: Future[str]) -> None:
        with self._lock:
            self._lock.notify_all()

    def _fail(
        self,
        entry: Entry[L],
        reason: str,
        snapshot: Snapshot | None,
        tensors: Tensors | None = None,
    ) -> None:
        """Leave a model that cannot be loaded alone until its files change."""
        with self._lock:
            self._entries.set_tensors(entry, tensors)
            entry.reason, entry.reload_error = reason, ""
            entry.retry_at, entry.first, entry.resident = None, False, False
            entry.rejected = snapshot.identity if snapshot else None
            self._entries.enter(entry, State.FAILED)

    def _refuse(
        self,
        entry: Entry[L],
        reason: str,
        snapshot: Snapshot | None,
        retry: PendingFiles | None,
    ) -> None:
        """Have the old version serve on, and note why."""
        log.error(
            "%s was not replaced, the old version serves on: %s", entry.name, reason
        )
        with self._lock:
            entry.reload_error = reason
            entry.reloads_failed += 1
            if retry is None:
                entry.rejected = snapshot.identity if snapshot else None
            elif entry.pending is None and not entry.removed:
                wait_s = min(_HINDERED_S * 2**entry.hindered, _MAX_HINDERED_S)
                entry.pending, entry.pending_at = retry, self._clock() + wait_s
                entry.hindered += 1
            self._lock.notify_all()

    def _revive(self, entry: Entry[L], version: Version[L]) -> None:
        """Decide when a model that served and ended is loaded again."""
        with self._lock:
            # Closing and removing take it too, and do the rest themselves.
            if entry.version is not version:
                return
            entry.version = None
            entry.restarts += 1
        how = version.loaded.ended.result()
        served_s = self._clock() - version.since
        self._recover(entry, f"Its process died of {how}.", served_s)
        close_logged(entry.name, version.loaded)

    def _recover(self, entry: Entry[L], reason: str, served_s: float = 0.0) -> None:
        """Schedule the next load of a model, after a longer wait each time."""
        with self._lock:
            wait_s, circuit_open = entry.recovery.after_death(self._clock(), served_s)
            entry.retry_at = self._clock() + wait_s
            entry.reason, entry.first = reason, False
            if circuit_open:
                entry.reason = f"{reason} That was {DEATHS} times within a minute."
                entry.resident = False
            self._entries.enter(entry, State.FAILED if circuit_open else State.LOADING)
        log.warning("%s: %s Next try in %g s.", entry.name, entry.reason, wait_s)

    def _dispose(self, entry: Entry[L], version: Version[L]) -> None:
        """Close a version that has drained."""
        close_logged(entry.name, version.loaded)
        with self._lock:
            left = entry.retiring or entry.version or entry.removed
            if entry.state is State.DRAINING and not left:
                asked = entry.asked
                entry.unload()
                if asked:
                    entry.asked, entry.retry_at = True, self._clock()
            self._lock.notify_all()

    def _forget(self, entry: Entry[L]) -> None:
        """Drop a removed model, unless its files came back meanwhile."""
        with self._lock:
            if not entry.removed:
                entry.unload()
                return
            entry.resident, entry.gone, entry.state = False, True, State.CLOSED
            self._entries.pop(entry.key, None)
            self._lock.notify_all()


def close_logged(name: str, loaded: Loaded) -> None:
    """Close a loaded model; an error is logged, not raised."""
    try:
        loaded.close()
    except Exception:  # a bug in one must not keep the other models open
        log.exception("closing %s failed", name)


def _served_before(entry: Entry[Any], snapshot: Snapshot | None) -> bool:
    """Check whether these very files have served: then the failure may pass."""
    stamp = snapshot.stamp if snapshot is not None else entry.files.stamp
    return entry.served is not None and stamp == entry.served


def _may_pass(error: Exception) -> bool:
    """Check whether a load may go well next time, with the very same files.

    Not so for a graph that crashes or hangs by itself.
    """
    if isinstance(error, ModelCrashed):
        return error.from_outside
    if isinstance(error, FilesChangedError | DeviceFailed):
        return True
    cause = error if isinstance(error, OSError) else error.__cause__
    # A file that is gone is no hindrance: the next look at the folder finds that.
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
