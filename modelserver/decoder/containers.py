"""The work that an AVIF or HEIC file asks of its decoder, measured beforehand.

Both are boxes within boxes around coded images. Their decoders trust the data: libavif
decodes an image of any size and then shrinks it to the size in the file's head, and
libde265 decodes every frame in an image's data. So the frames and their sizes are
counted here first. Only the structure is read, some hundred bytes; any other structure
than that of cameras and programs is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from modelserver.decoder.coded_units import (
    BadContainerError,
    units_of_av1,
    units_of_hevc,
)

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

# Brands of files: still images, and sequences that have one too.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
_CODED = {"AVIF": b"av01", "HEIC": b"hvc1"}
# Besides coded images: tiles put together, and metadata. Left out is above all "iovl",
# which can ask for one image a thousand times.
_OTHERS = {b"grid", b"Exif", b"mime", b"uri ", b"tmap"}
_MOST_HEAD_BYTES = 1 << 20
_MOST_ITEMS = 1000
_MOST_BOXES = 10_000
# An image is one frame, or one in as many layers as AV1 has.
_MOST_FRAMES = 4
# Of the whole file: they are read in Python.
_MOST_UNITS = 20_000
_MOST_EXTENTS = 4_000
# Times its own length that a file's items may have in all: equal tiles may share data.
_MOST_SHARED = 4
_SPARE_PIXELS = 1 << 20
_FULL_BOX = 4


def brand(head: bytes) -> str | None:
    """Return AVIF or HEIC by a file's first bytes; ``None`` for other formats.

    Args:
        head: 64 bytes or more, fewer only if the file has no more.
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
    """The boxes before the coded data.

    Attributes:
        items: each item's type.
        extents: each item's data; ``None`` if it lies where nothing is read from.
        sizes: every width and height that is claimed for an item.
        idat: data within the head.
    """

    items: dict[int, bytes] = field(default_factory=dict)
    extents: dict[int, list[Extent] | None] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    idat: Extent | None = None


def check(data: bytes | memoryview | mmap.mmap, name: str) -> int:
    """Check a file's structure, which bounds the work of its decoder.

    Args:
        name: ``AVIF`` or ``HEIC``.

    Returns:
        The pixels of the largest image in it; see :func:`explains`.

    Raises:
        BadContainerError: the work cannot be bounded.
    """
    try:
        head = _Reader(data).head()
        largest = max((width * height for width, height in head.sizes), default=0)
        units = iter(range(_MOST_UNITS))
        for number, kind in head.items.items():
            if kind == _CODED[name]:
                content = _content(data, head.extents.get(number))
                largest = max(largest, _largest_frame(content, name, units))
            elif kind not in _OTHERS:
                raise BadContainerError
    except (struct.error, IndexError) as error:
        raise BadContainerError from error
    return largest


def explains(pixels: int, largest: int) -> bool:
    """Return whether an image's own size explains the largest one in its file.

    Tiles may extend over a small image's edges.
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
        self._extents = 0
        self._left = _MOST_SHARED * len(data)

    def head(self) -> Head:
        """Read the boxes before the coded data."""
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
        self._read_items(*boxes[b"iinf"], head)
        self._read_sizes(*boxes[b"iprp"], head)
        self._read_extents(boxes[b"iloc"][0], head)
        return head

    def _by_kind(self, start: int, end: int) -> dict[bytes, tuple[int, int]]:
        """Return each box's content by its type; only data and gaps may be repeated."""
        boxes: dict[bytes, tuple[int, int]] = {}
        for kind, inner, last in self._walk(start, end):
            if kind in boxes and kind not in {b"mdat", b"free", b"skip"}:
                raise BadContainerError
            boxes[kind] = (inner, last)
        return boxes

    def _walk(self, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield each box's type, and the start and end of its content."""
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

    def _read_items(self, start: int, end: int, head: Head) -> None:
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
                # Name, type and encoding: packed data might unpack to anything.
                texts = bytes(self._data[at + struct.calcsize(form) : last])
                if len(texts.split(b"\0")) > 2 and texts.split(b"\0")[2]:  # noqa: PLR2004
                    raise BadContainerError
            if number in head.items or len(head.items) >= _MOST_ITEMS:
                raise BadContainerError
            head.items[number] = type_

    def _read_sizes(self, start: int, end: int, head: Head) -> None:
        for kind, inner, last in self._walk(start, end):
            if kind == b"ipco":
                for what, at, _ in self._walk(inner, last):
                    if what == b"ispe":
                        sides = struct.unpack_from(">II", self._data, at + _FULL_BOX)
                        head.sizes.append(sides)

    def _read_extents(self, at: int, head: Head) -> None:
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
            if number in head.extents or len(head.extents) >= _MOST_ITEMS:
                raise BadContainerError
            head.extents[number] = found

    def _extent(
        self, found: list[Extent] | None, method: int, extent: Extent, head: Head
    ) -> list[Extent] | None:
        start, room = 0, len(self._data)
        if method == 1 and head.idat is not None:
            start, room = head.idat
        elif method:
            return None
        self._extents += 1
        self._left -= extent.length
        if self._left < 0 or self._extents > _MOST_EXTENTS:
            raise BadContainerError
        if found is None or not 0 < extent.length <= room - extent.start:
            return None
        found.append(Extent(start + extent.start, extent.length))
        return found

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self._data):
            raise BadContainerError
        return int.from_bytes(self._data[at : at + size], "big")


def _largest_frame(content: bytes, name: str, units: Iterator[int]) -> int:
    frames = largest = 0
    walk = units_of_av1 if name == "AVIF" else units_of_hevc
    for is_frame, width, height in walk(content):
        frames += is_frame
        largest = max(largest, width * height)
        if frames > _MOST_FRAMES or next(units, None) is None:
            raise BadContainerError
    if not frames:
        raise BadContainerError
    return largest
