"""What the engine writes on the page on which doors see refusals."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modelserver.core.refusals import Writer
from modelserver.engine.catalogue import State

if TYPE_CHECKING:
    from modelserver.engine.engine import Engine

# The page is written so long after a change, with all others of this time. While each
# model would take many more photos no door can refuse any, so there is time: to wake
# for it twice a photo costs one client alone as much as its queue does.
_DELAY_S, _CALM_DELAY_S = 0.002, 0.025
_CALM_ROOM = 32
# And at least so often, so that doors believe it.
_BEAT_S = 0.25


class RefusalPage:
    """Writes how the models would take photos; in the engine's loop.

    Args:
        engine: whose models they are.
        descriptor: of the page; see ``core.refusals``.
    """

    def __init__(self, engine: Engine, descriptor: int) -> None:
        self._engine = engine
        self._page = Writer(descriptor)
        self._due = False
        self._delay_s = _DELAY_S
        self._started = time.perf_counter()
        self._loaded = False

    def open(self) -> None:
        """Take the page over, and write it from now on."""
        self._page.begin()
        self._beat()

    def note_change(self) -> None:
        """Have the page written soon."""
        if not self._due:
            self._due = True
            self._engine.loop.after(self._delay_s, self._write)

    def _beat(self) -> None:
        # First, so that an error in the other would not look like an engine's death.
        self._engine.loop.after(_BEAT_S, self._beat)
        self._write()

    def _write(self) -> None:
        self._due = False
        entries = list(self._engine.registry)
        if not self._loaded:
            self._note_load([entry.state for entry in entries])
        if any(entry.state is State.UNLOADED for entry in entries):
            self._page.write(None)
            return
        models = [entry.loaded for entry in entries if entry.loaded is not None]
        lines = [model.queue.line() for model in models]
        self._page.write(lines)
        is_calm = all(line.room >= _CALM_ROOM for line in lines)
        self._delay_s = _CALM_DELAY_S if is_calm else _DELAY_S

    def _note_load(self, states: list[State]) -> None:
        """Note how long it took until none of the models was being loaded."""
        if State.LOADING not in states:
            self._loaded = True
            self._page.note_load(time.perf_counter() - self._started)
