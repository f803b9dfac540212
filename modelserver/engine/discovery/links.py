"""From a name in the model folder to the file it leads to, link by link.

Kubernetes volumes, Hugging Face snapshots and DVC are made of links. One is followed
if it and its target belong to root or to the server's own user: nobody else can have a
server with more rights read a file for them. Each step is
checked on a descriptor that stays open while it is taken, so nothing can change in
between.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LINKS = 40  # as Linux allows
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotFollowed(Exception):
    """A name leads to a file that is not used; the text, after the name, says why."""


def owners() -> frozenset[int]:
    """Return the users whose links are followed: root and the server's own."""
    return frozenset({0, os.geteuid()})


def open_file(root: Path, name: str) -> int:
    """Open the regular file that a name leads to; the caller closes the descriptor.

    Args:
        root: a folder that is trusted, however it is named.
        name: of a file in it, or in a folder of it (``a/b``).

    Raises:
        NotFollowed: it leads to something else, or a link of it is somebody else's.
        OSError: it leads nowhere, round in circles, or cannot be read.
    """
    return _follow(root, name, folder=False)


def open_folder(root: Path, name: str) -> int:
    """Open the folder that a name leads to; as :func:`open_file`."""
    return _follow(root, name, folder=True)


def is_folder(path: Path) -> bool:
    """Check whether a name leads to a folder; one that leads nowhere does not.

    Unlike ``Path.is_dir`` until Python 3.14, it raises for no error of the system: a
    link may lead to a place that the server may not read.
    """
    return os.path.isdir(path)  # noqa: PTH112


def is_regular(path: Path) -> bool:
    """Check whether a name leads to a regular file, as :func:`is_folder`."""
    return os.path.isfile(path)  # noqa: PTH113


def _follow(root: Path, name: str, *, folder: bool) -> int:
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts, links = name.split("/"), 0
    try:
        while True:
            part = parts.pop(0)
            if part in {"", "."} and parts:
                continue
            target = _target(at, part or ".")
            if target is None and not parts:
                return _open_end(at, part or ".", linked=links > 0, folder=folder)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
                parts = [*target.split("/"), *parts]
                part = "/" if target.startswith("/") else "."
            at = _step(at, part)
    finally:
        os.close(at)


def _step(at: int, part: str) -> int:
    """Open the next folder on the way, in place of the one before."""
    following = os.open(part, _LOOK | os.O_DIRECTORY, dir_fd=at)
    os.dup2(following, at, inheritable=False)
    os.close(following)
    return at


def _target(at: int, part: str) -> str | None:
    """Return a link's target; ``None`` for an entry that is no link.

    Raises:
        NotFollowed: it is another user's.
    """
    entry = os.open(part, _LOOK, dir_fd=at)
    try:
        status = os.fstat(entry)
        if not stat.S_ISLNK(status.st_mode):
            return None
        if status.st_uid not in owners():
            raise NotFollowed("is refused: it is a link that another user made")
        return os.readlink("", dir_fd=entry)
    finally:
        os.close(entry)


def _open_end(at: int, part: str, *, linked: bool, folder: bool) -> int:
    """Open the end of the path, once it is known to be harmless to open."""
    with ExitStack() as stack:
        entry = os.open(part, _LOOK, dir_fd=at)
        stack.callback(os.close, entry)
        _check(os.fstat(entry), linked=linked, folder=folder)
        flags = _READ | os.O_DIRECTORY if folder else _READ
        descriptor = os.open(part, flags, dir_fd=at)
        try:
            _check(os.fstat(descriptor), linked=linked, folder=folder)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _check(status: os.stat_result, *, linked: bool, folder: bool) -> None:
    right = stat.S_ISDIR if folder else stat.S_ISREG
    if not right(status.st_mode):
        wanted = "folder" if folder else "regular file"
        raise NotFollowed(f"is skipped: it is not a {wanted}")
    if linked and status.st_uid not in owners():
        raise NotFollowed("is refused: it is a link to what belongs to another user")
