"""Reading a label file: its size, its encoding, and what it is instead."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from modelserver.errors import LabelMapError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1024 * 1024
HOLDS = 'a label map holds item { id: 1 name: "cat" } for each class'

_Kinds = tuple[tuple[re.Pattern[str], str], ...]
_FOREIGN: _Kinds = (
    (
        re.compile(r"<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE),
        "this is a web page, not the label map it shows; download the raw file",
    ),
    (
        re.compile(r"version https://git-lfs"),
        "this is a git-LFS pointer, not the file it points to; run git lfs pull",
    ),
)
NOT_PROTOBUF_TEXT: _Kinds = (
    *_FOREIGN,
    (re.compile(r"[{\[]"), f"this is JSON; {HOLDS}"),
    (
        re.compile(r"node\s*:?\s*\{"),
        f"this is a TensorFlow graph in text form; {HOLDS}",
    ),
)
NOT_NAMES: _Kinds = (
    *_FOREIGN,
    (
        re.compile(r"item\s*:?\s*\{"),
        "this is protobuf text; name the file <prefix>.pbtxt",
    ),
)


def read_text(path: Path, foreign: _Kinds) -> str:
    r"""Return a label file's text with ``\n`` line ends and no byte order mark.

    Args:
        path: the file.
        foreign: beginnings of files that are something else, each with its reason.

    Raises:
        LabelMapError: the file is not a regular file, cannot be read, is larger than
            1 MiB, is not UTF-8, is empty, or begins as one of ``foreign`` does.
    """
    text = _decode(path, _read(path))
    body = text.lstrip()
    if not body:
        raise LabelMapError(path, None, "the file is empty")
    for pattern, reason in foreign:
        if pattern.match(body):
            line = text.count("\n", 0, len(text) - len(body)) + 1
            raise LabelMapError(path, line, reason)
    return text


def _read(path: Path) -> bytes:
    try:
        # Opening a FIFO would wait for a writer for ever.
        if path.exists() and not path.is_file():
            raise LabelMapError(path, None, "this is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise LabelMapError(path, None, f"cannot be read: {err.strerror}") from err
    if len(data) > MAX_BYTES:
        raise LabelMapError(path, None, "the file is larger than 1 MiB")
    return data


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise LabelMapError(path, 1, "this is UTF-16 text; save it as UTF-8")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise LabelMapError(path, line, "this is not UTF-8 text") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")
