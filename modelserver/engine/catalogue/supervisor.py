"""What is to be done next about each model, and doing it.

Each model has a thread of its own, which waits until something is due: a load, a
reload, a death to be recovered from, an old version to be closed. ``due`` decides, with
the registry's lock held; what it returns is done without the lock.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Generic

from modelserver.core.errors import ModelCrashed, ModelError
from modelserver.engine.catalogue.entries import (
    Entry,
    L,
    Loaded,
    Offer,
    Reading,
    Stage,
    Version,
    read,
)
from modelserver.engine.catalogue.load_errors import (
    FilesChangedError,
    may_pass,
    served_before,
)
from modelserver.engine.catalogue.recovery import DEATHS
from modelserver.engine.catalogue.residency import Places, unload

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from concurrent.futures import Future

    from modelserver.engine.discovery import Key, ModelFiles

log = logging.getLogger(__name__)

# How long after a reload that was hindered, not refused, it is tried again: longer each
# time, as each holds a second version in memory.
_HINDERED_S, _MAX_HINDERED_S = 10.0, 600.0
_INTERNAL = "An internal error; the log has more."


class Supervisor(Generic[L]):
    """Keeps models alive. Thread-safe by the registry's lock; see ``Registry``."""

    def __init__(
        self,
        loader: Callable[[ModelFiles], L],
        entries: dict[Key, Entry[L]],
        places: Places[L],
        *,
        lock: threading.Condition,
        closing: threading.Event,
        loads: int,
        clock: Callable[[], float],
        look_s: float,
        drain_s: float,
    ) -> None:
        self._loader = loader
        self._entries = entries
        self._places = places
        self._lock = lock
        self._closing = closing
        self._loads = loads
        self._loading = 0
        self._clock = clock
        self._look_s = look_s
        self._drain_s = drain_s

    def supervise(self, entry: Entry[L]) -> None:
        """Look after one model until it is gone or all are closed; a thread's life."""
        while task := self._next(entry):
            task()

    def _next(self, entry: Entry[L]) -> Callable[[], None] | None:
        """Wait for what is to be done next; ``None`` at the end."""
        with self._lock:
            while not self._closing.is_set() and not entry.gone:
                if task := self.due(entry):
                    entry.busy = True
                    return task
                if entry.busy:
                    entry.busy = False
                    self._lock.notify_all()
                self._lock.wait(self._patience(entry))
        return None

    def due(self, entry: Entry[L]) -> Callable[[], None] | None:
        """Return what is to be done now, with the lock held; ``None`` for nothing.

        What is returned must be done: whatever it needs is taken already.
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
                return partial(self._died, entry, entry.version)
            return self._due_reload(entry, now)
        if entry.removed:
            return partial(self._forget, entry)
        return self._due_load(entry, now)

    def _due_reload(self, entry: Entry[L], now: float) -> Callable[[], None] | None:
        offer = entry.offer
        if offer is None or now < entry.offer_at or self._loading >= self._loads:
            return None
        entry.offer = None
        self._loading += 1
        return partial(self._loading_ends, partial(self._reload, entry, offer))

    def _due_load(self, entry: Entry[L], now: float) -> Callable[[], None] | None:
        if entry.offer is not None:
            entry.files, entry.offer = entry.offer.files, None
            entry.retry_at = now
        if entry.retry_at is None or now < entry.retry_at:
            return None
        if self._loading >= self._loads or not self._places.claim(entry, now):
            return None
        entry.retry_at, entry.asked = None, False
        self._loading += 1
        self._enter(entry, Stage.LOADING)
        return partial(self._loading_ends, partial(self._load, entry))

    def _patience(self, entry: Entry[L]) -> float | None:
        """Return the seconds after which to look at the clock again."""
        times = [version.drain_until for version in entry.retiring]
        times.append(entry.retry_at)
        if entry.offer is not None:
            times.append(entry.offer_at)
        coming = [time for time in times if time is not None]
        if not coming:
            return None
        left = min(coming) - self._clock()
        return min(left, self._look_s) if left > 0 else self._look_s

    def _loading_ends(self, task: Callable[[], None]) -> None:
        """Do a load and let the next one begin."""
        try:
            task()
        finally:
            with self._lock:
                self._loading -= 1
                self._lock.notify_all()

    def _load(self, entry: Entry[L]) -> None:
        """Load a model that nothing serves for."""
        reading = None
        started = self._clock()
        try:
            reading = read(entry.files)
            with self._lock:
                entry.digest = reading.digest
            if reading.identity == entry.rejected:
                self._fail(entry, entry.reload_error or entry.reason, reading)
                return
            loaded = self._open(reading)
        except (ModelError, OSError) as error:
            if served_before(entry, reading) or may_pass(error):
                self._recover(entry, f"It could not be loaded: {error}")
            else:
                log.error("%s cannot be served: %s", entry.name, error)  # noqa: TRY400 - the reason says it all
                self._fail(entry, str(error), reading)
        except Exception:  # a thread's edge: a bug here must not hide the model's state
            log.exception("loading %s failed", entry.name)
            if served_before(entry, reading):
                self._recover(entry, _INTERNAL)
            else:
                self._fail(entry, _INTERNAL, reading)
        else:
            self._begin(entry, reading, loaded, started)

    def _reload(self, entry: Entry[L], offer: Offer) -> None:
        """Load a new version beside the one that serves."""
        reading = None
        started = self._clock()
        try:
            reading = read(offer.files)
            if reading.seen != offer.seen or self._known(entry, reading):
                return
            log.info("%s: its files have changed; loading them beside", entry.name)
            loaded = self._open(reading)
        except FilesChangedError:
            log.info("%s: its files changed again", entry.name)
        except (ModelError, OSError) as error:
            again = offer if may_pass(error) else None
            self._refuse(entry, str(error), reading, again)
        except Exception:  # a thread's edge, as above: the old version must serve on
            log.exception("reloading %s failed", entry.name)
            self._refuse(entry, _INTERNAL, reading, None)
        else:
            self._begin(entry, reading, loaded, started)

    def _known(self, entry: Entry[L], reading: Reading) -> bool:
        """Whether such files serve already, or have failed already."""
        with self._lock:
            version = entry.version
            if version is None or reading.identity != version.reading.identity:
                return reading.identity == entry.rejected
            entry.files, entry.served = reading.files, reading.seen
            entry.reload_error, entry.rejected = "", None
            return True

    def _open(self, reading: Reading) -> L:
        loaded = self._loader(reading.files)
        if reading.files.stamp != reading.seen:
            shut(reading.files.name, loaded)
            raise FilesChangedError
        if loaded.ended.done():
            how = loaded.ended.result()
            shut(reading.files.name, loaded)
            raise ModelCrashed(
                f"The model's process died of {how} as soon as it was loaded.",
                from_outside=how == signal.SIGKILL.name,
            )
        return loaded

    def _begin(
        self, entry: Entry[L], reading: Reading, loaded: L, started: float
    ) -> None:
        """Have a version serve, and the one before only finish what it has begun."""
        now = self._clock()
        version = Version(loaded, reading, since=now)
        with self._lock:
            wanted = not self._closing.is_set() and not entry.removed
            if wanted:
                entry.retire(now + self._drain_s)
                entry.version, entry.files = version, reading.files
                entry.served, entry.digest = reading.seen, reading.digest
                entry.load_s = now - started
                entry.reason = entry.reload_error = ""
                entry.retry_at = entry.rejected = None
                entry.hindered = 0
                entry.first, entry.resident = False, True
                self._enter(entry, Stage.READY)
        if not wanted:
            shut(entry.name, loaded)
        loaded.ended.add_done_callback(self._wake)

    def _wake(self, _ended: Future[str]) -> None:
        with self._lock:
            self._lock.notify_all()

    def _fail(self, entry: Entry[L], reason: str, reading: Reading | None) -> None:
        """Leave a model that cannot be loaded until its files change."""
        with self._lock:
            entry.reason, entry.reload_error = reason, ""
            entry.retry_at, entry.first, entry.resident = None, False, False
            entry.rejected = reading.identity if reading else None
            self._enter(entry, Stage.FAILED)

    def _refuse(
        self,
        entry: Entry[L],
        reason: str,
        reading: Reading | None,
        again: Offer | None,
    ) -> None:
        """Have the old version serve on, and say why."""
        log.error(
            "%s was not replaced, the old version serves on: %s", entry.name, reason
        )
        with self._lock:
            entry.reload_error = reason
            entry.reloads_failed += 1
            if again is None:
                entry.rejected = reading.identity if reading else None
            elif entry.offer is None and not entry.removed:
                wait_s = min(_HINDERED_S * 2**entry.hindered, _MAX_HINDERED_S)
                entry.offer, entry.offer_at = again, self._clock() + wait_s
                entry.hindered += 1
            self._lock.notify_all()

    def _enter(self, entry: Entry[L], stage: Stage) -> None:
        """Change a stage, with the lock held, and wake who waits for it.

        Once the registry closes or the model is removed, only their own stages count.
        """
        if not self._closing.is_set() and not entry.removed:
            entry.stage = stage
        self._lock.notify_all()

    def _died(self, entry: Entry[L], version: Version[L]) -> None:
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
        shut(entry.name, version.loaded)

    def _recover(self, entry: Entry[L], reason: str, served_s: float = 0.0) -> None:
        """Have a model loaded again in a while, longer each time."""
        with self._lock:
            wait_s, opened = entry.recovery.after_death(self._clock(), served_s)
            entry.retry_at = self._clock() + wait_s
            entry.reason, entry.first = reason, False
            if opened:
                entry.reason = f"{reason} That was {DEATHS} times within a minute."
                entry.resident = False
            self._enter(entry, Stage.FAILED if opened else Stage.LOADING)
        log.warning("%s: %s Next try in %g s.", entry.name, entry.reason, wait_s)

    def _dispose(self, entry: Entry[L], version: Version[L]) -> None:
        """Close a version that has drained."""
        shut(entry.name, version.loaded)
        with self._lock:
            left = entry.retiring or entry.version or entry.removed
            if entry.stage is Stage.DRAINING and not left:
                unload(entry)
            self._lock.notify_all()

    def _forget(self, entry: Entry[L]) -> None:
        """Drop a removed model, unless its files came back meanwhile."""
        with self._lock:
            if not entry.removed:
                unload(entry)
                return
            entry.resident, entry.gone, entry.stage = False, True, Stage.CLOSED
            self._entries.pop(entry.key, None)
            self._lock.notify_all()


def shut(name: str, loaded: Loaded) -> None:
    """Close what was loaded; whatever happens is logged."""
    try:
        loaded.close()
    except Exception:  # whatever it is, the other models must still be closed
        log.exception("closing %s failed", name)
