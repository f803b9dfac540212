"""The files of a model: their names and endings, and its label map.

Needs no TensorFlow, so the command line and the zoo use it, too.
"""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import ConversionError, LabelMapError
from modelserver.tasks import TASKS, by_labels, labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FORMATS = (
    "what can be imported: a SavedModel's folder, a .keras or .h5 file, a "
    "TensorFlow.js model's .json file or folder, a graph in text form (.pbtxt), a .zip "
    "of one of these"
)


def refuse_missing(source: Path) -> None:
    """Refuse a model that is not there.

    Raises:
        ConversionError: it is not.
    """
    if not source.exists():
        raise ConversionError(f"{source} is not there; {FORMATS}")


def read_labels(path: Path, first_id: int = 0) -> dict[int, str]:
    """Read a label file of any known format, as the server itself does.

    Args:
        path: see ``labels.read_labels``.
        first_id: id of the first name if the file has no numbers.

    Returns:
        Class id to name.

    Raises:
        ConversionError: it cannot be read or holds something else.
    """
    try:
        return dict(labels.read_labels(path, first_id).names)
    except LabelMapError as err:
        raise ConversionError(str(err)) from err


def write_labels(path: Path, names: dict[int, str]) -> None:
    """Write a label map in protobuf text.

    Raises:
        OSError: the file cannot be written.
    """
    items = ((number, "", name) for number, name in sorted(names.items()))
    path.write_text(label_map_text(items), encoding="utf-8")


def write_label_map(
    source: Path, target: Path, first_id: int | None = None, *, force: bool = False
) -> dict[int, str]:
    """Read a label file and write it as a label map, whole or not at all.

    Args:
        source: see ``read_labels``.
        target: a name ``*.label_map.pbtxt`` is a detector's.
        first_id: of a file without numbers; ``None`` chooses by ``target``.
        force: overwrite.

    Returns:
        Class id to name.

    Raises:
        ConversionError: ``source`` is no label file, or ``target`` cannot be written.
    """
    if target.exists() and not force:
        raise ConversionError(f"{target} is there already; --force overwrites it")
    if first_id is None:
        first_id = by_labels(target.name).first_id
    names = read_labels(source, first_id)
    try:
        with atomic_file(target) as scratch:
            write_labels(scratch, names)
    except OSError as err:
        raise ConversionError(f"{target} cannot be written: {err.strerror}") from err
    return names


def label_map_text(items: Iterable[tuple[int, str, str]]) -> str:
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


ROLES = tuple(dict.fromkeys(role for task in TASKS.values() for role in task.outputs))
# The usual names of scalings to a sidecar's keys: (pixel - mean) * scale is fed.
SCALINGS: dict[str, Mapping[str, Any]] = {
    "0..255": {"mean": 0.0, "scale": 1.0},
    "0..1": {"mean": 0.0, "scale": 1 / 255},
    "-1..1": {"mean": 127.5, "scale": 1 / 127.5},
    "caffe": {"mean": (103.939, 116.779, 123.68), "scale": 1.0, "channels": "bgr"},
    "torch": {
        "mean": (123.675, 116.28, 103.53),
        "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375),
    },
}


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``target`` if nothing is raised.

    The temporary file lies in the same folder, under a name that is no model's, so
    that ``target`` is there whole or not at all.
    """
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
