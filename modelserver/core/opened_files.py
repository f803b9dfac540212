"""A file that was opened, under the name it was opened by."""

from __future__ import annotations

import os
from pathlib import Path, PosixPath
from typing import IO, Any


class Held(PosixPath):
    """A path that reads the file it was opened as, also if its name has moved.

    Only ``open`` and :func:`open_at_once` do; all other methods are about the name. The
    opener closes the descriptor. One reader at a time.
    """

    descriptor: int = -1

    @classmethod
    def of(cls, path: Path, descriptor: int) -> Held:
        """Return the path of a file that was opened as ``descriptor``."""
        held = cls(path)
        held.descriptor = descriptor
        return held

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]
        """Open the file again, from its start."""
        return os.fdopen(open_at_once(self), mode, *args, **kwargs)


def open_at_once(path: Path) -> int:
    """Open for reading, without waiting if a FIFO has replaced the file.

    Raises:
        OSError: it cannot be opened.
    """
    if isinstance(path, Held) and path.descriptor >= 0:
        descriptor = os.dup(path.descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
