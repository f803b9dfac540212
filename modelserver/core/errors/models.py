"""Why one model cannot be served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.core.errors.base import ModelServerError

if TYPE_CHECKING:
    from pathlib import Path


_MAX_REASON = 1000


class ModelError(ModelServerError):
    """A model cannot be served; the message is shown as its reason in ``/models``.

    The files may have been made by anyone, and so may be words that are quoted from
    them: the message is one line, without control characters, of 1000 characters at
    most.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_one_line(reason))


def _one_line(text: str) -> str:
    """Fold white space and write as Python does what cannot be printed."""
    line = " ".join(text[: 4 * _MAX_REASON].split())
    line = "".join(
        char if char.isprintable() else ascii(char)[1:-1]
        for char in line[: _MAX_REASON + 1]
    )
    return line if len(line) <= _MAX_REASON else line[: _MAX_REASON - 3] + "..."


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


class DeviceFailed(ModelError):
    """The card that a model was given cannot be used now; its files are not at fault.

    It may pass, so the load is tried again.
    """


class ModelCrashed(ModelError):
    """The model's process died; the message names the signal or the exit code.

    Attributes:
        from_outside: somebody killed it, so the graph may not be at fault.
    """

    def __init__(self, reason: str, *, from_outside: bool = False) -> None:
        super().__init__(reason)
        self.from_outside = from_outside
