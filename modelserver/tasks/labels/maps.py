"""Label maps and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels import _label_map_pb2
from modelserver.tasks.labels.documents import is_json, read_json
from modelserver.tasks.labels.files import (
    FOREIGN,
    IS_PROTOBUF_TEXT,
    NOT_PROTOBUF_TEXT,
    read_text,
    refuse,
)
from modelserver.tasks.labels.lines import read_lines
from modelserver.tasks.labels.notes import MAX_NAME, Notes
from modelserver.tasks.labels.precheck import precheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_POSITION = re.compile(r"^\d+:\d+ : ")


@dataclass(frozen=True)
class LabelMap:
    """The names of a model's classes. Never changed once made, so safe to share.

    Attributes:
        names: class id to name, in the file's order; a name is never blank, at most
            200 characters, and otherwise as the file has it, control characters too.
        warnings: a sentence for each oddity that was tolerated.
        fallback: the text before the id in the name of a class without one.
    """

    names: Mapping[int, str]
    warnings: tuple[str, ...] = ()
    fallback: str = "unknown:"

    def name(self, class_id: int) -> str:
        """Return a class's name, ``unknown:<id>`` for an id the map does not have."""
        return self.names.get(class_id) or f"{self.fallback}{class_id}"


def numbered() -> LabelMap:
    """Return the map of a model without a label map: each name is the id itself."""
    return LabelMap({}, fallback="")


def read_labels(path: Path | None, first_id: int | None = None) -> LabelMap:
    """Read a model's labels in any of the known formats.

    These are protobuf text, plain text with one name a line, numbered or not, and JSON;
    the file's content decides between them. Only a ``.pbtxt`` is never plain text, and
    a ``.json`` always JSON.

    Args:
        path: a regular file of at most 1 MiB with at most 10,000 labels, UTF-8 or
            UTF-16 with its mark; ``None`` if a model has none.
        first_id: id of the first name if the file has no numbers; ``None`` is 1 for a
            detector's ``*.label_map.pbtxt``, whose 0 is the background, and else 0.

    Raises:
        LabelMapError: the file cannot be read, is something else, or has an id twice,
            below zero or none; with the line if it is known.
    """
    if path is None:
        return numbered()
    if first_id is None:
        first_id = int(path.name.endswith(".label_map.pbtxt"))
    text = read_text(path)
    plain = path.suffix not in {".pbtxt", ".json"}
    if path.suffix == ".json" or is_json(text, named_so=not plain):
        refuse(path, text, FOREIGN)
        return _label_map(path, lambda notes: read_json(path, text, notes, first_id))
    if not plain or IS_PROTOBUF_TEXT.match(text.lstrip()):
        return _parse(path, text)
    refuse(path, text, FOREIGN)
    return _label_map(path, lambda notes: read_lines(path, text, notes, first_id))


def _label_map(path: Path, read: Callable[[Notes], dict[int, str]]) -> LabelMap:
    notes = Notes(path)
    names = read(notes)
    return LabelMap(names, notes.sentences())


def _parse(path: Path, text: str) -> LabelMap:
    """Read a label map in protobuf text.

    Fields that ``StringIntLabelMap`` does not have are skipped with a warning, as real
    files have them. ``display_name`` wins over ``name`` unless it is blank.
    """
    refuse(path, text, NOT_PROTOBUF_TEXT)
    lines, unknown = precheck(path, text)
    message: Any = _label_map_pb2.StringIntLabelMap()  # type: ignore[attr-defined]  # protoc writes no types
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
    except text_format.ParseError as err:
        raise LabelMapError(path, err.GetLine(), _reason(err, text)) from err
    notes = Notes(path)
    for name, where, line in unknown:
        notes.add(f'the unknown field "{name}"{where} is skipped', line)
    names = dict(_names(path, zip(message.item, lines, strict=True), notes))
    return LabelMap(names, notes.sentences())


def _reason(err: text_format.ParseError, text: str) -> str:
    """Return the parser's message without line number and line, which it puts first."""
    message = _POSITION.sub("", str(err))
    for line in text.split("\n")[(err.GetLine() or 1) - 1 :][:1]:
        message = message.removeprefix(f"'{line}': ")
    return f"not valid protobuf text: {message[:MAX_NAME]}"


def _names(
    path: Path, items: Iterator[tuple[Any, int]], notes: Notes
) -> Iterator[tuple[int, str]]:
    """Yield each item's id and name."""
    lines: dict[int, int] = {}
    for item, line in items:
        if not item.HasField("id"):
            raise LabelMapError(path, line, "this item has no id")
        if item.id < 0:
            raise LabelMapError(path, line, f"the id {item.id} is below zero")
        if item.id in lines:
            before = f"the id {item.id} is already that of the item in line"
            raise LabelMapError(path, line, f"{before} {lines[item.id]}")
        lines[item.id] = line
        name = item.display_name if item.display_name.strip() else item.name
        yield item.id, notes.fit(name, item.id, line)
