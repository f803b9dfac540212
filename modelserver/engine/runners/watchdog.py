"""Ends a model's process that takes too long or too much memory, or falls silent.

One thread a runner checks the runner once a second; the runs themselves cost nothing
more. Times count from the first check that saw an activity, so nothing is ended early,
and at most two checks late.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.process_limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

_TICK_S = 1.0
# A check that comes so much later than planned means that this process stood still, or
# the whole machine: then the time that passed says nothing about the other process.
_LATE_TICKS = 5
# A process sends a heartbeat every 2 s. Five missed ones are no busy machine; and 10 s
# is a third of the time that requests wait for their answer.
SILENCE_S = 10.0


class Activity(NamedTuple):
    """Something that a process is doing.

    Attributes:
        key: names it at each check; no other activity ever has the same.
        limit_s: seconds that it may take.
        sentence: the reason to end a process in which it took longer.
    """

    key: Hashable
    limit_s: float
    sentence: str


class Signs(NamedTuple):
    """The signs of a process that show outside.

    Attributes:
        activities: under way now.
        heard_s: when its last heartbeat came; ``None`` if it need not send any.
        unread: whether it has sent something that was not read yet.
        memory, memory_limit: bytes in use, and allowed.
    """

    activities: Sequence[Activity]
    heard_s: float | None
    unread: bool
    memory: int
    memory_limit: int


class Watchdog:
    """Checks a process again and again, and ends it with a reason.

    Args:
        name: of the thread.
        observe: returns the present signs.
        kill: ends the process, with the reason; called once.
        tick_s: seconds between two checks.
        clock: seconds, monotonic; the one of ``Signs.heard_s``.
    """

    def __init__(
        self,
        name: str,
        observe: Callable[[], Signs],
        kill: Callable[[str], None],
        *,
        tick_s: float = _TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._observe = observe
        self._kill = kill
        self._tick_s = min(tick_s, _TICK_S)
        self._clock = clock
        self._stopped = threading.Event()
        self._checked = clock()
        self._first_seen: dict[Hashable, float] = {}
        self._excused = self._checked

    def start(self) -> None:
        """Start checking, in a thread of its own."""
        self._checked = self._excused = self._clock()
        threading.Thread(target=self._watch, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Stop checking. Idempotent; does not wait for a check under way."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick_s):
            reason = self.check()
            if reason is not None and not self._stopped.is_set():
                self._kill(reason)
                return

    def check(self) -> str | None:
        """Check once; return the reason to end the process, or ``None``."""
        now = self._clock()
        if now - self._checked > _LATE_TICKS * self._tick_s + _TICK_S:
            self._first_seen, self._excused = {}, now
        self._checked = now
        signs = self._observe()
        self._first_seen = {
            activity.key: self._first_seen.get(activity.key, now)
            for activity in signs.activities
        }
        if signs.memory > signs.memory_limit:
            return (
                f"it used {signs.memory // MIB} MiB of memory, more than the "
                f"{signs.memory_limit // MIB} MiB allowed (MODEL_MEMORY_MB)"
            )
        # An unread message may be the very answer: then it is the engine that is slow.
        # But no process may talk its way out for ever.
        patience = 2 if signs.unread else 1
        for activity in signs.activities:
            if now - self._first_seen[activity.key] > patience * activity.limit_s:
                return activity.sentence
        if signs.heard_s is not None:
            silent_s = now - max(signs.heard_s, self._excused)
            if silent_s > patience * SILENCE_S:
                return f"it gave no sign of life for {SILENCE_S:g} s"
        return None
