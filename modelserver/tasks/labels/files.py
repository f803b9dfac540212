"""The text of a label file, within limits, and the files that are mistaken for one."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from modelserver.core.errors import LabelMapError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1024 * 1024
HOLDS = 'a label map holds item { id: 1 name: "cat" } for each class'

_Kinds = tuple[tuple[re.Pattern[str], str], ...]
FOREIGN: _Kinds = (
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
    *FOREIGN,
    (
        re.compile(r"node\s*:?\s*\{"),
        f"this is a TensorFlow graph in text form; {HOLDS}",
    ),
)
IS_PROTOBUF_TEXT = re.compile(r"item\s*:?\s*\{")


def read_text(path: Path) -> str:
    r"""Return a label file's text with ``\n`` line ends and no byte order mark.

    Raises:
        LabelMapError: the file is not a regular file, cannot be read, is larger than
            1 MiB, is neither UTF-8 nor UTF-16 with its mark, or is empty.
    """
    text = _decode(path, _read(path))
    if not text.strip():
        raise LabelMapError(path, None, "the file is empty")
    return text


def refuse(path: Path, text: str, foreign: _Kinds) -> None:
    """Refuse a file that begins as something else does.

    Args:
        path: named in errors only.
        text: the whole file's.
        foreign: beginnings of files that are something else, each with its reason.

    Raises:
        LabelMapError: it is one of these.
    """
    body = text.lstrip()
    for pattern, reason in foreign:
        if pattern.match(body):
            line = text.count("\n", 0, len(text) - len(body)) + 1
            raise LabelMapError(path, line, reason)


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
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        fault = "this is broken UTF-16 text" if wide else "this is not UTF-8 text"
        raise LabelMapError(path, line, f"{fault}; save it as UTF-8") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")
