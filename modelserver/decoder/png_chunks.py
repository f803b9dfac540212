"""A PNG without the chunks that are not used.

Readers stumble over chunks that have nothing to do with the pixels: text that unpacks
to megabytes, a time with a wrong checksum. Browsers and libpng pass over those. So that
the same photos are served here, such chunks are removed before any library sees the
file, and need not be bounded or refused either.
"""

from __future__ import annotations

import mmap
import zlib
from typing import TYPE_CHECKING, NamedTuple

from modelserver.decoder.formats import TooManyParts

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = bytes | memoryview | mmap.mmap

_SIGNATURE_BYTES = 8
# Length, type and checksum of a chunk.
_FRAME_BYTES = 12
# An upper-case first letter: without this chunk the image cannot be shown.
_CRITICAL = frozenset(range(ord("A"), ord("Z") + 1))
_PICTURE = frozenset({b"IHDR", b"PLTE", b"IDAT"})
# Of those that may be left out: transparency, and an orientation.
_USED = frozenset({b"tRNS", b"eXIf"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTED = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif", b"exif"})
# Pillow refuses text that unpacks to more (PngImagePlugin.MAX_TEXT_CHUNK).
_MOST_TEXT_BYTES = 1 << 20
# Bytes of a tRNS chunk by the header's colour type: gray, RGB and palette.
_LEAST_TRANSPARENCY = {b"\0": 2, b"\2": 6, b"\3": 1}
_COLOUR_TYPE_AT = 25
# Encoders write 8 KiB or more a chunk.
_FREE_CHUNKS = 5_000
_BYTES_A_CHUNK = 256


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


def without_extras(data: Data) -> Data:
    """Return a PNG with only the chunks that its pixels need.

    Args:
        data: a file that begins as a PNG does; damaged ones too, whose damage stays.

    Returns:
        The data itself if there is nothing to leave out.

    Raises:
        TooManyParts: it has more chunks than its size explains.
        ValueError: a needed chunk has a wrong checksum.
    """
    kept = [(0, _SIGNATURE_BYTES)]
    whole = True
    for chunk in _chunks(data):
        if not _is_used(data, chunk):
            whole = False
        elif kept[-1][1] == chunk.start:
            kept[-1] = (kept[-1][0], chunk.end)
        else:
            kept.append((chunk.start, chunk.end))
    return data if whole else b"".join(data[start:end] for start, end in kept)


def _chunks(data: Data) -> Iterator[_Chunk]:
    """Yield the chunks in order; one that is cut short has no kind, and is the last."""
    at, size = _SIGNATURE_BYTES, len(data)
    for _ in range(_FREE_CHUNKS + size // _BYTES_A_CHUNK):
        kind = bytes(data[at + 4 : at + 8])
        end = at + _FRAME_BYTES + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" or end > size:
            yield _Chunk(b"" if end > size else kind, at, size)
            return
        yield _Chunk(kind, at, end)
        at = end
    raise TooManyParts


def _is_used(data: Data, chunk: _Chunk) -> bool:
    """Return whether a chunk is used here.

    Raises:
        ValueError: the checksum of the header, the palette or of pixels is wrong, at
            which Pillow does not always look.
    """
    if chunk.kind in _PICTURE and not _is_intact(data, chunk):
        raise ValueError("a checksum is wrong")
    if not chunk.kind or chunk.kind[0] in _CRITICAL:
        return True
    used = chunk.kind in _USED or chunk.kind in _TEXTS
    if not used or not _is_intact(data, chunk):
        return False
    body = bytes(data[chunk.start + 8 : chunk.end - 4])
    if chunk.kind == b"tRNS":
        # A slice, because there may be no header before it.
        colours = bytes(data[_COLOUR_TYPE_AT : _COLOUR_TYPE_AT + 1])
        return len(body) >= _LEAST_TRANSPARENCY.get(colours, 0)
    return chunk.kind in _USED or _is_readable(chunk.kind, body)


def _is_intact(data: Data, chunk: _Chunk) -> bool:
    """Return whether a chunk's checksum is right."""
    checksum = int.from_bytes(data[chunk.end - 4 : chunk.end], "big")
    return zlib.crc32(data[chunk.start + 4 : chunk.end - 4]) == checksum


def _is_readable(kind: bytes, body: bytes) -> bool:
    """Return whether a text may hold an orientation, and can be unpacked."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _ORIENTED or len(body) > _MOST_TEXT_BYTES:
        return False
    packed = b""
    if kind == b"zTXt":
        if rest[:1] != b"\0":
            return False
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] != b"\0":
        packed = rest[2:].split(b"\0", 2)[-1]
    try:
        text = zlib.decompressobj().decompress(packed, _MOST_TEXT_BYTES + 1)
    except zlib.error:
        return False
    return len(text) <= _MOST_TEXT_BYTES
