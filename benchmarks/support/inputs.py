"""Graphs, photos and requests made by code, good ones and hostile ones."""

from __future__ import annotations

import io
import os
import random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.support.open_loop import Request, get, post

if TYPE_CHECKING:
    from pathlib import Path

NAME = "do_nothing"
"""The model's name."""

SIZE = (1024, 636)
"""Width and height of the photo, in pixels."""

_LABELS = 'item { id: 1 name: "thing" }\n'
_HOST = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
_POST = b"POST /detect" + _HOST
_FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
_COARSE, _GRAIN, _QUALITY = 24, 7.0, 70


def write_do_nothing(folder: Path, name: str = NAME, score: float = 0.9) -> None:
    """Write a detector that answers one constant box for each image, and its labels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 - seconds to import; the photo needs none

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        one = tf.ones([tf.shape(image)[0], 1])
        tf.multiply(one[:, :, None], [0.1, 0.2, 0.6, 0.7], name="detection_boxes")
        tf.multiply(one, score, name="detection_scores")
        tf.identity(one, name="detection_classes")
        tf.identity(one[:, 0], name="num_detections")
    (folder / f"{name}.frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    (folder / f"{name}.label_map.pbtxt").write_text(_LABELS)


def photo(size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG: smooth colours with a grain, as photos are.

    The same size gives the same file; that of ``SIZE`` has 100 kB.
    """
    width, height = size
    noise = np.random.default_rng(7)
    coarse = noise.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    grain = noise.normal(0, _GRAIN, (height, width, 1))
    picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def garbage(port: int) -> list[Request]:
    """Return requests that must all be refused: with a 4xx or a closed connection."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(64)
    whole = [
        b"nonsense\r\n\r\n",
        bytes(range(256)) * 4 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        get("/no/such/path"),
        get("/../../etc/passwd"),
        get("/" + "x" * 5000),
        b"PUT /detect" + _HOST + b"Content-Length: 0\r\n\r\n",
        _POST + b"Content-Length: x\r\n\r\n",
        _POST + b"Content-Length: 99999999999\r\n\r\n",
        _POST + b"Content-Length: 2\r\n\r\n{}",
        _POST + _FORM + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        _POST + _FORM + b"Content-Length: 5\r\n\r\n--b--",
        b"GET /livez" + _HOST + b"X: y\r\n" * 200 + b"\r\n",
        post(port, "../../etc/passwd", picture),
        post(port, "no-such-model\r\nX: y", picture),
        post(port, "x" * 20_000, picture),
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
        # A node before the others: a GraphDef's field with a name and an operation.
        "reader": b"\n\x12\n\x06reader\x12\x08ReadFile" + good,
        "writer": b"\n\x13\n\x06writer\x12\tWriteFile" + good,
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
