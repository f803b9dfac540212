"""Label files of other formats, made label maps. Needs no TensorFlow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from modelserver.core.errors import ConversionError, LabelMapError
from modelserver.tasks import labels
from modelserver.tools.importing.atomic_files import placed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from modelserver.core.signatures import Kind

# A detector's classes are counted from 1: its 0 is the background.
FIRST_IDS: dict[Kind, int] = {"classification": 0, "detection": 1}


def read(path: Path, first_id: int = 0) -> dict[int, str]:
    """Read a label file of any known format, as the server itself does.

    Args:
        path: see ``labels.read_labels``.
        first_id: id of the first name where the file has no numbers of its own.

    Returns:
        Class id to name.

    Raises:
        ConversionError: it cannot be read or holds something else.
    """
    try:
        return dict(labels.read_labels(path, first_id).names)
    except LabelMapError as err:
        raise ConversionError(str(err)) from err


def write(path: Path, names: dict[int, str]) -> None:
    """Write a label map in protobuf text.

    Raises:
        OSError: the file cannot be written.
    """
    items = ((number, "", name) for number, name in sorted(names.items()))
    path.write_text(text(items), encoding="utf-8")


def write_label_map(
    source: Path, target: Path, first_id: int | None = None, *, force: bool = False
) -> dict[int, str]:
    """Read a label file and write it as a label map, which appears whole.

    Args:
        source: see :func:`read`.
        target: its name says whose it is: ``*.label_map.pbtxt`` a detector's.
        first_id: of a file without numbers; ``None`` chooses by ``target``.
        force: overwrite.

    Returns:
        Class id to name.

    Raises:
        ConversionError: ``source`` is none, or ``target`` cannot be written.
    """
    if target.exists() and not force:
        raise ConversionError(f"{target} is there already; --force overwrites it")
    if first_id is None:
        detector = target.name.endswith(".label_map.pbtxt")
        first_id = FIRST_IDS["detection" if detector else "classification"]
    names = read(source, first_id)
    try:
        with placed(target) as scratch:
            write(scratch, names)
    except OSError as err:
        raise ConversionError(f"{target} cannot be written: {err.strerror}") from err
    return names


def text(items: Iterable[tuple[int, str, str]]) -> str:
    """Return a label map of ``(id, name, display name)``; an empty name is left out."""
    lines = []
    for number, name, shown in items:
        named = [f"  name: {_quoted(name)}"] if name else []
        body = [f"  id: {number}", f"  display_name: {_quoted(shown)}"]
        lines += ["item {", *named, *body, "}"]
    return "\n".join([*lines, ""])


def _quoted(name: str) -> str:
    """Return a protobuf text string on one line."""
    plain = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"{}"'.format(_CONTROL.sub(lambda found: f"\\{ord(found[0]):03o}", plain))


# A line's end inside a name would end the string, other control characters the parse.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
