"""What a load that failed says: to try again, or to wait for other files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.core.errors import DeviceFailed, ModelCrashed, ModelError

if TYPE_CHECKING:
    from modelserver.engine.catalogue.entries import Entry, Reading


class FilesChangedError(ModelError):
    """A model's files changed while it was being loaded."""

    def __init__(self) -> None:
        super().__init__("Its files changed while it was loaded.")


def served_before(entry: Entry[Any], reading: Reading | None) -> bool:
    """Whether these very files have served: then whatever went wrong may pass."""
    seen = reading.seen if reading is not None else entry.files.stamp
    return entry.served is not None and seen == entry.served


def may_pass(error: Exception) -> bool:
    """Whether a load may go well next time, with the very same files.

    Not so for a graph that crashes or hangs by itself.
    """
    if isinstance(error, ModelCrashed):
        return error.from_outside
    if isinstance(error, FilesChangedError | DeviceFailed):
        return True
    cause = error if isinstance(error, OSError) else error.__cause__
    # A file that is gone is no hindrance: the next look at the folder tells of it.
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
