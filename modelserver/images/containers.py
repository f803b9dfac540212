"""What an AVIF or HEIC file will make its decoder do, found out before it does.

Both are boxes within boxes around coded pictures. Their decoders believe what those
say: libavif decodes a picture of any size and then shrinks it to what the file's head
claims, and libde265 decodes every frame that a picture's data holds. So the data is
walked through here: how many frames, of what size. Only the structure is read, which is
some hundred bytes; what is not as cameras and programs write it is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

# Brands by which a file says what it is: pictures, and sequences that have one too.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
_CODED = {"AVIF": b"av01", "HEIC": b"hvc1"}
# Beside coded pictures: tiles put together, and what is not decoded at all. Left out is
# above all "iovl", which can ask for one picture a thousand times.
_OTHERS = {b"grid", b"Exif", b"mime", b"uri ", b"tmap"}
_MOST_HEAD_BYTES = 1 << 20
_MOST_ITEMS = 1000
_MOST_BOXES = 10_000
# A picture is one frame, or one in as many layers as AV1 has.
_MOST_FRAMES = 4
_MOST_UNITS = 10_000
_SPARE_PIXELS = 1 << 20
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_FIRST_PARAMETER_SET = 32
_FULL_BOX = 4


class BadContainerError(Exception):
    """The file is no still picture as cameras and programs write it."""


def brand(head: bytes) -> str | None:
    """Tell AVIF from HEIC by a file's first bytes; ``None`` for anything else.

    Args:
        head: 64 bytes or more, fewer only where the file has no more.
    """
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = (head[at : at + 4] for at in range(16, end - 3, 4))
    for word in (head[8:12], *compatible):
        if word in _BRANDS:
            return _BRANDS[word]
    return None


class Extent(NamedTuple):
    """A piece of an item's data."""

    start: int
    length: int


@dataclass
class Head:
    """What stands before the coded data.

    Attributes:
        items: each item's type.
        places: each item's data; ``None`` where it lies in no place that is taken.
        sizes: every width and height that is claimed for an item.
        idat: data within the head.
    """

    items: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, list[Extent] | None] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    idat: Extent | None = None


def check(data: bytes | memoryview | mmap.mmap, name: str) -> int:
    """See that a file has its decoder do no more than its structure tells.

    Args:
        name: ``AVIF`` or ``HEIC``.

    Returns:
        The pixels of the largest picture that lies in it; see :func:`explains`.

    Raises:
        BadContainerError: there is no telling.
    """
    try:
        head = _Reader(data).head()
        largest = max((width * height for width, height in head.sizes), default=0)
        for number, kind in head.items.items():
            if kind == _CODED[name]:
                content = _content(data, head.places.get(number))
                largest = max(largest, _largest_frame(content, name))
            elif kind not in _OTHERS:
                raise BadContainerError
    except (struct.error, IndexError) as error:
        raise BadContainerError from error
    return largest


def explains(pixels: int, largest: int) -> bool:
    """Tell whether a picture's own size explains the largest one in its file.

    Tiles may stand out over a small picture's edges.
    """
    return largest <= pixels + _SPARE_PIXELS


def _content(
    data: bytes | memoryview | mmap.mmap, extents: list[Extent] | None
) -> bytes:
    if extents is None:
        raise BadContainerError
    return b"".join(bytes(data[e.start : e.start + e.length]) for e in extents)


