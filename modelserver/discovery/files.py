"""The files of one model, and what tells one version of them from another."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelserver import exports
from modelserver.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from modelserver.exports import Export
    from modelserver.signatures import Kind

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: the prefix in Unicode's composed form (NFC), as clients send it.
        kind: which app serves it.
        graph: the frozen graph.
        labels: the label map, ``None`` where there is none.
        sidecar: ``<prefix>.json``, ``None`` where there is none.
        image: a photo that the model must get right before it serves.
        expected: what it must see in it; both are there or neither.
        facts: what the tool that made it wrote down beside it; see ``exports``.
    """

    name: str
    kind: Kind
    graph: Path
    labels: Path | None
    sidecar: Path | None
    image: Path | None = None
    expected: Path | None = None
    facts: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that there are: graph, labels, sidecar, image, expected, facts."""
        found = (self.graph, self.labels, self.sidecar, self.image, self.expected)
        return (*(path for path in found if path is not None), *self.facts)

    @property
    def fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        """Name, size, mtime_ns and inode of each file, to see a change cheaply.

        A file that is gone has -1 for each. Where files were added, two discoveries
        differ in ``ModelFiles`` itself.
        """
        return tuple(_stamp(path) for path in self.paths)

    @property
    def stamp(self) -> object:
        """What differs once any of the files was added, changed or taken away."""
        return self.paths, self.fingerprint

    def digest(self) -> str:
        """Hash what the model is made of, golden files apart: 64 hex digits.

        Raises:
            ModelError: a file is gone or cannot be read.
        """
        total = hashlib.sha256()
        for role, path in zip(
            ("graph", "labels", "sidecar"),
            (self.graph, self.labels, self.sidecar),
            strict=True,
        ):
            if path is not None:
                total.update(f"{role} {_sha256(path)}\n".encode())
        for path in self.facts:
            total.update(f"facts {_sha256(path)}\n".encode())
        return total.hexdigest()

    def export(self) -> Export | None:
        """Read what the tool that made the model wrote down beside it.

        Raises:
            ModelError: a file cannot be read or is none of its kind.
        """
        return exports.read({path.name: _beginning(path) for path in self.facts})

    def identity(self, digest: str) -> tuple[str, ...]:
        """Return what differs once any file's name or content does.

        Args:
            digest: of these files, as :meth:`digest` gave it.

        Raises:
            ModelError: a golden file is gone or cannot be read.
        """
        golden = (path for path in (self.image, self.expected) if path is not None)
        names = (path.name for path in self.paths)
        return (digest, *(_sha256(path) for path in golden), *names)


def open_at_once(path: Path) -> int:
    """Open for reading, without waiting where a FIFO has taken the file's place."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, -1, -1
    return path.name, status.st_size, status.st_mtime_ns, status.st_ino


def _beginning(path: Path) -> bytes:
    """Read a small file; of a larger one a byte more than it may have."""
    try:
        with open(open_at_once(path), "rb") as file:
            return file.read(exports.MAX_BYTES + 1)
    except OSError as err:
        raise ModelError(f"{path.name} cannot be read: {err.strerror}") from err


def _sha256(path: Path) -> str:
    """A file's SHA-256 as hex digits, read a MiB at a time."""
    digest = hashlib.sha256()
    try:
        with open(open_at_once(path), "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as err:
        raise ModelError(f"{path.name} cannot be read: {err.strerror}") from err
    return digest.hexdigest()
