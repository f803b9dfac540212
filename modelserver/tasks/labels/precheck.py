"""A quick look over protobuf text before it is parsed.

The parser tells neither the line of what it read nor which unknown fields it skipped,
takes 6 us a word (100,000 items: 7.7 s) and calls itself for each level. This finds
the lines and the unknown fields, and refuses what would take too long or too deep. It
never decides whether the text is valid: the parser does that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels import _label_map_pb2
from modelserver.tasks.labels.files import HOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ITEMS = 10_000
# About a second. 10,000 items of three fields have 120,000 words.
MAX_WORDS = 200_000
# A label map has three levels.
MAX_DEPTH = 16
_SHOWN = 60

_MAP: Any = _label_map_pb2.DESCRIPTOR.message_types_by_name["StringIntLabelMap"]
_ITEM: Any = _MAP.fields_by_name["item"].message_type
_POINT: Any = _ITEM.fields_by_name["keypoints"].message_type
_KNOWN = {
    (): frozenset(_MAP.fields_by_name),
    ("item",): frozenset(_ITEM.fields_by_name),
    ("item", "keypoints"): frozenset(_POINT.fields_by_name),
}
# The parser's own tokens, to the letter: the two must agree on what an item is.
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |[a-zA-Z_][0-9a-zA-Z_+-]*
    |(?:[0-9+-]|\.[0-9])[0-9a-zA-Z_.+-]*
    |"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"?
    |'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*'?
    |.""",
    re.VERBOSE,
)
_NAME = re.compile(r"\w")
# An escape in a string; `bad` are those that Python's codec, which the parser uses,
# warns of. \u005c is a backslash that the codec takes for the start of another escape.
_ESCAPE = re.compile(
    r"""\\(?:(?P<bad>u005[cC]|U0000005[cC]|[4-7][0-7]{2}|[^\\'"abfnrtvxuUN0-7])|.)"""
)


class Unknown(NamedTuple):
    """A field that label maps do not have."""

    name: str
    place: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        where = f" of {self.place[-1]}" if self.place else ""
        return f'the unknown field "{self.name[:_SHOWN]}"{where} is skipped'


@dataclass
class Outline:
    """What a text holds, as far as its brackets and names tell.

    Attributes:
        items: the line of each item's opening bracket, from 1, in order.
        unknown: the fields that label maps do not have, in order.
    """

    items: list[int] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)


def outline(path: Path, text: str) -> Outline:
    """Look over a label map's text.

    Args:
        path: named in errors only.
        text: protobuf text.

    Raises:
        LabelMapError: there is no item, or there are too many items, words or levels.
    """
    found = Outline()
    skipped = 0
    for place, name, line in _fields(path, text):
        if not name:
            if place == ("item",):
                found.items.append(line)
        elif name not in _KNOWN.get(place, ()):
            skipped += 1
            if place in _KNOWN:
                found.unknown.append(Unknown(name, place, line))
        if max(len(found.items), skipped) > MAX_ITEMS:
            what = "unknown fields" if skipped > MAX_ITEMS else "items"
            raise LabelMapError(path, line, f"there are more than {MAX_ITEMS} {what}")
    if not found.items:
        raise _no_items(path, found)
    return found


def _no_items(path: Path, found: Outline) -> LabelMapError:
    for name, _, line in found.unknown:
        what = f'"{name[:_SHOWN]}" is no field of a label map'
        return LabelMapError(path, line, f"{what}; {HOLDS}")
    return LabelMapError(path, None, f"there is no item; {HOLDS}")


def _fields(path: Path, text: str) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Each field's name with the messages around it; "" where a message opens."""
    stack: list[str] = []
    name = previous = ""
    for word, line in _words(path, text):
        listed = bool(stack) and stack[-1].startswith("[")
        if word[0] in "\"'":
            _check_escapes(path, word, line)
        elif word in "{<":
            stack.append(stack[-1][1:] if listed else name)
            yield _messages(stack), "", line
        elif word == "[":
            stack.append("[" + name)
        elif word in "}>]":
            del stack[-1:]
        elif not listed and previous != ":" and _NAME.match(word):
            name = word
            yield _messages(stack), name, line
        if len(stack) > MAX_DEPTH:
            raise LabelMapError(path, line, "the brackets are nested too deep")
        previous = word


def _check_escapes(path: Path, string: str, line: int) -> None:
    """Refuse what Python's codec, which the parser uses, would only warn of."""
    for escape in _ESCAPE.finditer(string):
        if escape["bad"]:
            what = f"the escape {escape[0]} is not known; write \\\\ for a backslash"
            raise LabelMapError(path, line, what)


def _messages(stack: list[str]) -> tuple[str, ...]:
    return tuple(name for name in stack if not name.startswith("["))


def _words(path: Path, text: str) -> Iterator[tuple[str, int]]:
    """Each word, string and mark, comments left out, with its line from 1."""
    line, start, count = 1, 0, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", start, match.start())
        start = match.start()
        if match.lastgroup != "skip":
            count += 1
            if count > MAX_WORDS:
                raise LabelMapError(
                    path, line, f"there are more than {MAX_WORDS} words"
                )
            yield match.group(), line