class _Reader:
    """Reads the boxes of a file's head."""

    def __init__(self, data: bytes | memoryview | mmap.mmap) -> None:
        self._data = data
        self._boxes = 0

    def head(self) -> Head:
        """Read what stands before the coded data."""
        outer = self._by_kind(0, len(self._data))
        start, end = outer.get(b"meta", (0, 0))
        # With "moov" it is a film.
        if b"moov" in outer or not 0 < end - start <= _MOST_HEAD_BYTES:
            raise BadContainerError
        boxes = self._by_kind(start + _FULL_BOX, end)
        head = Head()
        if b"idat" in boxes:
            inner, last = boxes[b"idat"]
            head.idat = Extent(inner, last - inner)
        if not boxes.keys() >= {b"iinf", b"iprp", b"iloc"}:
            raise BadContainerError
        self._items(*boxes[b"iinf"], head)
        self._sizes(*boxes[b"iprp"], head)
        self._places(boxes[b"iloc"][0], head)
        return head

    def _by_kind(self, start: int, end: int) -> dict[bytes, tuple[int, int]]:
        """Give each box's content by its type; only data and gaps may be repeated."""
        boxes: dict[bytes, tuple[int, int]] = {}
        for kind, inner, last in self._walk(start, end):
            if kind in boxes and kind not in {b"mdat", b"free", b"skip"}:
                raise BadContainerError
            boxes[kind] = (inner, last)
        return boxes

    def _walk(self, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield each box's type, where its content begins and where it ends."""
        while at < end:
            self._boxes += 1
            size, kind = struct.unpack_from(">I4s", self._data, at)
            start = at + 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._data, start)
                start += 8
            elif size == 0:
                size = end - at
            if size < start - at or at + size > end or self._boxes > _MOST_BOXES:
                raise BadContainerError
            yield kind, start, at + size
            at += size

    def _items(self, start: int, end: int, head: Head) -> None:
        # The count is not needed: the boxes are there or not.
        first = start + _FULL_BOX + (4 if self._data[start] else 2)
        for kind, inner, last in self._walk(first, end):
            version = self._data[inner]
            if kind != b"infe" or version not in {2, 3}:
                raise BadContainerError
            form = ">H2x4s" if version == 2 else ">I2x4s"  # noqa: PLR2004 - the versions
            at = inner + _FULL_BOX
            number, type_ = struct.unpack_from(form, self._data, at)
            if type_ == b"mime":
                # Name, type and encoding: what is packed might unpack to anything.
                texts = bytes(self._data[at + struct.calcsize(form) : last])
                if len(texts.split(b"\0")) > 2 and texts.split(b"\0")[2]:  # noqa: PLR2004
                    raise BadContainerError
            if number in head.items or len(head.items) >= _MOST_ITEMS:
                raise BadContainerError
            head.items[number] = type_

    def _sizes(self, start: int, end: int, head: Head) -> None:
        for kind, inner, last in self._walk(start, end):
            if kind == b"ipco":
                for what, at, _ in self._walk(inner, last):
                    if what == b"ispe":
                        sides = struct.unpack_from(">II", self._data, at + _FULL_BOX)
                        head.sizes.append(sides)

    def _places(self, at: int, head: Head) -> None:
        version, sizes = self._data[at], int(self._number(at + _FULL_BOX, 2))
        offset_size, length_size = sizes >> 12, sizes >> 8 & 15
        base_size, index_size = sizes >> 4 & 15, sizes & 15 if version else 0
        wide = 2 if version < 2 else 4  # noqa: PLR2004 - the versions
        if version > 2 or {offset_size, length_size, base_size, index_size} - {0, 4, 8}:  # noqa: PLR2004
            raise BadContainerError
        count = self._number(at + 6, wide)
        at += 6 + wide
        for _ in range(min(count, _MOST_ITEMS + 1)):
            number = self._number(at, wide)
            at += wide
            method = self._number(at, 2) & 15 if version else 0
            at += 4 if version else 2
            base = self._number(at, base_size)
            extents = self._number(at + base_size, 2)
            at += base_size + 2
            found: list[Extent] | None = []
            for _ in range(extents):
                offset = self._number(at + index_size, offset_size)
                length = self._number(at + index_size + offset_size, length_size)
                at += index_size + offset_size + length_size
                found = self._extent(found, method, Extent(base + offset, length), head)
            if number in head.places or len(head.places) >= _MOST_ITEMS:
                raise BadContainerError
            head.places[number] = found

    def _extent(
        self, found: list[Extent] | None, method: int, extent: Extent, head: Head
    ) -> list[Extent] | None:
        start, room = 0, len(self._data)
        if method == 1 and head.idat is not None:
            start, room = head.idat
        elif method:
            return None
        if found is None or not 0 < extent.length <= room - extent.start:
            return None
        return [*found, Extent(start + extent.start, extent.length)]

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self._data):
            raise BadContainerError
        return int.from_bytes(self._data[at : at + size], "big")


def _largest_frame(content: bytes, name: str) -> int:
    frames = largest = 0
    walk = _av1_units if name == "AVIF" else _hevc_units
    for count, (is_frame, width, height) in enumerate(walk(content)):
        frames += is_frame
        largest = max(largest, width * height)
        if frames > _MOST_FRAMES or count > _MOST_UNITS:
            raise BadContainerError
    if not frames:
        raise BadContainerError
    return largest


def _hevc_units(content: bytes) -> Iterator[tuple[bool, int, int]]:
    """Tell of each unit whether a frame begins with it; sizes are libheif's business.

    Units stand behind their lengths, of four bytes in every file that is written.
    """
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        if length < 3 or at + 4 + length > len(content):  # noqa: PLR2004 - head and a byte
            raise BadContainerError
        kind = content[at + 4] >> 1 & 63
        # The first bit of a slice: it is its picture's first.
        yield kind < _FIRST_PARAMETER_SET and content[at + 6] >> 7 == 1, 0, 0
        at += 4 + length


def _av1_units(content: bytes) -> Iterator[tuple[bool, int, int]]:
    """Tell of each unit whether it is a frame, and the largest size it allows."""
    at = 0
    while at < len(content):
        head = content[at]
        at += 2 if head & 4 else 1
        size = len(content) - at
        if head & 2:
            size, at = _leb128(content, at)
        if at + size > len(content):
            raise BadContainerError
        kind = head >> 3 & 15
        width, height = 0, 0
        if kind == _SEQUENCE_HEADER:
            width, height = _av1_size(content[at : at + size])
        yield kind in {_FRAME_HEADER, _FRAME}, width, height
        at += size


def _leb128(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = content[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:  # noqa: PLR2004 - the last byte has no top bit
            return value, at + place + 1
    raise BadContainerError


def _av1_size(header: bytes) -> tuple[int, int]:
    """Read the largest frame out of a sequence header (AV1 specification, 5.5.1)."""
    bits = _Bits(header)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # the short form, for still pictures
        bits.take(5)
    else:
        if bits.take(1):  # timing: pictures have none
            raise BadContainerError
        delays = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:  # noqa: PLR2004 - levels above it have a tier
                bits.take(1)
            if delays and bits.take(1):
                bits.take(4)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(wide) + 1, bits.take(high) + 1


class _Bits:
    """Takes bits from bytes, highest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:64], "big")
        self._left = 8 * min(len(data), 64)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise BadContainerError
        return self._value >> self._left & ((1 << count) - 1)
