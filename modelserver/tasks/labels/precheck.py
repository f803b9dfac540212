"""A quick look over protobuf text before it is parsed.

The parser reports neither the line of an item nor the unknown fields that it skips,
takes 2 to 6 us a word (100,000 items: 7.7 s) and calls itself for each level. The
precheck finds the lines and the unknown fields, and refuses a text that would take too
long or nests too deep. Whether the text is valid, the parser decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels import _label_map_pb2
from modelserver.tasks.labels.files import HOLDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ITEMS = 10_000
# About a second. 10,000 items of three fields have 120,000 words, 160,000 as counted.
MAX_WORDS = 200_000
# The parser takes 6 us for a piece of a string, 2 us for another word.
_WORDS_OF_A_STRING = 3
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
# The parser's own tokens, to the letter: the two must agree on the items.
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |[a-zA-Z_][0-9a-zA-Z_+-]*
    |(?:[0-9+-]|\.[0-9])[0-9a-zA-Z_.+-]*
    |(?P<string>"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"?|'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*'?)
    |.""",
    re.VERBOSE,
)
# An escape in a string; `bad` are those that Python's codec, which the parser uses,
# warns of. \u005c is a backslash that the codec takes for the start of another escape.
_ESCAPE = re.compile(
    r"""\\(?:(?P<bad>u005[cC]|U0000005[cC]|[4-7][0-7]{2}|[^\\'"abfnrtvxuUN0-7])|.)"""
)


def precheck(path: Path, text: str) -> tuple[list[int], list[tuple[str, str, int]]]:
    """Return the items and the unknown fields of a label map's text, in order.

    Args:
        path: named in errors only.
        text: protobuf text.

    Returns:
        The line of each item's opening bracket, from 1; and name, `` of MESSAGE`` and
        line of each field that label maps do not have.

    Raises:
        LabelMapError: there is no item, or there are too many items, words or levels.
    """
    items: list[int] = []
    unknown: list[tuple[str, str, int]] = []
    skipped = 0
    for messages, name, line in _fields(path, text):
        if not name:
            if messages == ("item",):
                items.append(line)
        elif name not in _KNOWN.get(messages, ()):
            skipped += 1
            if messages in _KNOWN:
                where = f" of {messages[-1]}" if messages else ""
                unknown.append((name[:_SHOWN], where, line))
        if max(len(items), skipped) > MAX_ITEMS:
            many = "unknown fields" if skipped > MAX_ITEMS else "items"
            raise LabelMapError(path, line, f"there are more than {MAX_ITEMS} {many}")
    if items:
        return items, unknown
    if not unknown:
        raise LabelMapError(path, None, f"there is no item; {HOLDS}")
    name, _, line = unknown[0]
    raise LabelMapError(path, line, f'"{name}" is no field of a label map; {HOLDS}')


def _fields(path: Path, text: str) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Yield each field's name after the messages around it; "" if a message opens."""
    stack: list[str] = []  # names of open brackets, those of lists after a "["
    name = previous = ""
    for word, line in _words(path, text):
        listed = bool(stack) and stack[-1].startswith("[")
        if word in "{<":
            stack.append(stack[-1][1:] if listed else name)
            yield _messages(stack), "", line
        elif word == "[":
            stack.append("[" + name)
        elif word in "}>]":
            del stack[-1:]
        elif not listed and previous != ":" and re.match(r"\w", word):
            name = word
            yield _messages(stack), name, line
        if len(stack) > MAX_DEPTH:
            raise LabelMapError(path, line, "the brackets are nested too deep")
        previous = word


def _messages(stack: list[str]) -> tuple[str, ...]:
    return tuple(name for name in stack if not name.startswith("["))


def _words(path: Path, text: str) -> Iterator[tuple[str, int]]:
    """Yield each word, string and mark, comments left out, with its line from 1."""
    line, start, count = 1, 0, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", start, match.start())
        start = match.start()
        if match["skip"]:
            continue
        count += 1
        if match["string"]:
            count += _WORDS_OF_A_STRING - 1
            _check_escapes(path, match["string"], line)
        if count > MAX_WORDS:
            raise LabelMapError(path, line, f"there are more than {MAX_WORDS} words")
        yield match.group(), line


def _check_escapes(path: Path, string: str, line: int) -> None:
    """Refuse an escape that Python's codec, which the parser uses, only warns of."""
    for escape in _ESCAPE.finditer(string):
        if escape["bad"]:
            unknown = f"the escape {escape[0]} is not known"
            raise LabelMapError(path, line, f"{unknown}; write \\\\ for a backslash")
