"""Connections spread over the doors that share a listening socket.

Each door is told of a new connection, and the first to take it has it; kept, it stays
there. Without more, the door that wakes first takes all that come at once. So a door
that has more connections than another lets that one go first.
"""

from __future__ import annotations

import mmap

# A door with so many more connections than another one steps back.
_AHEAD = 3
# How long another door has to take a connection. One that is there needs a millisecond,
# or some more while its threads have the interpreter or the processor.
_BACK_S = 0.04
_AGAIN_S = 0.02
# A door that did not come so often in a row hangs.
_MISSED = 8
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
        # How often in a row those behind did not take what was left to them, as of
        # when they last told, and how many connections this door takes all the same.
        self._missed = 0
        self._seen: dict[int, int] = {}
        self._allowed = 0
        # Doors that do not come at all, as of when they last told.
        self._absent: dict[int, int] = {}

    def tell(self, connections: int) -> None:
        """Tell the others how many connections this door has, and that it is there."""
        self._counts[self._at] = connections + 1
        self._beats[self._at] = (self._beats[self._at] + 1) & _MOST

    def leave(self) -> None:
        """Tell the others that this door takes no more connections."""
        self._counts[self._at] = 0

    def is_ahead(self) -> bool:
        """Return whether another door has clearly fewer connections."""
        return bool(self._behind())

    def step_back(self) -> float:
        """Return for how many seconds to let others take what has come; 0 for none.

        After that time ``come_back`` is to be called, or once this door is no longer
        ahead.
        """
        behind = self._behind()
        if not behind:
            return 0.0
        if behind != self._seen:
            self._seen = behind
            self._missed = 0
            self._allowed = min(self._allowed, 1)
        if self._allowed:
            self._allowed -= 1
            return 0.0
        return _AGAIN_S if self._missed else _BACK_S

    def come_back(self, *, waiting: bool) -> None:
        """Take connections again.

        Args:
            waiting: the others have left one. One that is starved of its processor may
                be a while, so this door takes one then, two the next time, and so on;
                a door that hangs does not count in the end.
        """
        if not waiting:
            self._missed = 0
            return
        if self._behind() != self._seen:
            self._missed = 0
        self._missed += 1
        self._allowed = self._missed
        if self._missed > _MISSED:
            self._absent.update(self._behind())

    def _behind(self) -> dict[int, int]:
        """Return the doors that have clearly fewer connections, and their beats."""
        counts = self._counts.tolist()
        limit = counts[self._at] - _AHEAD
        behind = {}
        for at, count in enumerate(counts):
            if 0 < count <= limit and self._absent.get(at) != self._beats[at]:
                behind[at] = self._beats[at]
        return behind
