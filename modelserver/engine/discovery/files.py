"""The files of one model, and the stamps that tell their versions apart."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from modelserver.core import exports
from modelserver.core.errors import ModelError
from modelserver.core.opened_files import Held, open_at_once
from modelserver.core.signatures import RAW
from modelserver.engine.discovery.links import NotFollowed, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelserver.core.exports import Export
    from modelserver.core.signatures import Kind

_CHUNK_BYTES = 1024 * 1024
# Files that lead elsewhere while they are opened are opened again, so often.
_TRIES = 10

Key: TypeAlias = "tuple[Kind, str]"
"""A model's kind and name."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: the prefix in Unicode's composed form (NFC), as clients send it.
        kind: of the app that serves it.
        graph: the frozen graph.
        labels: the label map, ``None`` if there is none.
        sidecar: ``<prefix>.json``, ``None`` if there is none.
        image: a photo that the model must get right before it serves.
        expected: the answer to it; both are there or neither.
        facts: files of the tool that made it, next to it; see ``exports``.
        inside: they lie in a folder of the model's name, not in the model folder.
        problem: why they cannot be served together, though each may be whole.
    """

    name: str
    kind: Kind
    graph: Path
    labels: Path | None
    sidecar: Path | None
    image: Path | None = None
    expected: Path | None = None
    facts: tuple[Path, ...] = ()
    inside: bool = False
    problem: str = ""

    @property
    def key(self) -> Key:
        """Kind and name, which no other model has together."""
        return self.kind, self.name

    def raw(self) -> ModelFiles:
        """Return the graph alone, as a model that is fed numbers alone."""
        return replace(
            self,
            kind=RAW,
            labels=None,
            sidecar=None,
            image=None,
            expected=None,
            facts=(),
        )

    @property
    def root(self) -> Path:
        """The model folder."""
        return self.graph.parent.parent if self.inside else self.graph.parent

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that there are: graph, labels, sidecar, image, expected, facts."""
        found = (self.graph, self.labels, self.sidecar, self.image, self.expected)
        return (*(path for path in found if path is not None), *self.facts)

    @property
    def fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        """Name, size, mtime_ns and inode of each file, to see a change cheaply.

        They are of the file that each name leads to. A file that is gone has -1 for
        each. If files were added, two discoveries differ in ``ModelFiles`` itself.
        """
        return tuple(_stamp(path) for path in self.paths)

    @property
    def stamp(self) -> object:
        """Differs once any of the files was added, changed or taken away."""
        return self.paths, self.fingerprint, self.problem

    @contextmanager
    def open_all(self) -> Iterator[ModelFiles]:
        """Open the files to load once, all of one version; close them with the context.

        Yields the same files, whose paths read the opened ones; golden files are read
        when the model is warm. A volume whose link is moved to another version
        meanwhile gives all of the old one or all of the new.

        Raises:
            ModelError: a file is gone, cannot be read or may not be followed, or they
                keep changing; or there is a problem.
        """
        if self.problem:
            raise ModelError(self.problem)
        for _ in range(_TRIES):
            with ExitStack() as stack:
                held = {path: self._hold(path, stack) for path in self._to_load}
                if all(map(self._leads_to, held.values())):
                    yield self._with(held)
                    return
        raise ModelError("its files keep changing")

    @property
    def _to_load(self) -> tuple[Path, ...]:
        """The files that are loaded: all but the golden ones."""
        found = (self.graph, self.labels, self.sidecar, *self.facts)
        return tuple(path for path in found if path is not None)

    def _with(self, held: dict[Path, Held]) -> ModelFiles:
        """Replace the paths by those that were opened."""
        return replace(
            self,
            graph=held[self.graph],
            labels=held[self.labels] if self.labels else None,
            sidecar=held[self.sidecar] if self.sidecar else None,
            facts=tuple(held[path] for path in self.facts),
        )

    def _hold(self, path: Path, stack: ExitStack) -> Held:
        descriptor = self._open(path)
        stack.callback(os.close, descriptor)
        return Held.of(path, descriptor)

    def _leads_to(self, held: Held) -> bool:
        """Check whether a name still leads to the file that was opened by it."""
        try:
            now = held.stat()
        except OSError:
            return False
        return os.path.samestat(now, os.fstat(held.descriptor))

    def _open(self, path: Path) -> int:
        """Open a file; its links are followed by the rules of ``links``."""
        try:
            if isinstance(path, Held):
                return open_at_once(path)
            return open_file(self.root, str(path.relative_to(self.root)))
        except NotFollowed as err:
            raise ModelError(f"{path.name} {err}") from err
        except OSError as err:
            raise ModelError(f"{path.name} cannot be read: {err.strerror}") from err

    def digest(self) -> str:
        """Hash the files of the model but the golden ones: 64 hex digits.

        Raises:
            ModelError: a file is gone or cannot be read, or there is a problem.
        """
        if self.problem:
            raise ModelError(self.problem)
        total = hashlib.sha256()
        for role, path in zip(
            ("graph", "labels", "sidecar"),
            (self.graph, self.labels, self.sidecar),
            strict=True,
        ):
            if path is not None:
                total.update(f"{role} {self._sha256(path)}\n".encode())
        for path in self.facts:
            total.update(f"facts {self._sha256(path)}\n".encode())
        return total.hexdigest()

    def export(self) -> Export | None:
        """Read the files that the tool that made the model wrote next to it.

        Raises:
            ModelError: a file cannot be read or is none of its kind.
        """
        return exports.read({path.name: self._beginning(path) for path in self.facts})

    def identity(self, digest: str) -> tuple[str, ...]:
        """Return a value that differs once any file's name or content does.

        Args:
            digest: of these files, as :meth:`digest` gave it.

        Raises:
            ModelError: a golden file is gone or cannot be read.
        """
        golden = (path for path in (self.image, self.expected) if path is not None)
        names = (path.name for path in self.paths)
        return (digest, *(self._sha256(path) for path in golden), *names)

    def _beginning(self, path: Path) -> bytes:
        """Read a small file; of a larger one, a byte more than it may have."""
        return b"".join(self._chunks(path, exports.MAX_BYTES + 1))

    def _sha256(self, path: Path) -> str:
        """Return a file's SHA-256 as hex digits, read a MiB at a time."""
        digest = hashlib.sha256()
        for chunk in self._chunks(path):
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self, path: Path, limit: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes, at most ``limit`` or all, a MiB at a time."""
        with os.fdopen(self._open(path), "rb", buffering=0) as file:
            try:
                while chunk := file.read(min(_CHUNK_BYTES, limit or _CHUNK_BYTES)):
                    yield chunk
                    if limit is not None and (limit := limit - len(chunk)) <= 0:
                        return
            except OSError as err:
                raise ModelError(f"{path.name} cannot be read: {err.strerror}") from err


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, -1, -1
    return path.name, status.st_size, status.st_mtime_ns, status.st_ino
