"""The parsers of strangers' bytes, each with seeds made by code and what must hold."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flask
import msgspec
import numpy as np
from PIL import Image
from werkzeug.exceptions import HTTPException

from modelserver.core import packets
from modelserver.core.errors import RequestError
from modelserver.core.messages import decodes
from modelserver.core.messages.requests import ToDoor, ToEngine
from modelserver.core.messages.runs import Order, Reply
from modelserver.decoder import Limits, decode, jpeg_markers, png_chunks
from modelserver.decoder.memory_files import TooManyParts
from modelserver.engine.uploads import Spool
from modelserver.web import forms

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMITS = Limits(max_pixels=200_000, max_header_pixels=400_000)
_EDGE = b"edge"


class Fault(Exception):
    """Something that must hold does not."""


def _hold(holds: object) -> None:
    if not holds:
        raise Fault


class Target(NamedTuple):
    """A parser.

    Attributes:
        seeds: valid inputs.
        check: parses any bytes; raises if it finds a fault.
    """

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], object]


def _decode(data: bytes) -> None:
    for at_least in (None, (4, 4)):
        with contextlib.suppress(RequestError):
            shape = decode(data, limits=_LIMITS, at_least=at_least).pixels.shape
            _hold(shape[0] * shape[1] <= _LIMITS.max_pixels)


def _image() -> Image.Image:
    grain = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    return Image.fromarray(grain)


def _file(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def _pngs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = _image()
    return [
        _file(image, "PNG", exif=exif, dpi=(72, 72)),
        _file(image.quantize(8), "PNG", transparency=2),
        _file(image.convert("L"), "PNG", transparency=7),
    ]


def _check_png(data: bytes) -> None:
    data = b"\x89PNG\r\n\x1a\n" + data[8:]
    with contextlib.suppress(TooManyParts, ValueError):
        rest = bytes(png_chunks.without_extras(data))
        _hold(len(rest) <= len(data))
        # With another chunk before it the colour type is somewhere else.
        if data[12:16] == b"IHDR":
            _hold(bytes(png_chunks.without_extras(rest)) == rest)
    _decode(data)


def _bmps() -> list[bytes]:
    image = _image()
    kinds = (image, image.quantize(16), image.convert("1"), image.convert("RGBA"))
    return [*(_file(kind, "BMP") for kind in kinds), _run_length_bmp()]


def _run_length_bmp() -> bytes:
    """Return 8 x 2 pixels of runs, of pixels as they are, and of a jump."""
    rows = b"\x08\1\0\0" + b"\0\4\1\2\3\4" + b"\0\2\4\0" + b"\0\1"
    at = 14 + 40 + 4 * 16
    sizes = (40, 8, 2, 1, 8, 1, len(rows), 0, 0, 16, 0)
    head = struct.pack("<IHHI", at + len(rows), 0, 0, at)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *sizes) + bytes(range(64)) + rows


def _check_bmp(data: bytes) -> None:
    _decode(b"BM" + data[2:])


def _jpegs() -> list[bytes]:
    image = _image()
    exif = Image.Exif()
    exif[0x0112] = 8
    whole = _file(image, "JPEG", exif=exif, restart_marker_rows=1)
    return [
        whole,
        whole + b"vendor's trailer",
        _file(image, "JPEG", progressive=True),
        _file(image.convert("CMYK"), "JPEG"),
        # Of a sampling that only Pillow decodes; other scans, as far as that can be.
        _file(image, "JPEG", subsampling=0).replace(b"\1\x11\0", b"\1\x31\0", 1),
    ]


def _check_jpeg(data: bytes) -> None:
    data = b"\xff\xd8\xff" + data[3:]
    with contextlib.suppress(TooManyParts):
        scan = jpeg_markers.first_scan(data)
        _hold(0 <= scan <= len(data))
        ended = bytes(jpeg_markers.with_end(data, scan))
        _hold(ended.startswith(data.rstrip(b"\0")))
        jpeg_markers.without_tail(ended, ended=False)
        _hold(len(jpeg_markers.clean(data)) <= len(data))
        jpeg_markers.has_all_scans(data, 3)
        jpeg_markers.frame_of(data)
        message = "Corrupt JPEG data: 7 extraneous bytes before marker 0xd9"
        jpeg_markers.is_harmless(message, data, scan, ended=True)
        with contextlib.suppress(ValueError):
            before = scan
            for one in jpeg_markers.stretches(data, ended=True):
                _hold(before <= one.start <= one.least_end <= one.most_end <= one.end)
                before = one.end
    _decode(data)


def _forms() -> list[bytes]:
    def part(head: bytes, body: bytes) -> bytes:
        return b"--edge\r\nContent-Disposition: form-data; " + head + body + b"\r\n"

    name = part(b'name="modelname"\r\n\r\n', b"m")
    photo = b'name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    odd = b"name=\"file\"; filename*=UTF-8''%e2%82%ac.jpg\r\n\r\n"
    end = b"--edge--\r\n"
    return [
        name + part(photo, b"\xff\xd8\xff\0\1") + end,
        part(odd, b"x" * 100) + part(b"name=labels\r\n\r\n", b"a,b") + end,
        part(b'name="image"\r\n\r\n', b"data:image/png;base64,AAAA") + end,
    ]


@cache
def _app() -> tuple[flask.Flask, Spool]:
    folder = tempfile.mkdtemp(prefix="modelserver-fuzz-")
    return flask.Flask("fuzz"), Spool(Path(folder))


def _check_form(data: bytes) -> None:
    app, spool = _app()
    kind = "multipart/form-data; boundary=edge"
    with app.test_request_context(
        "/detect", method="POST", data=data, content_type=kind
    ):
        try:
            form = forms.read_form(flask.request, spool)
            _hold(len(form.files) <= forms.MAX_FILES)
            for file in form.files:
                file.upload.seek(0)
                _hold(file.upload.read() in data)
            forms.require(form, lambda: ["m"])
        except (RequestError, HTTPException) as error:
            _hold("Error(" not in str(error))
        finally:
            for upload in forms.uploads():
                upload.close()


_MESSAGES = [
    msgspec.msgpack.Decoder(kind)
    for kind in (
        ToDoor,
        ToEngine,
        Order,
        Reply,
        decodes.ToDecoder,
        decodes.ToEngine,
        decodes.FromTemplate,
        decodes.Spawn,
    )
]


def _messages() -> list[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    samples = (
        decodes.Started(1 << 20, filtered=True),
        decodes.Wants(1, 0, 100, costly=True),
        decodes.Spawn(1, 1 << 20, 1 << 20),
        decodes.Free((0, 4096)),
        decodes.Drop(3),
        decodes.Go(3),
        decodes.Ended(17, "exit code 1"),
    )
    return [bytes((packets.VERSION, 0)) + encode(one) for one in samples]


def _check_message(data: bytes) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver = packets.PacketSocket(other, limit=1 << 20)
    one.settimeout(0)
    other.settimeout(0)
    memory = os.memfd_create("fuzz")
    try:
        os.write(memory, data)
        rights = packets.pack_rights([memory] * (len(data) % 6))
        one.sendmsg([data[: packets.LIMIT]], rights)
        with contextlib.suppress(ValueError, EOFError):
            content, descriptors = receiver.receive()
            for descriptor in descriptors:
                os.close(descriptor)
            _read_message(content)
    finally:
        os.close(memory)
        one.close()
        other.close()


def _read_message(content: bytes) -> None:
    for decoder in _MESSAGES:
        with contextlib.suppress(msgspec.MsgspecError):
            found = decoder.decode(content)
            again = decoder.decode(msgspec.msgpack.encode(found))
            # Not a number is unlike itself.
            _hold(repr(again) == repr(found))


TARGETS = {
    "png": Target(_pngs, _check_png),
    "bmp": Target(_bmps, _check_bmp),
    "jpeg": Target(_jpegs, _check_jpeg),
    "form": Target(_forms, _check_form),
    "messages": Target(_messages, _check_message),
}
