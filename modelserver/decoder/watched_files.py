"""An upload as a file for Pillow, which bounds Pillow's work.

Pillow reads a file's structure in Python: a crafted file of a million empty segments
keeps it busy for seconds, and every other thread waiting. Decoding itself, in C, is
bounded by the pixels; the structure is by how often, and how long, it is read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

# A PNG of many small IDAT chunks takes four reads a chunk, and encoders write 8 KiB in
# each; ordinary files take some dozens of reads in all.
_FREE_READS = 20_000
_BYTES_A_READ = 2048
# In a run-length coded BMP, which Pillow decodes in Python, each run takes two reads:
# about 1.5 s, in which the worst of two megapixels is read.
RUN_READS = 4_000_000
# Never reached, as far as we know; it holds for any next version of Pillow.
_MOST_CPU_S = 5.0
_LOOK_MASK = 255  # at each 256th read


class TookTooLong(Exception):
    """The file takes far more work than its size explains."""


class WatchedFile:
    """The part of a file's interface that Pillow uses. For one thread.

    Each of the dozens of reads of an ordinary file counts, so there is little to it.

    Args:
        data: the upload; a mapped one is not copied as a whole.
        free_reads: how many there may be at least.
    """

    __slots__ = ("_at", "_data", "_most", "_reads", "_until")

    def __init__(
        self,
        data: bytes | memoryview | mmap.mmap,
        *,
        free_reads: int = _FREE_READS,
    ) -> None:
        self._data = bytes(data) if isinstance(data, memoryview) else data
        self._at = 0
        self._reads = 0
        self._most = free_reads + len(data) // _BYTES_A_READ
        # This thread's time on a processor: a busy machine makes no image slow.
        self._until = time.thread_time() + _MOST_CPU_S

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left.

        Raises:
            TookTooLong: after too many reads.
        """
        self._reads = reads = self._reads + 1
        if not reads & _LOOK_MASK:
            self._check()
        at = self._at
        if size is None or size < 0:
            size = len(self._data)
        piece = self._data[at : at + size]
        self._at = at + len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move, like a file; before the beginning is the beginning."""
        start = (0, self._at, len(self._data))[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def _check(self) -> None:
        if self._reads > self._most or time.thread_time() > self._until:
            raise TookTooLong
