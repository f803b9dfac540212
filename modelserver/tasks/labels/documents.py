"""Label files of JSON: lists and objects, both ways round."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels.precheck import MAX_ITEMS

if TYPE_CHECKING:
    from pathlib import Path

    from modelserver.tasks.labels.notes import Notes

# The keys of the labels in people's and tools' objects: Teachable Machine, Keras,
# Hugging Face, COCO.
_KEYS = (
    *("labels", "classes", "names", "class_names", "categories", "id2label"),
    *("class_indices", "label_map", "label2id"),
)
_NAME_KEYS = ("display_name", "name", "label", "title")
_WORDNET = re.compile(r"n\d{8}")
# A list or dict as Python prints it, or JSON with a comma too many. No more than this
# is given to Python's parser, and no backslash, of which it may warn.
_LITERAL = re.compile(
    r"""(?:\s|[\[\]{}(),:\d-]|'[^'\\\n]*'|"[^"\\\n]*")*""", re.VERBOSE
)
# Python's parser takes a second for half a million; a class has two in its pair.
_COMMAS = 4 * MAX_ITEMS
# JSON can write one of the two that a character is made of; no answer can hold it.
_HALF = re.compile("[\ud800-\udfff]")
# An id is an int32, as in a label map.
_IDS = 2**31
_SHOWN = 60


class _Twice(ValueError):
    """A key is in an object twice."""


def is_json(text: str, *, named_so: bool) -> bool:
    """Return whether a label file's text is JSON.

    Args:
        text: the whole file's.
        named_so: its name says that it is JSON, or that it is not plain text.
    """
    body = text.strip()
    return body[:1] in {"{", "["} and (named_so or body[-1:] in {"}", "]"})


def read_json(path: Path, text: str, notes: Notes, first_id: int) -> dict[int, str]:
    """Read a list of names, or an object of ids and names, either way round.

    Args:
        path: named in errors only.
        text: JSON, or a list or dict as Python prints it.
        notes: collects the names that are cut.
        first_id: id of a list's first name.

    Returns:
        Class id to name.

    Raises:
        LabelMapError: it is neither, or an id or name is there twice.
    """
    content = _parse(path, text)
    try:
        pairs = _pairs(content, first_id)
    except (ValueError, TypeError, RecursionError) as err:
        why = str(err)[: 2 * _SHOWN]
        raise LabelMapError(path, None, f"no list of class names: {why}") from err
    if not pairs:
        raise LabelMapError(path, None, "it holds no class name")
    if len(pairs) > MAX_ITEMS:
        raise LabelMapError(path, None, f"there are more than {MAX_ITEMS} names")
    names: dict[int, str] = {}
    for number, name in pairs:
        reason = _fault(number, name, names)
        if reason:
            raise LabelMapError(path, _line_of(text, name), reason)
        names[number] = name
    return {number: notes.fit(name, number) for number, name in names.items()}


def _fault(number: int, name: str, names: dict[int, str]) -> str:
    """Return the fault of an id and its name; empty if there is none."""
    if number < 0:
        return f"the id {number} is below zero"
    if number >= _IDS:
        return "an id is beyond 2147483647"
    if not name.strip():
        return f"the id {number} has an empty name"
    if _HALF.search(name):
        return f"the id {number} has a name with half a character, which is no text"
    if number in names:
        return f"the id {number} is already that of {names[number][:_SHOWN]!r}"
    return ""


def _parse(path: Path, text: str) -> Any:
    """Parse JSON, or a literal of Python: with single quotes, a comma at the end."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _Twice as err:
        key = str(err)
        line = text.count("\n", 0, text.rfind(json.dumps(key, ensure_ascii=False))) + 1
        reason = f"{key[:_SHOWN]!r} is there twice"
        raise LabelMapError(path, line, reason) from err
    except (ValueError, RecursionError) as err:
        if text.count(",") <= _COMMAS and _LITERAL.fullmatch(text):
            try:
                return ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                pass
        reason = f"no list of class names: {str(err)[: 2 * _SHOWN]}"
        raise LabelMapError(path, getattr(err, "lineno", None), reason) from err


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or refuse a key that is there twice."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _Twice(key)
        made[key] = value
    return made


def _pairs(content: Any, first_id: int) -> list[tuple[int, str]]:
    """Turn a JSON value into pairs of id and name."""
    if isinstance(content, dict):
        for key in _KEYS:
            if isinstance(content.get(key), (list, dict)):
                return _pairs(content[key], first_id)
        return _of_object(content)
    if not isinstance(content, list):
        raise TypeError(f"{str(content)[:_SHOWN]!r} is neither a list nor an object")
    if content and all(isinstance(item, dict) and "id" in item for item in content):
        return [(_number(item["id"]), _name(item)) for item in content]
    return [(number, _name(item)) for number, item in enumerate(content, first_id)]


def _of_object(content: dict[Any, Any]) -> list[tuple[int, str]]:
    """Read an object of names to ids, or of ids to names."""
    values = list(content.values())
    if all(isinstance(value, int) for value in values) or (
        all(_is_number(value) for value in values) and not all(map(_is_number, content))
    ):
        return [(_number(value), str(key)) for key, value in content.items()]
    return [(_number(key), _name(value)) for key, value in content.items()]


def _is_number(value: Any) -> bool:
    text = str(value)
    return text.isascii() and text.isdecimal()


def _number(value: Any) -> int:
    """Return an id, which JSON may hold as text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{str(value)[:_SHOWN]!r} is no id")
    return int(value)


def _name(value: Any) -> str:
    """Return the readable name, of ``["n02123045", "tabby"]``, or of an object."""
    if isinstance(value, dict):
        names = [value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)]
        value = names[0] if names and "id" in value else value
    if isinstance(value, (list, tuple)) and value:
        readable = [name for name in value if not _WORDNET.fullmatch(str(name))]
        value = (readable or value)[0]
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:_SHOWN]!r} is no name")
    return value


def _line_of(text: str, name: str) -> int | None:
    """Return the last line that holds a name as JSON writes it, for an error."""
    position = text.rfind(json.dumps(name, ensure_ascii=False))
    return None if position < 0 else text.count("\n", 0, position) + 1
