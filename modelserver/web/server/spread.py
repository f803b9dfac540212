"""Connections spread over the doors that share a listening socket.

Each door is told of a new connection, and the first to take it has it; kept, it stays
there. Without more, the door that wakes first takes all that come at once. So a door
that has more connections than another lets that one go first.
"""

from __future__ import annotations

import itertools
import mmap

# A door with so many more connections than another one steps back.
_AHEAD = 3
_SEATS = 64
_WORD_BYTES = 8
_MOST = (1 << 64) - 1


class Board:
    """How many connections each door has, in memory that all doors write and read.

    To be made before the doors are forked. Each word has one writer at a time and is
    stored as a whole, so there is no lock that a door could die with.
    """

    def __init__(self) -> None:
        memory = mmap.mmap(-1, 2 * _SEATS * _WORD_BYTES)
        words = memoryview(memory).cast("Q")
        # Connections and one; 0 for no door. Then how often each door has told.
        self._counts, self._beats = words[:_SEATS], words[_SEATS:]

    def seat(self, number: int) -> Seat:
        """Return a door's place, by the number that its arbiter gave it."""
        return Seat(self._counts, self._beats, number % _SEATS)

    def clear(self, number: int) -> None:
        """Note that a door is gone, however it ended."""
        self._counts[number % _SEATS] = 0


class Seat:
    """One door's place at the board. For that door's main loop."""

    def __init__(
        self, counts: memoryview[int], beats: memoryview[int], at: int
    ) -> None:
        self._counts = counts
        self._beats = beats
        self._at = at
        # Doors that did not take what was left to them, as of when they last told.
        self._absent: dict[int, int] = {}

    def tell(self, connections: int) -> None:
        """Tell the others how many connections this door has, and that it is there."""
        self._counts[self._at] = connections + 1
        self._beats[self._at] = (self._beats[self._at] + 1) & _MOST

    def leave(self) -> None:
        """Tell the others that this door takes no more connections."""
        self._counts[self._at] = 0

    def is_ahead(self) -> bool:
        """Return whether this door has clearly more connections than another one."""
        return any(True for _ in self._behind())

    def pass_over(self) -> None:
        """Note that those behind have left a connection waiting.

        They do not count until they tell something again.
        """
        for at in list(self._behind()):
            self._absent[at] = self._beats[at]

    def _behind(self) -> itertools.filterfalse[int]:
        """Return the places of doors that have clearly fewer connections."""
        counts = self._counts.tolist()
        limit = counts[self._at] - _AHEAD
        fewer = (at for at, count in enumerate(counts) if 0 < count <= limit)
        return itertools.filterfalse(self._is_absent, fewer)

    def _is_absent(self, at: int) -> bool:
        return self._absent.get(at) == self._beats[at]
