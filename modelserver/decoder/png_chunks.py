"""A PNG without the chunks that are not used.

Readers stumble over chunks that have nothing to do with the pixels: text that unpacks
to megabytes, a time with a wrong checksum. Browsers and libpng pass over those. So that
the same photos are served here, such chunks are removed before any library sees the
file, and need not be bounded or refused either. What stands where it has no meaning,
such as a transparency behind the pixels, counts as little as it does there.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from modelserver.decoder.memory_files import TooManyParts

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = bytes | memoryview | mmap.mmap

_SIGNATURE_BYTES = 8
# Length, type and checksum of a chunk.
_FRAME_BYTES = 12
# An upper-case first letter: without this chunk the image cannot be shown.
_CRITICAL = frozenset(range(ord("A"), ord("Z") + 1))
_PICTURE = frozenset({b"IHDR", b"PLTE", b"IDAT"})
# Some of those that may be left out hold an orientation.
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTED = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif", b"exif"})
# Pillow refuses text that unpacks to more (PngImagePlugin.MAX_TEXT_CHUNK).
_MOST_TEXT_BYTES = 1 << 20
# Of the header's colour types: samples a pixel, and 16-bit numbers of a tRNS chunk.
_GRAY, _RGB, _PALETTE = 0, 2, 3
_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}
_KEY_NUMBERS = {_GRAY: 1, _RGB: 3}
_DEPTH_AT, _COLOUR_TYPE_AT, _HEADER_END = 24, 25, 29
_BYTE_BITS, _BYTE_MAX = 8, 255
_CHECKSUM_BYTES = 4
# First column and row, and steps, of Adam7's passes.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
_UNPACKED_BYTES = 1 << 20
# Encoders write 8 KiB or more a chunk.
_FREE_CHUNKS = 5_000
_BYTES_A_CHUNK = 256


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


class _Pieces:
    """Stretches of a file, in order; neighbours are one."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int] | bytes] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, start: int, end: int) -> None:
        last = self._found[-1] if self._found else b""
        if isinstance(last, tuple) and last[1] == start:
            self._found[-1] = (last[0], end)
        else:
            self._found.append((start, end))

    def put(self, piece: bytes) -> None:
        self._found.append(piece)

    def of(self, data: Data) -> Iterator[bytes]:
        for one in self._found:
            yield one if isinstance(one, bytes) else bytes(data[one[0] : one[1]])


def without_extras(data: Data) -> Data:
    """Return a PNG with only the chunks that its pixels need.

    Args:
        data: a file that begins as a PNG does; damaged ones too, whose damage stays,
            but for a chunk behind the pixels that is cut short.

    Returns:
        The data itself if there is nothing to leave out.

    Raises:
        TooManyParts: it has more chunks than its size explains.
        ValueError: a needed chunk has a wrong checksum, or pixels are missing.
    """
    before, pixels, behind = _Pieces(), _Pieces(), _Pieces()
    before.add(0, _SIGNATURE_BYTES)
    lengths: dict[bytes, int] = {}
    whole, end = True, _SIGNATURE_BYTES
    for chunk in _chunks(data):
        end = chunk.end
        pieces = pixels if chunk.kind == b"IDAT" else behind if pixels else before
        key = _colour_key(data, chunk, lengths) if chunk.kind == b"tRNS" else None
        if key is not None:
            pieces.put(key)
            whole = whole and key == data[chunk.start : chunk.end]
        elif chunk.kind != b"tRNS" and _is_used(data, chunk):
            # No reader expects others between them.
            whole = whole and not (chunk.kind == b"IDAT" and behind)
            pieces.add(chunk.start, chunk.end)
        else:
            whole = False
            continue
        lengths[chunk.kind] = chunk.end - chunk.start - _FRAME_BYTES
    if whole and end == len(data):
        return data
    return b"".join(
        piece for part in (before, pixels, behind) for piece in part.of(data)
    )


