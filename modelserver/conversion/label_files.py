"""Label files of other formats, made label maps. Needs no TensorFlow.

Read are protobuf text, plain text with one name a line, and the JSON files that Keras,
Teachable Machine and people write.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from modelserver import labels
from modelserver.conversion.placing import placed
from modelserver.errors import ConversionError, LabelMapError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from modelserver.signatures import Kind

MAX_JSON_BYTES = 1 << 20
# A detector's classes are counted from 1: its 0 is the background.
FIRST_IDS: dict[Kind, int] = {"classification": 0, "detection": 1}
# Teachable Machine and Coral number their lines: "0 cat", "12  traffic light".
_NUMBERED = re.compile(r"(\d+)[\s:,]+(\S.*)")
_WNID = re.compile(r"n\d{8}")


def read(path: Path, first_id: int = 0) -> dict[int, str]:
    """Read a label file of any known format.

    Args:
        path: ``*.pbtxt`` (protobuf text), ``*.json`` (a list of names, index to name,
            index to ``[id, name]`` as Keras's ``class_index.json``, name to index as
            its ``class_indices``, or an object with a list ``labels``), anything else
            plain text with one name a line.
        first_id: id of the first name where the file has no numbers of its own.

    Returns:
        Class id to name.

    Raises:
        ConversionError: it cannot be read or holds something else.
    """
    try:
        if path.suffix == ".pbtxt":
            return dict(labels.read_label_map(path).names)
        if path.suffix == ".json":
            return _of_json(path, first_id)
        return _of_lines(list(labels.read_labels_txt(path).names.values()), first_id)
    except LabelMapError as err:
        raise ConversionError(str(err)) from err


def _of_lines(names: list[str], first_id: int) -> dict[int, str]:
    """Number the lines, unless each has its number already."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    own = [(int(match[1]), match[2].strip()) for match in found if match]
    if len(own) == len(names) and len(dict(own)) == len(own):
        return dict(own)
    return dict(enumerate(names, first_id))


def _of_json(path: Path, first_id: int) -> dict[int, str]:
    """Read one of the JSON formats."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as err:
        raise ConversionError(f"{path.name} cannot be read: {err.strerror}") from err
    if len(data) > MAX_JSON_BYTES:
        raise ConversionError(f"{path.name} is larger than 1 MiB")
    try:
        names = _numbered(json.loads(data), first_id)
    except (ValueError, TypeError, AttributeError, RecursionError) as err:
        raise ConversionError(f"{path.name} is no list of class names: {err}") from err
    if not names:
        raise ConversionError(f"{path.name} holds no class name")
    if min(names) < 0 or any(not name.strip() for name in names.values()):
        raise ConversionError(f"{path.name} has an id below zero or an empty name")
    return names


def _numbered(content: Any, first_id: int) -> dict[int, str]:
    """Turn a JSON value into ids and names."""
    if isinstance(content, dict) and isinstance(content.get("labels"), list):
        content = content["labels"]
    if isinstance(content, list):
        return dict(enumerate(map(_name, content), first_id))
    if all(isinstance(value, int) for value in content.values()):
        return {number: str(name) for name, number in content.items()}
    return {int(key): _name(value) for key, value in content.items()}


def _name(value: Any) -> str:
    """Give the readable part of ``"cat"`` or of ``["n02123045", "tabby"]``."""
    if isinstance(value, list):
        readable = [one for one in value if not _WNID.fullmatch(one)]
        value = (readable or value)[0]
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


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
