"""What ill-meaning or broken clients and operators send, made by code."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from benchmarks.support.open_loop import Request, get, post

if TYPE_CHECKING:
    from pathlib import Path

_HOST = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
# Read as a graph's file by a server that watches its folder.
_LABELS = 'item { id: 1 name: "thing" }\n'


def garbage(port: int) -> list[Request]:
    """Return requests that must all be refused: with a 4xx or a closed connection."""
    photo = b"\x89PNG\r\n\x1a\n" + bytes(64)
    whole = [
        b"nonsense\r\n\r\n",
        bytes(range(256)) * 4 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        get("/no/such/path"),
        get("/../../etc/passwd"),
        get("/" + "x" * 5000),
        b"PUT /detect" + _HOST + b"Content-Length: 0\r\n\r\n",
        b"POST /detect" + _HOST + b"Content-Length: x\r\n\r\n",
        b"POST /detect" + _HOST + b"Content-Length: 99999999999\r\n\r\n",
        b"POST /detect" + _HOST + b"Content-Length: 2\r\n\r\n{}",
        b"POST /detect"
        + _HOST
        + _FORM
        + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        b"POST /detect" + _HOST + _FORM + b"Content-Length: 5\r\n\r\n--b--",
        b"GET /livez" + _HOST + b"X: y\r\n" * 200 + b"\r\n",
        post(port, "../../etc/passwd", photo),
        post(port, "no-such-model\r\nX: y", photo),
        post(port, "x" * 20_000, photo),
    ]
    return [Request("garbage", data) for data in whole]


def bad_photos(port: int, model: str, good: bytes) -> list[Request]:
    """Return POSTs whose file is no photo, or no whole one."""
    files = [
        b"",
        b"GIF89a",
        b"%PDF-1.7\n",
        good[: len(good) // 2],
        good[:100] + bytes(100) + good[200:],
        bytes(3_000_000),
    ]
    return [Request("invalid", post(port, model, file)) for file in files]


def cut(port: int, model: str, photo: bytes, choose: random.Random) -> Request:
    """Return a POST whose client hangs up somewhere."""
    data = post(port, model, photo)
    return Request("aborted", data, cut=choose.randrange(1, len(data)))


def drop_models(folder: Path, good: bytes) -> list[str]:
    """Write models that cannot be served into a folder; give their names.

    Args:
        good: a graph's file, to be cut and changed.
    """
    files = {
        "empty": b"",
        "one_byte": b"\x0a",
        "half": good[: len(good) // 2],
        "random": random.Random(1).randbytes(10_000),  # noqa: S311 - the same each time
        "page": b"<!doctype html><title>404 Not Found</title>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "changed": good[:50] + bytes(20) + good[70:],
        "reader": _reading_node("ReadFile") + good,
        "writer": _reading_node("WriteFile") + good,
    }
    for name, data in files.items():
        (folder / f"hostile_{name}.label_map.pbtxt").write_text(_LABELS)
        (folder / f"hostile_{name}.frozen.pb").write_bytes(data)
    return [f"hostile_{name}" for name in files]


def another_version(graph: bytes, number: int) -> bytes:
    """Return a graph's file that is another one and does the same.

    A field that TensorFlow does not know is read over: number 1000, a string.
    """
    mark = b"\xc2\x3e"  # the key of field 1000
    body, found, _ = graph.rpartition(mark)
    text = str(number).encode()
    return (body if found else graph) + mark + bytes([len(text)]) + text


def _reading_node(op: str) -> bytes:
    """Return a ``NodeDef`` in a ``GraphDef``: protobuf by hand, without TensorFlow."""
    name = _field(1, op.lower().encode()) + _field(2, op.encode())
    return _field(1, name)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data
