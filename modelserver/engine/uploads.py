"""Uploads on their way through the upload folder.

The form parser writes each file part straight into an ``Upload``, which is the only
copy; the decoder then reads it mapped into memory. The file has no name where the
system allows that, so that nothing can be left behind however the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from modelserver.core.errors import StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer

PREFIX = "modelserver-upload-"
OURS = re.compile(re.escape(PREFIX) + r"[0-9a-f]{32}")
# Answers to O_TMPFILE of a filesystem or a kernel without unnamed files.
NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
FULL = {errno.ENOSPC, errno.EDQUOT}
HAS_UNNAMED = hasattr(os, "O_TMPFILE")


class Spool:
    """The upload folder; one a process, safe to use from any thread.

    Args:
        folder: ``UPLOAD_FOLDER``.
        unnamed: try files without a name first; ``False`` as on a system without
            them.
    """

    def __init__(self, folder: Path, *, unnamed: bool = HAS_UNNAMED) -> None:
        self.folder = folder
        self._unnamed = unnamed

    def sweep(self) -> int:
        """Create the folder if it is missing, and remove crashed processes' leftovers.

        Only files of this module's naming that no process holds are removed: an
        upload under way is locked for as long as it is open. Unlike a process id, the
        lock is certain even if ids are used again or two containers share the folder.

        Returns:
            The number of files that were removed.

        Raises:
            StorageUnavailable: the folder cannot be created or read.
            StorageFull: the folder cannot be created for lack of space.
        """
        try:
            self._make_folder()
            found = [p for p in self.folder.iterdir() if OURS.fullmatch(p.name)]
        except OSError as err:
            raise _storage_error(err) from err
        return sum(map(_remove_leftover, found))

    def open(self) -> Upload:
        """Start an upload; a folder that was deleted is made again, once.

        Returns:
            An empty upload, which the caller closes.

        Raises:
            StorageFull: no space, no quota or no inodes.
            StorageUnavailable: the folder cannot be written.
        """
        try:
            try:
                return self._create()
            except FileNotFoundError:
                self._make_folder()
                return self._create()
        except OSError as err:
            raise _storage_error(err) from err

    def _make_folder(self) -> None:
        """Make the folder, for this user alone; an existing one stays as it is."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _create(self) -> Upload:
        """Create a file without a name, or one with a random name of our own."""
        if self._unnamed:
            try:
                # With O_EXCL the file can never be given a name.
                flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
                return Upload(os.open(self.folder, flags, 0o600))
            except OSError as err:
                if err.errno not in NO_UNNAMED:
                    raise
                self._unnamed = False
        path = self.folder / f"{PREFIX}{secrets.token_hex(16)}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with suppress(OSError):  # no locks here: it may be swept early, unharmed
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Upload(descriptor, None if _remove(path) else path)


class Upload(io.FileIO):
    """One upload: a binary file to write, then its content, then gone.

    Made by ``Spool.open``. For one thread at a time. Writes go to the file at once,
    so the form parser's pieces should be large.

    Args:
        descriptor: an empty file, open for reading and writing; owned from here on.
        path: its name if that could not be removed yet; removed on ``close``.
    """

    def __init__(self, descriptor: int, path: Path | None = None) -> None:
        super().__init__(descriptor, "r+b")
        self._path = path
        self._mapped: mmap.mmap | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of the bytes.

        Returns:
            Their number, which is all.

        Raises:
            StorageFull: no space or no quota left.
            StorageUnavailable: any other error of the disk.
        """
        rest = memoryview(data).cast("B")
        total = len(rest)
        try:
            while rest:
                # A nearly full disk takes a part and refuses the next one.
                rest = rest[super().write(rest) :]
        except OSError as err:
            raise _storage_error(err) from err
        return total

    def data(self) -> mmap.mmap | memoryview:
        """Return the content, read-only and not copied.

        Call it once all is written. Valid until ``close``.

        Returns:
            The mapped file; an empty ``memoryview`` for an empty one.

        Raises:
            StorageUnavailable: the file cannot be mapped.
        """
        try:
            if self._mapped is None and os.fstat(self.fileno()).st_size:
                self._mapped = mmap.mmap(self.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as err:
            raise _storage_error(err) from err
        return memoryview(b"") if self._mapped is None else self._mapped

    def close(self) -> None:
        """Give the file up: it is gone from folder and disk. Idempotent."""
        path, self._path = self._path, None
        mapped, self._mapped = self._mapped, None
        try:
            if mapped is not None:
                mapped.close()
        except BufferError:
            # A decoder that outlived its request still reads it; the memory is freed
            # once that is done.
            pass
        finally:
            super().close()
            if path is not None:
                _remove(path)


def _remove_leftover(path: Path) -> bool:
    """Remove a file of our naming unless a process holds it."""
    try:
        descriptor = os.open(
            path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> bool:
    """Remove a file; return ``False`` if the system does not let go of it."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _storage_error(err: OSError) -> StorageFull | StorageUnavailable:
    """Return the error for a full disk, or for one that cannot be written."""
    return StorageFull() if err.errno in FULL else StorageUnavailable()
