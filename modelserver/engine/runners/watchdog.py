"""Ends a model's process that takes too long or too much, or answers nothing.

One thread a runner looks once a second at what the runner is doing; the runs
themselves cost nothing more. Times count from the first look that saw something, so
nothing is ended early, and at most two looks late.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.process_limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

_TICK_S = 1.0
# A look that comes so much later than planned means that this process stood still, or
# the whole machine: then the time that passed says nothing about the other process.
_LATE_TICKS = 5
# A process says every 2 s that it lives. Five times without is no busy machine; and 10
# s is a third of the time that requests wait for their answer.
SILENCE_S = 10.0


class Task(NamedTuple):
    """Something that a process does now.

    Attributes:
        key: the same at each look, and another's for nothing else.
        limit_s: seconds that it may take.
        sentence: what is said of one that took longer.
    """

    key: Hashable
    limit_s: float
    sentence: str


class Signs(NamedTuple):
    """What can be seen of a process from outside.

    Attributes:
        tasks: what it does now.
        heard_s: when it last said that it lives; ``None`` where it need not.
        unread: whether it has said something that was not read yet.
        memory, memory_limit: bytes in use, and allowed.
    """

    tasks: Sequence[Task]
    heard_s: float | None
    unread: bool
    memory: int
    memory_limit: int


class Watchdog:
    """Looks at a process again and again, and has it ended with a reason.

    Args:
        name: of the thread.
        look: returns the present signs.
        kill: ends the process, with the reason; called once.
        tick_s: seconds between two looks.
        clock: seconds, monotonic; the one of ``Signs.heard_s``.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Signs],
        kill: Callable[[str], None],
        *,
        tick_s: float = _TICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._look = look
        self._kill = kill
        self._tick_s = min(tick_s, _TICK_S)
        self._clock = clock
        self._stopped = threading.Event()
        self._looked = clock()
        self._seen: dict[Hashable, float] = {}
        self._excused = self._looked

    def start(self) -> None:
        """Start looking, in a thread of its own."""
        self._looked = self._excused = self._clock()
        threading.Thread(target=self._watch, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Look no more. Idempotent; does not wait for a look under way."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick_s):
            reason = self.verdict()
            if reason is not None and not self._stopped.is_set():
                self._kill(reason)
                return

    def verdict(self) -> str | None:
        """Look once; returns why the process must be ended, or ``None``."""
        now = self._clock()
        if now - self._looked > _LATE_TICKS * self._tick_s + _TICK_S:
            self._seen, self._excused = {}, now
        self._looked = now
        signs = self._look()
        self._seen = {t.key: self._seen.get(t.key, now) for t in signs.tasks}
        if signs.memory > signs.memory_limit:
            return (
                f"it used {signs.memory // MIB} MiB of memory, more than the "
                f"{signs.memory_limit // MIB} MiB allowed (MODEL_MEMORY_MB)"
            )
        # What lies unread may be the very answer: then it is we who are slow. But no
        # process may talk its way out for ever.
        patience = 2 if signs.unread else 1
        for task in signs.tasks:
            if now - self._seen[task.key] > patience * task.limit_s:
                return task.sentence
        if signs.heard_s is not None:
            silent_s = now - max(signs.heard_s, self._excused)
            if silent_s > patience * SILENCE_S:
                return f"it gave no sign of life for {SILENCE_S:g} s"
        return None
