"""The number of a folder's requests that are on their way at a time."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Answers, for each request on its way, after which one more is tried.
_STEADY = 2


class Stopped(Exception):
    """The folder is given up, and nobody waits for this photo any more."""


class Pace:
    """As many at a time as the server takes. Thread-safe.

    A server that is full refuses at once. Then fewer requests are sent at a time, so
    that the refused ones get in, and later again more. Turns are given in the order of
    asking, so the refused ones cannot starve.

    Args:
        most: requests at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._busy = 0
        self._answers = 0
        self._stopped = False
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """The number of requests that may be on their way now."""
        return self._limit

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and hold it.

        Raises:
            Stopped: no more requests are to be sent.
        """
        self._begin()
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _begin(self) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            self._changed.wait_for(lambda: self._stopped or self._is_next(me))
            self._queue.remove(me)
            self._changed.notify_all()
            if self._stopped:
                raise Stopped
            self._busy += 1

    def _is_next(self, me: object) -> bool:
        return self._queue[0] is me and self._busy < self._limit

    def note_answer(self) -> None:
        """Note that the server answered; after some answers, one more is tried."""
        with self._changed:
            self._answers += 1
            if self._answers >= _STEADY * self._limit and self._limit < self._most:
                self._limit += 1
                self._answers = 0
                self._changed.notify_all()

    def note_refusal(self) -> None:
        """Note that the server refused; the request's own turn must have ended."""
        with self._changed:
            self._limit = max(1, min(self._limit - 1, self._busy))
            self._answers = 0

    def pause(self, seconds: float) -> None:
        """Wait without a turn.

        Raises:
            Stopped: meanwhile, no more requests are to be sent.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._stopped, seconds):
                raise Stopped

    def stop(self) -> None:
        """Stop all that wait; requests that are on their way go on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
