"""Label files of plain text: one name a line, perhaps with its number."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels.precheck import MAX_ITEMS

if TYPE_CHECKING:
    from pathlib import Path

    from modelserver.tasks.labels.notes import Notes

# "0 cat", "0: cat", "286:Egyptian cat", "0,cat", "0<tab>cat", "0. cat", "0) cat".
_ID_FIRST = re.compile(r"(\d{1,9})(?:\s*[:,;=|]\s*|\s*[.)-]\s+|\s+)(\S.*)")
# "cat,0", "cat: 0"; a space alone does not part them, as in "Boeing 747".
_ID_LAST = re.compile(r"[:,;=|\t] *(\d{1,9})$")
# The spaces in it can be told apart in one way only, however many there are.
_HEADER = re.compile(
    r"(class)?[ _]?(id|idx|index|no|number|label|class|name)s?(\s*[,;]| *\t)"
    r"\s*[a-z_][a-z_ ]*$",
    re.IGNORECASE,
)
# WordNet's id of a class, before its names in ImageNet's lists.
_WORDNET = re.compile(r"n\d{8}[\s,:]+(\S.*)")
_COMMENT = re.compile(r"(#|//)\s+\S")
_QUOTES = "\"'"
# One in so many names may be there twice: of ImageNet's 1,000, two birds are "crane".
_DISTINCT = 20
_PLURALS = {
    "children": "child",
    "feet": "foot",
    "men": "man",
    "people": "person",
    "teeth": "tooth",
    "women": "woman",
}


class Row(NamedTuple):
    """A line of a file, its number from 1 and its text without space around it."""

    line: int
    text: str


class _Numbered(NamedTuple):
    """A line that is a number and a name."""

    line: int
    number: int
    name: str


def read_lines(path: Path, text: str, notes: Notes, first_id: int) -> dict[int, str]:
    """Read one name a line; numbers are ids if they look like ids.

    They do if they rise strictly from 0 or 1 (or are all of a range in another order),
    at least half of the range is there, and the names after them differ beyond singular
    and plural: "10 rupees" and "20 rupees" are names.

    Args:
        path: named in errors only.
        text: of at least one name.
        notes: collects the lines that are passed over or have no name.
        first_id: id of the first name if the file has no numbers.

    Returns:
        Class id to name.

    Raises:
        LabelMapError: there are too many lines, or an id is there twice.
    """
    lines = text.rstrip().split("\n")
    if len(lines) > MAX_ITEMS:
        raise LabelMapError(
            path, MAX_ITEMS + 1, f"there are more than {MAX_ITEMS} names"
        )
    rows = [Row(number, line.strip()) for number, line in enumerate(lines, 1)]
    rows = _drop_quotes(_drop_comments(rows, notes))
    numbered = _find_numbers([row for row in rows if row.text], notes)
    if numbered is not None and _are_ids(path, numbered):
        return {
            row.number: notes.fit(row.name, row.number, row.line) for row in numbered
        }
    rows = _drop_wordnet(rows)
    return {
        number: notes.fit(row.text, number, row.line)
        for number, row in enumerate(rows, first_id)
    }


def _drop_comments(rows: list[Row], notes: Notes) -> list[Row]:
    """Leave out comments before the first name."""
    count = next(
        (n for n, row in enumerate(rows) if row.text and not _COMMENT.match(row.text)),
        0,
    )
    comments = [row for row in rows[:count] if row.text]
    if not comments:
        return rows
    for row in comments:
        notes.add("a comment is passed over", row.line)
    return rows[count:]


def _drop_quotes(rows: list[Row]) -> list[Row]:
    """Drop commas at the end and quotes around names, if every line has them."""
    named = [row.text for row in rows if row.text]
    if len(named) > 1 and all(text.endswith(",") for text in named[:-1]):
        rows = [Row(row.line, row.text.removesuffix(",").rstrip()) for row in rows]
        named = [row.text for row in rows if row.text]
    if all(_is_quoted(text) for text in named):
        rows = [Row(row.line, row.text[1:-1].strip()) for row in rows]
    return rows


def _is_quoted(text: str) -> bool:
    return len(text) > 2 and text[0] in _QUOTES and text[0] == text[-1]  # noqa: PLR2004 - two quotes and a name


def _drop_wordnet(rows: list[Row]) -> list[Row]:
    """Drop WordNet's ids before the names, if every line has one."""
    found = [_WORDNET.fullmatch(row.text) for row in rows]
    if not all(found):
        return rows
    return [
        Row(row.line, match[1]) for row, match in zip(rows, found, strict=True) if match
    ]


def _find_numbers(rows: list[Row], notes: Notes) -> list[_Numbered] | None:
    """Part numbers and names, ``None`` where some line is not of both.

    A header such as ``id,name`` is left out.
    """
    for start in (0, 1):
        if start and not (len(rows) > 1 and _HEADER.match(rows[0].text)):
            break
        for part in (_first, _last):
            found = [part(row) for row in rows[start:]]
            known = [one for one in found if one is not None]
            if known and len(known) == len(found):
                if start:
                    notes.add("a header is passed over", rows[0].line)
                return known
    return None


def _first(row: Row) -> _Numbered | None:
    match = _ID_FIRST.fullmatch(row.text)
    if match is None:
        return None
    return _Numbered(row.line, int(match[1]), _name(match[2]))


def _last(row: Row) -> _Numbered | None:
    match = _ID_LAST.search(row.text)
    if match is None or not match.start():
        return None
    return _Numbered(row.line, int(match[1]), _name(row.text[: match.start()]))


def _name(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if _is_quoted(text) else text


def _are_ids(path: Path, rows: list[_Numbered]) -> bool:
    """Return whether numbers are ids; see ``read_lines``.

    Raises:
        LabelMapError: they would be, but for a number that is there twice.
    """
    numbers = [row.number for row in rows]
    distinct = set(numbers)
    low, high = min(distinct), max(distinct)
    span = high - low + 1
    if low > 1 or 2 * len(distinct) < span or not _differ(rows):
        return False
    if len(rows) == 1:
        return low == 0
    if all(first < second for first, second in pairwise(numbers)):
        return True
    if len(distinct) < len(numbers):
        in_order = all(first <= second for first, second in pairwise(numbers))
        if in_order and len(distinct) > 1:
            raise _twice(path, rows)
        return False
    return len(numbers) == span


def _twice(path: Path, rows: list[_Numbered]) -> LabelMapError:
    lines: dict[int, int] = {}
    for row in rows:
        if row.number in lines:
            before = f"the id {row.number} is already that of line {lines[row.number]}"
            return LabelMapError(path, row.line, before)
        lines[row.number] = row.line
    return LabelMapError(path, None, "an id is there twice")


def _differ(rows: list[_Numbered]) -> bool:
    """Return whether names differ beyond singular and plural, but for a few."""
    stems = {_stem(row.name) for row in rows}
    return len(rows) - len(stems) <= len(rows) // _DISTINCT


def _stem(name: str) -> str:
    """Return a name's singular, roughly: it is only compared with others."""
    name = name.lower()
    last = name.rpartition(" ")[2]
    if last in _PLURALS:
        return name.removesuffix(last) + _PLURALS[last]
    stem = name.rstrip("es") or name
    return f"{stem[:-1]}i" if stem.endswith("y") else stem
