"""Label maps and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from modelserver import _label_map_pb2
from modelserver.errors import LabelMapError
from modelserver.labels.files import NOT_NAMES, NOT_PROTOBUF_TEXT, read_text
from modelserver.labels.outline import MAX_ITEMS, outline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_NAME = 200
MAX_WARNINGS = 10
_PLACE = re.compile(r"^\d+:\d+ : ")


@dataclass(frozen=True)
class LabelMap:
    """The names of a model's classes. Never changed once made, so safe to share.

    Attributes:
        names: class id to name, in the file's order; a name is never blank, at most
            200 characters, and otherwise as the file has it, control characters too.
        warnings: a sentence for each thing that was odd but tolerated.
        fallback: what stands before the id in the name of a class without one.
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


def read_labels(path: Path | None) -> LabelMap:
    """Read whichever file a model has: protobuf text, ``<prefix>.labels.txt`` or none.

    Raises:
        LabelMapError: as ``read_label_map`` and ``read_labels_txt``.
    """
    if path is None:
        return numbered()
    if path.name.endswith(".labels.txt"):
        return read_labels_txt(path)
    return read_label_map(path)


def read_label_map(path: Path) -> LabelMap:
    """Read a label map in protobuf text.

    Fields that ``StringIntLabelMap`` does not have are skipped with a warning, as real
    files have them. ``display_name`` wins over ``name`` unless it is blank.

    Args:
        path: a regular file of at most 1 MiB with at most 10,000 items.

    Raises:
        LabelMapError: the file cannot be read, is something else, or has an item
            without an id, with one below zero, or with one that another item has; with
            the line wherever it is known.
    """
    text = read_text(path, NOT_PROTOBUF_TEXT)
    found = outline(path, text)
    message: Any = _label_map_pb2.StringIntLabelMap()  # type: ignore[attr-defined]  # protoc writes no types
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
    except text_format.ParseError as err:
        raise LabelMapError(path, err.GetLine(), _reason(err, text)) from err
    notes = _Notes(path)
    for unknown in found.unknown:
        notes.add(str(unknown), unknown.line)
    names = dict(_named(path, zip(message.item, found.items, strict=True), notes))
    return LabelMap(names, notes.sentences())


def read_labels_txt(path: Path) -> LabelMap:
    """Read plain text with one name a line; the first line is id 0.

    Space around a name is dropped, and so are blank lines at the end. A blank line
    elsewhere keeps its number, so that the names after it stay right.

    Args:
        path: a regular file of at most 1 MiB with at most 10,000 lines.

    Raises:
        LabelMapError: the file cannot be read, is empty, or is something else.
    """
    lines = read_text(path, NOT_NAMES).rstrip().split("\n")
    if len(lines) > MAX_ITEMS:
        raise LabelMapError(
            path, MAX_ITEMS + 1, f"there are more than {MAX_ITEMS} names"
        )
    notes = _Notes(path)
    names = {
        index: notes.fit(line.strip(), index, index + 1)
        for index, line in enumerate(lines)
    }
    return LabelMap(names, notes.sentences())


def _reason(err: text_format.ParseError, text: str) -> str:
    """The parser's words without the line and its text, which it puts first."""
    said = _PLACE.sub("", str(err))
    for line in text.split("\n")[(err.GetLine() or 1) - 1 :][:1]:
        said = said.removeprefix(f"'{line}': ")
    return f"not valid protobuf text: {said[:MAX_NAME]}"


def _named(
    path: Path, items: Iterator[tuple[Any, int]], notes: _Notes
) -> Iterator[tuple[int, str]]:
    """Each item's id and name."""
    seen: dict[int, int] = {}
    for item, line in items:
        if not item.HasField("id"):
            raise LabelMapError(path, line, "this item has no id")
        if item.id < 0:
            raise LabelMapError(path, line, f"the id {item.id} is below zero")
        if item.id in seen:
            before = f"the id {item.id} is already that of the item in line"
            raise LabelMapError(path, line, f"{before} {seen[item.id]}")
        seen[item.id] = line
        name = item.display_name if item.display_name.strip() else item.name
        yield item.id, notes.fit(name, item.id, line)


class _Notes:
    """What is tolerated in one file: each kind once, with its first line and count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, list[int]] = {}

    def add(self, what: str, line: int) -> None:
        """Note something at a line."""
        self._lines.setdefault(what, []).append(line)

    def fit(self, name: str, class_id: int, line: int) -> str:
        """A name that can be shown: not blank, and not longer than the limit."""
        if not name.strip():
            self.add("no name is given, so the id is shown", line)
            return str(class_id)
        if len(name) > MAX_NAME:
            self.add(f"a name has more than {MAX_NAME} characters and is cut", line)
            return name[: MAX_NAME - 1] + "…"
        return name

    def sentences(self) -> tuple[str, ...]:
        """The warnings, bounded in number and length."""
        said = []
        for what, lines in list(self._lines.items())[:MAX_WARNINGS]:
            more = f" (and {len(lines) - 1} more such)" if len(lines) > 1 else ""
            said.append(f"{self._path.name}, line {lines[0]}: {what}{more}")
        left = len(self._lines) - MAX_WARNINGS
        if left > 0:
            said.append(f"{self._path.name}: and {left} more kinds of warnings")
        return tuple(said)
