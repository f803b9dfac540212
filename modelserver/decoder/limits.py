"""How large an image may be, and how much memory decoders may hold at a time.

The size is decided from an image's header, before a pixel is decoded. The memory is
that besides the pixels which decoders give back: a progressive JPEG of a few hundred
bytes makes its decoder hold the whole image, at any scale; Pillow decodes into memory
of its own. Pixels that are given back are counted in a runner's arena.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelserver.core.errors import ImageTooLarge, Overloaded, UndecodableImage

if TYPE_CHECKING:
    from collections.abc import Iterator

# A JPEG of more than one scan is held whole as coefficients, 2 bytes a sample, at any
# scale it is decoded at: a few hundred bytes can ask for a gigabyte. Twice the pixels
# that may be decoded lets the 50-megapixel photos of phones through.
BUFFERED_SHARE = 2
# Each scan of a JPEG is work over the whole image, for which 40 bytes are enough:
# measured, 1.5 ns a pixel and scan, so this is some 4 s. Programs write 10 to 14 scans,
# and a phone's file with a second photo inside has twice as many.
MOST_SCANNED_PIXELS = 2_500_000_000
MOST_SCANS = 1_000
# Four images of the largest size that is decoded by default. A decoder holds 3 to 15
# bytes a pixel, so this is 1.5 GB at worst, and more images side by side would be no
# faster on the machines that have no more memory.
CAPACITY_PIXELS = 100_000_000
# Waiting in turn is faster than being sent away, but not for ever.
WAIT_S = 5.0


@dataclass(frozen=True)
class Limits:
    """The largest images that are decoded.

    Attributes:
        max_pixels: width x height of the decoded image, after a reduced decode; 3 bytes
            each. The default holds the photos of cameras, at 75 MB.
        max_header_pixels: width x height that the header may claim, for images that
            a reduced decode brings under ``max_pixels``.
        max_side: pixels of the longer side; an image above it is a strip that no model
            is made for.
    """

    max_pixels: int = 25_000_000
    max_header_pixels: int = 200_000_000
    max_side: int = 30_000

    def check_header(self, width: int, height: int, *, buffered: bool = False) -> None:
        """Refuse an image that its header alone rules out.

        Args:
            width: pixels, as stored.
            height: pixels, as stored.
            buffered: the decoder must hold the whole image at full size to give any
                part or reduction of it, as with a progressive JPEG.

        Raises:
            ImageTooLarge: too many pixels.
            UndecodableImage: a side is too long.
        """
        limit = self.max_header_pixels
        if buffered:
            limit = min(limit, BUFFERED_SHARE * self.max_pixels)
        if width * height > limit:
            raise ImageTooLarge(width, height, limit)
        if max(width, height) > self.max_side:
            raise UndecodableImage(
                f"it is {width} x {height} pixels, and a side may have "
                f"{self.max_side} at most."
            )

    def most_scans(self, width: int, height: int) -> int:
        """Return how many scans a JPEG of some size may have."""
        return min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, width * height))

    def check_decoded(self, pixels: int, width: int, height: int) -> None:
        """Refuse an image of which too many pixels would be decoded.

        Args:
            pixels: how many would be, after a reduction.
            width: pixels of the whole image, for the message.
            height: pixels of the whole image, for the message.

        Raises:
            ImageTooLarge: more than ``max_pixels``.
        """
        if pixels > self.max_pixels:
            raise ImageTooLarge(width, height, self.max_pixels)


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
