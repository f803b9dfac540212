"""Which models are in memory where there are more than ``MAX_MODELS``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic

from modelserver.engine.catalogue.entries import Entry, L, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modelserver.engine.discovery import Key

log = logging.getLogger(__name__)


class Places(Generic[L]):
    """Gives the places in memory to models, and takes the least recently used one's.

    Not thread-safe: used with the registry's lock held.

    Args:
        entries: all models.
        most: how many may be in memory; 0 for any number.
        stay_s: how long a model keeps its place at least. Without it two models that
            share one place, asked for in turn, would do nothing but load.
        drain_s: how long a model that loses its place may finish what it has begun.
        changed: called when a model's stage was changed.
    """

    def __init__(
        self,
        entries: Mapping[Key, Entry[L]],
        *,
        most: int,
        stay_s: float,
        drain_s: float,
        changed: Callable[[], None],
    ) -> None:
        self._entries = entries
        self._most = most
        self._stay_s = stay_s
        self._drain_s = drain_s
        self._changed = changed

    def take(self, entry: Entry[L]) -> bool:
        """Give a model a free place; returns whether it has one now."""
        if not entry.resident:
            taken = sum(other.resident for other in self._entries.values())
            entry.resident = not self._most or taken < self._most
        return entry.resident

    def claim(self, entry: Entry[L], now: float) -> bool:
        """Give a model that is to be loaded its place, when it is its turn.

        Who was asked for gets somebody else's place, soon; who was not is UNLOADED.
        """
        if entry.resident:
            return True
        if not entry.asked:
            if not self.take(entry):
                unload(entry)
                self._changed()
            return entry.resident
        waiting = [e for e in self._entries.values() if e.asked and not e.resident]
        if entry is not min(waiting, key=lambda e: (e.retry_at or 0.0, e.key)):
            return False
        if not self.take(entry):
            self._make_room(now)
        return entry.resident

    def _make_room(self, now: float) -> None:
        """Have the least recently used model drain, unless one does already."""
        entries = self._entries.values()
        if any(e.resident and e.stage is Stage.DRAINING for e in entries):
            return
        able = [
            (version.users > 0, entry.used, entry.key, entry)
            for entry in entries
            if (version := entry.version) is not None
            and not entry.busy
            and now - version.since >= self._stay_s
        ]
        if able:
            # Keys differ, so entries are never compared.
            victim = min(able)[-1]
            log.info("%s is unloaded to make room (MAX_MODELS)", victim.name)
            victim.retire(now + self._drain_s)
            victim.stage, victim.busy = Stage.DRAINING, True
            self._changed()


def unload(entry: Entry[L]) -> None:
    """Leave a model out of memory until somebody asks for it."""
    entry.resident = entry.asked = entry.first = False
    entry.retry_at = None
    entry.stage = Stage.UNLOADED
