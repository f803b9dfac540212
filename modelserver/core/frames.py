"""Memory for decoded images, shared with the process that runs the graph.

A decoder writes an image into memory that the graph's process reads, so pixels cross
without a copy and the messages between the two stay small.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from bisect import insort
from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import Overloaded

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Frames start on a page, which is more than TensorFlow's 64 bytes: below those it
# copies what it is fed.
_ALIGN = mmap.PAGESIZE
# A frame over this gives its pages back to the system when it is released; smaller
# ones keep them, so that the next image needs no page faults.
_KEEP_BYTES = 16 << 20


class Frame:
    """One image in an arena.

    Attributes:
        pixels: uint8, C-contiguous, of the shape asked for; valid until release.
        offset: bytes from the arena's start.
    """

    __slots__ = ("_arena", "offset", "pixels")

    def __init__(self, arena: Arena, offset: int, pixels: NDArray[np.uint8]) -> None:
        self._arena: Arena | None = arena
        self.offset = offset
        self.pixels = pixels

    def release(self) -> None:
        """Give the memory back. Idempotent. ``pixels`` must not be used after."""
        arena, self._arena = self._arena, None
        if arena is not None:
            arena.release(self.offset, self.pixels.nbytes)


class Arena:
    """A block of shared memory that frames are cut from, first fit. Thread-safe.

    Only pages that were written use memory. First fit hands the same low addresses out
    again and again, which are mapped and warm already.

    Args:
        size: bytes that all frames together may take.
    """

    def __init__(self, size: int) -> None:
        self._size = math.ceil(size / _ALIGN) * _ALIGN
        self._fd: int | None = None
        self._free: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None

    def open(self) -> None:
        """Make the memory.

        On Linux it is an unnamed file, to be inherited by descriptor; elsewhere it can
        only be used inside this process.
        """
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("modelserver-frames")
            os.ftruncate(self._fd, self._size)
        self._memory = mmap.mmap(self._fd if self._fd is not None else -1, self._size)
        self._free = [(0, self._size)]

    @property
    def descriptor(self) -> int:
        """The descriptor that another process maps the memory by."""
        if self._fd is None:
            raise OSError("frames cannot be shared here: there is no memfd_create")
        return self._fd

    @property
    def size(self) -> int:
        """Bytes of the whole arena."""
        return self._size

    def allocate(self, shape: tuple[int, ...]) -> Frame:
        """Cut a frame for a uint8 array of ``shape``.

        Raises:
            Overloaded: the images in flight leave no room for this one.
        """
        wanted = _round_up(math.prod(shape))
        with self._lock:
            for position, (start, length) in enumerate(self._free):
                if length >= wanted:
                    if length == wanted:
                        del self._free[position]
                    else:
                        self._free[position] = (start + wanted, length - wanted)
                    return Frame(self, start, self._view(start, shape))
        raise Overloaded(what="The images in flight fill the memory for them")

    def release(self, offset: int, nbytes: int) -> None:
        """Take a frame's memory back; use :meth:`Frame.release`."""
        length = _round_up(nbytes)
        with self._lock:
            if self._memory is None:
                return
            if length > _KEEP_BYTES and hasattr(mmap, "MADV_REMOVE"):
                self._memory.madvise(mmap.MADV_REMOVE, offset, length)
            insort(self._free, (offset, length))
            self._free = _merge(self._free)

    def _view(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        if self._memory is None:
            raise Overloaded
        return np.frombuffer(
            self._memory, np.uint8, count=math.prod(shape), offset=offset
        ).reshape(shape)

    def close(self) -> None:
        """Drop the memory; it goes when the last frame does. Idempotent."""
        with self._lock:
            self._free = []
            self._memory = None
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


def attach(descriptor: int) -> NDArray[np.uint8]:
    """Map another process's arena, for reading: uint8 [bytes]."""
    size = os.fstat(descriptor).st_size
    memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
    return np.frombuffer(memory, np.uint8)


def _round_up(nbytes: int) -> int:
    return max(1, math.ceil(nbytes / _ALIGN)) * _ALIGN


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbours of a sorted list of ``(start, length)``."""
    merged: list[tuple[int, int]] = []
    for start, length in spans:
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((start, length))
    return merged
