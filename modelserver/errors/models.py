"""Why one model cannot be served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.errors.base import ModelServerError

if TYPE_CHECKING:
    from pathlib import Path


class ModelError(ModelServerError):
    """A model cannot be served; the message is shown as its reason in ``/models``."""


class LabelMapError(ModelError):
    """A label map cannot be read."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        where = path.name if line is None else f"{path.name}, line {line}"
        super().__init__(f"{where}: {reason}")
        self.line = line


class SidecarError(ModelError):
    """The optional ``<prefix>.json`` beside a graph is not valid."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")


class GraphError(ModelError):
    """A graph cannot be served; the message says what is missing and what to do."""


class ModelCrashed(ModelError):
    """The model's process died; the message names the signal or the exit code.

    Attributes:
        from_outside: somebody killed it, so the graph may not be at fault.
    """

    def __init__(self, reason: str, *, from_outside: bool = False) -> None:
        super().__init__(reason)
        self.from_outside = from_outside
