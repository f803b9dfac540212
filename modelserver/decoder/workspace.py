"""How much memory the decoders of one process may hold at a time.

That is the memory besides the pixels which decoders give back: a progressive JPEG of a
few hundred bytes makes its decoder hold the whole image, at any scale; Pillow decodes
into memory of its own. Pixels that are given back are counted where their frames are.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modelserver.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

# Four images of the largest size that is decoded by default. A decoder holds 3 to 15
# bytes a pixel, so this is 1.5 GB at worst, and more images side by side would be no
# faster on the machines that have no more memory.
CAPACITY_PIXELS = 100_000_000
# Waiting in turn is faster than being sent away, but not for ever.
WAIT_S = 5.0


class Workspace:
    """A budget of pixels in decoders' own memory. Thread-safe.

    Args:
        capacity: pixels.
        wait_s: how long :meth:`hold` waits for others.
    """

    def __init__(self, capacity: int = CAPACITY_PIXELS, wait_s: float = WAIT_S) -> None:
        self._capacity = capacity
        self._wait_s = wait_s
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int, wait_s: float = math.inf) -> Iterator[None]:
        """Hold room for as many pixels; one image alone is never too large.

        Not to be nested: two threads would wait for each other.

        Args:
            wait_s: how long the caller has; no longer is waited.

        Raises:
            Overloaded: others kept the room for too long.
        """
        share = min(pixels, self._capacity)
        with self._changed:
            free = self._changed.wait_for(
                lambda: self._held + share <= self._capacity,
                min(wait_s, self._wait_s),
            )
            if not free:
                raise Overloaded(what="The memory for decoding images is full")
            self._held += share
        try:
            yield
        finally:
            with self._changed:
                self._held -= share
                self._changed.notify_all()