def has_all_rows(data: Data) -> bool:
    """Return whether so much is packed in a PNG's pixels as its header says.

    Unpacks them once more; of another file than :func:`without_extras` gives the
    answer means nothing.
    """
    width, height, depth, colour, *_, interlaced = struct.unpack_from(">II5B", data, 16)
    missing = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        bits = columns * depth * _SAMPLES[colour]
        missing += rows * (1 + -(-bits // _BYTE_BITS)) if columns > 0 else 0
    unpacker = zlib.decompressobj()
    for chunk in _chunks(data):
        packed = data[chunk.start + 8 : chunk.end - _CHECKSUM_BYTES]
        while packed and chunk.kind == b"IDAT" and missing > 0:
            missing -= len(unpacker.decompress(packed, _UNPACKED_BYTES))
            packed = unpacker.unconsumed_tail
    return missing <= 0


def _chunks(data: Data) -> Iterator[_Chunk]:
    """Yield the chunks in order, but for a last one that is cut short.

    Raises:
        ValueError: pixels are missing, and not their checksum alone.
    """
    at, size = _SIGNATURE_BYTES, len(data)
    for _ in range(_FREE_CHUNKS + size // _BYTES_A_CHUNK):
        kind = bytes(data[at + 4 : at + 8])
        end = at + _FRAME_BYTES + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            yield _Chunk(kind, at, size)
            return
        if end > size + _CHECKSUM_BYTES and kind == b"IDAT":
            raise ValueError("pixels are missing")
        if end > size and kind != b"IDAT":
            return
        yield _Chunk(kind, at, min(end, size))
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
    empty = chunk.end - chunk.start == _FRAME_BYTES
    if chunk.kind == b"PLTE" and empty and data[_COLOUR_TYPE_AT] == _PALETTE:
        raise ValueError("the palette is empty")
    if chunk.kind[0] in _CRITICAL:
        return True
    if chunk.kind not in _TEXTS and chunk.kind != b"eXIf":
        return False
    if not _is_intact(data, chunk):
        return False
    body = bytes(data[chunk.start + 8 : chunk.end - _CHECKSUM_BYTES])
    return chunk.kind == b"eXIf" or _is_readable(chunk.kind, body)


def _colour_key(data: Data, chunk: _Chunk, before: dict[bytes, int]) -> bytes | None:
    """Return a tRNS chunk as Pillow reads it, ``None`` if it has no meaning.

    Pillow compares it with pixels of eight bits, to which it brought those of fewer or
    more; only of 16-bit gray it keeps all bits.

    Args:
        before: the lengths of other chunks before it, by kind.
    """
    whole = bytes(data[chunk.start : chunk.end])
    body = whole[8:-_CHECKSUM_BYTES]
    if not {b"tRNS", b"IDAT"}.isdisjoint(before) or not _is_intact(data, chunk):
        return None
    if len(data) < _HEADER_END:
        return whole
    depth, colour = data[_DEPTH_AT], data[_COLOUR_TYPE_AT]
    if colour == _PALETTE:
        return whole if 0 < 3 * len(body) <= before.get(b"PLTE", 0) else None
    count = _KEY_NUMBERS.get(colour, 0)
    if not count or len(body) != 2 * count:
        return None
    numbers = struct.unpack(f">{count}H", body)
    if depth <= _BYTE_BITS:
        most = (1 << depth) - 1
        numbers = tuple((n & most) * _BYTE_MAX // (most or 1) for n in numbers)
    elif colour == _RGB:
        numbers = tuple(n >> _BYTE_BITS for n in numbers)
    content = b"tRNS" + struct.pack(f">{count}H", *numbers)
    return whole[:4] + content + struct.pack(">I", zlib.crc32(content))


def _is_intact(data: Data, chunk: _Chunk) -> bool:
    """Return whether a chunk's checksum is right, or cut off."""
    end = (
        chunk.start
        + _FRAME_BYTES
        + int.from_bytes(data[chunk.start : chunk.start + 4], "big")
    )
    if end > len(data):
        return True
    checksum = int.from_bytes(data[end - 4 : end], "big")
    return zlib.crc32(data[chunk.start + 4 : end - 4]) == checksum


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
