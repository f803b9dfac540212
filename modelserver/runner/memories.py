"""The memories of the engine and its decoders that this process reads images from."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.messages.runs import dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Memories:
    """Memories that are mapped for reading, by their numbers. Thread-safe.

    Views keep what they show: a memory that is dropped goes with its last view.
    """

    def __init__(self) -> None:
        self._mapped: dict[int, NDArray[np.uint8]] = {}

    def map(self, number: int, descriptor: int, size: int) -> None:
        """Map a memory for reading; the descriptor stays the caller's.

        Raises:
            OSError, ValueError: it cannot be mapped.
        """
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        self._mapped[number] = np.frombuffer(mapped, np.uint8)

    def drop(self, number: int) -> None:
        """Forget a memory. Idempotent."""
        self._mapped.pop(number, None)

    def view(
        self, number: int, offset: int, shape: tuple[int, ...], dtype: str = "|u1"
    ) -> NDArray[Any]:
        """Return a frame's values, read-only.

        Raises:
            ValueError: no memory that is mapped has such a frame.
            TypeError: it is of no numbers.
        """
        kind = dtype_of(dtype)
        memory = self._mapped.get(number)
        if memory is None:
            raise ValueError(f"memory {number} is not mapped")
        nbytes = math.prod(shape) * kind.itemsize
        inside = 0 <= offset <= offset + nbytes <= memory.size
        if not inside or min(shape, default=0) < 1:
            raise ValueError(f"memory {number} has no frame {shape} at {offset}")
        return memory[offset : offset + nbytes].view(kind).reshape(shape)
