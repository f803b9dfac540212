"""Memory for decoded images, shared with the processes that run graphs.

A decoder writes an image into memory that the graph's process reads, so pixels cross
without a copy and the messages between the two stay small. Whoever reads may not write:
no graph can change the image that another one is shown.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import threading
from bisect import insort
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Frames start on a page, which is more than TensorFlow's 64 bytes: below those it
# copies what it is fed.
_ALIGN = mmap.PAGESIZE
# A frame over this gives its pages back to the system when it is released; smaller
# ones keep them, so that the next image needs no page faults.
_KEEP_BYTES = 16 << 20
_numbers = count()


class Memory:
    """A block of memory that frames lie in. Thread-safe.

    Args:
        descriptor: an unnamed file (memfd) that cannot shrink, owned from here on;
            ``None`` for memory that only this process can use.
        size: its bytes.

    Attributes:
        number: names it in messages; no other memory of this process ever has the same.
        size: bytes.

    Raises:
        ValueError: the file is shorter, or may shrink: to read behind its end would
            kill the reader (SIGBUS).
    """

    def __init__(self, descriptor: int | None, size: int) -> None:
        if descriptor is not None:
            _check(descriptor, size)
        self.number = next(_numbers)
        self.size = size
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._retired = False
        self._readers: list[Callable[[Memory], None]] = []

    @property
    def descriptor(self) -> int:
        """The file's descriptor, which stays this object's.

        Raises:
            OSError: it has no file, or is retired.
        """
        if self._descriptor is None:
            raise OSError("frames cannot be shared here: there is no memfd_create")
        return self._descriptor

    def open_read_only(self) -> int:
        """Return a new descriptor of the file that nobody can write by.

        Raises:
            OSError: it has no file, is retired, or there can be no more descriptors.
        """
        with self._lock:
            path = f"/proc/self/fd/{self.descriptor}"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def tell_reader(self, retired: Callable[[Memory], None]) -> None:
        """Call ``retired`` once the memory is retired, at once if it is already."""
        with self._lock:
            if not self._retired:
                self._readers.append(retired)
                return
        retired(self)

    def forget_reader(self, retired: Callable[[Memory], None]) -> None:
        """Do not call ``retired`` any more. Idempotent."""
        with self._lock:
            if retired in self._readers:
                self._readers.remove(retired)

    def retire(self) -> None:
        """Close the file and have all readers unmap it. Idempotent.

        No frame may lie in it any more, but for those whose readers are gone.
        """
        with self._lock:
            self._retired = True
            readers, self._readers = self._readers, []
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
        for retired in readers:
            retired(self)


class Frame:
    """One image in a memory.

    Args:
        memory, offset: its place, in bytes from the memory's start.
        shape: C-contiguous, of uint8 unless ``dtype`` says otherwise.
        give_back: called once, with the frame, when it is released.
        pixels: the image, where this process can see it.
        dtype: of numbers that a graph is fed as they are, as NumPy writes it; ``None``
            for an image.
    """

    __slots__ = ("_give_back", "_pixels", "dtype", "memory", "offset", "shape")

    def __init__(
        self,
        memory: Memory,
        offset: int,
        shape: tuple[int, ...],
        give_back: Callable[[Frame], None],
        pixels: NDArray[Any] | None = None,
        *,
        dtype: str | None = None,
    ) -> None:
        self.memory = memory
        self.offset = offset
        self.shape = shape
        self.dtype = dtype
        self._give_back: Callable[[Frame], None] | None = give_back
        self._pixels = pixels

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels, or numbers."""
        each = 1 if self.dtype is None else np.dtype(self.dtype).itemsize
        return math.prod(self.shape) * each

    @property
    def pixels(self) -> NDArray[Any]:
        """The image or the numbers, until the frame is released.

        Raises:
            RuntimeError: only the processes that map the memory can see it.
        """
        if self._pixels is None:
            raise RuntimeError("this process does not see the frame's pixels")
        return self._pixels

    def turn(self, pixels: NDArray[np.uint8]) -> None:
        """Take another view of the same bytes, such as a photo turned upright."""
        self.shape, self._pixels = pixels.shape, pixels

    def hold(self, numbers: NDArray[Any]) -> None:
        """Take a view of the same bytes as numbers that are fed as they are."""
        self.turn(numbers)
        self.dtype = numbers.dtype.str

    def release(self) -> None:
        """Give the memory back. Idempotent. ``pixels`` must not be used after."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)


class Arena:
    """Cuts frames from a memory of its own, first fit. Thread-safe.

    Only pages that were written use memory. First fit hands the same low addresses out
    again and again, which are mapped and warm already.

    Args:
        size: bytes that all frames together may take.
    """

    def __init__(self, size: int) -> None:
        self._size = _round_up(size)
        self._free: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._memory: Memory | None = None
        self._mapped: mmap.mmap | None = None

    def open(self) -> None:
        """Make the memory.

        On Linux it is an unnamed file that other processes can map; elsewhere it can
        only be used inside this process.
        """
        descriptor = _make_file(self._size) if hasattr(os, "memfd_create") else None
        self._memory = Memory(descriptor, self._size)
        self._mapped = mmap.mmap(-1 if descriptor is None else descriptor, self._size)
        self._free = [(0, self._size)]

    @property
    def memory(self) -> Memory | None:
        """The memory that the frames lie in; ``None`` if it is not open."""
        return self._memory

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
                    return self._cut(start, shape)
        raise Overloaded(what="The images in flight fill the memory for them")

    def _cut(self, offset: int, shape: tuple[int, ...]) -> Frame:
        if self._memory is None or self._mapped is None:
            raise Overloaded
        flat = np.frombuffer(self._mapped, np.uint8, math.prod(shape), offset)
        return Frame(self._memory, offset, shape, self._release, flat.reshape(shape))

    def _release(self, frame: Frame) -> None:
        offset, length = frame.offset, _round_up(frame.nbytes)
        with self._lock:
            if self._mapped is None:
                return
            if length > _KEEP_BYTES and hasattr(mmap, "MADV_REMOVE"):
                self._mapped.madvise(mmap.MADV_REMOVE, offset, length)
            insort(self._free, (offset, length))
            self._free = _merge(self._free)

    def close(self) -> None:
        """Drop the memory; it goes when the last frame does. Idempotent."""
        with self._lock:
            self._free = []
            self._mapped = None
            memory, self._memory = self._memory, None
        if memory is not None:
            memory.retire()


def _make_file(size: int) -> int:
    """Make an unnamed file of zeros whose size cannot change; give its descriptor."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    descriptor = os.memfd_create("modelserver-frames", flags)
    try:
        os.ftruncate(descriptor, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int, size: int) -> None:
    sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    if not sealed or os.fstat(descriptor).st_size < size:
        raise ValueError("memory for frames that may be shorter than it is said to be")


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
