"""An upload's bytes as a file for Pillow, without a copy of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap


class TooManyParts(Exception):
    """A file has far more parts than its size explains."""


class MemoryFile:
    """The part of a file's interface that Pillow uses. For one thread.

    Each of the dozens of reads of an ordinary file counts, so there is little to it.
    A mapped upload has a position, too, but that is shared by all who read it.

    Args:
        data: the upload; a mapped one is not copied as a whole.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview | mmap.mmap) -> None:
        self._data = bytes(data) if isinstance(data, memoryview) else data
        self._at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left."""
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
