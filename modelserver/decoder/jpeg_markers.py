"""A JPEG's markers: the start and end of its pixels, and its decoder's warnings.

libjpeg decodes damaged data as well as it can and warns. Only a file's first warning is
reported, so causes of harmless ones are removed before anything is decoded: junk
between the header's segments, and a missing end. A warning after that is judged here.
All functions are pure and take any buffer.
"""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, NamedTuple

from modelserver.decoder.formats import TooManyParts

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = bytes | memoryview | mmap.mmap

FILL = 0xFF
# Any number of 0xFF, then a code that is neither fill nor a stuffed byte.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Bytes of 0xFF among the pixels are followed by 0x00, so this is a scan's start there.
SCAN = re.compile(rb"\xff\xda")
_END = re.compile(rb"\xff\xd9")
_EOI, _SOS, _DQT = 0xD9, 0xDA, 0xDB
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
# Markers without a length: restarts, the start, the end, and TEM.
_ALONE = frozenset({*range(0xD0, _SOS), 0x01})
_RESTARTS = range(0xD0, 0xD8)
# Those that are no tables (0xC4, 0xCC) and not reserved (0xC8).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# Needed for decoding: frames, Huffman and arithmetic tables, quantisation, restart
# intervals, the scan, and the two segments that tell the colours.
_NEEDED = frozenset({*range(0xC0, 0xD0), _SOS, _DQT, 0xDD, _APP0, _APP14})

# Before the first scan: cameras write some dozens of segments, depth maps and profiles
# some hundreds. Pillow joins EXIF segments one by one and unpacks each table.
_MOST_SEGMENTS = 2000
_MOST_EXIF_BYTES = 1 << 20
_MOST_TABLE_BYTES = 1 << 16
# Junk that may lie between segments, or between the pixels and the end.
MOST_JUNK_BYTES = 1 << 16
# Encoders pad the last bits to some bytes.
_PADDING_BYTES = 4
_ASCII = 0x80

# Offsets from a segment's marker (JFIF 1.02; Adobe's technical note 5116).
_JFIF_MAJOR, _ADOBE_TRANSFORM = 9, 15
_TRANSFORMS = frozenset({0, 1, 2})
# A scan's header ends in its first and last coefficient and its bit positions, of which
# the low half is the last one that the scan brings.
_SPECTRUM_BYTES, _LAST_BIT = 3, 0x0F

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# How libjpeg's warnings begin (jerror.h); its errors begin otherwise.
_WARNINGS = (
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression",
    "Invalid SOS parameters",
    "Unknown Adobe",
    "Warning:",
)


class Segment(NamedTuple):
    """One segment of a header.

    Attributes:
        junk: bytes before it that belong to nothing.
        start: of its marker's code and the 0xFF before it.
        end: the expected start of the next one.
    """

    code: int
    junk: int
    start: int
    end: int


class Stretch(NamedTuple):
    """Coded pixels between two markers: those of a scan, or of a restart interval.

    Attributes:
        start: of the first byte.
        end: start of the marker behind them.
        least_end: where the pixels end at the earliest, if what follows is harmless.
        restart: the restart that would come next, if another marker does.
    """

    start: int
    end: int
    least_end: int
    restart: bytes


def _segments(data: Data, at: int = 2) -> Iterator[Segment]:
    """Yield the segments up to the next scan's, which is the last."""
    size = len(data)
    for _ in range(_MOST_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None or match[1][0] == _EOI:
            return
        code, after = match[1][0], match.end()
        length = 0 if code in _ALONE else int.from_bytes(data[after : after + 2], "big")
        end = min(after + length, size)
        yield Segment(code, match.start() - at, after - 2, end)
        at = end
        if code == _SOS:
            return
    raise TooManyParts


def first_scan(data: Data) -> int:
    """Return the start of the first scan's data; the data's size if there is none.

    Raises:
        TooManyParts: there is more before it than any camera or program writes.
    """
    exif = tables = 0
    for code, _, start, end in _segments(data):
        if code == _SOS:
            return end
        if code == _APP1 and data[start + 4 : start + 8] == b"Exif":
            exif += end - start
        tables += (end - start) * (code == _DQT)
        if exif > _MOST_EXIF_BYTES or tables > _MOST_TABLE_BYTES:
            raise TooManyParts
    return len(data)


def frame_of(data: Data) -> int | None:
    """Return the code of the frame's marker, ``None`` if there is no frame."""
    codes = (segment.code for segment in _segments(data))
    return next((code for code in codes if code in _FRAMES), None)


def stretches(data: Data) -> Iterator[Stretch]:
    """Yield the stretches of coded pixels up to the end.

    Raises:
        ValueError: there is no end.
    """
    at, restarts = first_scan(data), 0
    while match := _MARKER.search(data, at):
        start, end, code = at, match.start(), match[1][0]
        least_end = _least_end(data, start, end) if code == _EOI else end
        restart = _RESTARTS[restarts % len(_RESTARTS)]
        if code == restart:
            yield Stretch(start, end, least_end, b"")
            at = match.end()
            restarts += 1
            continue
        yield Stretch(start, end, least_end, bytes((FILL, restart)))
        scan = next((s for s in _segments(data, end) if s.code == _SOS), None)
        if scan is None:
            return
        at, restarts = scan.end, 0
    raise ValueError("there is no end")


def _least_end(data: Data, start: int, end: int) -> int:
    """Return where the last stretch's pixels end if all that may be junk is junk."""
    tail = bytes(data[max(start, end - MOST_JUNK_BYTES) : end])
    stripped = len(tail.rstrip(tail[-1:]))
    coded = max((at + 1 for at, value in enumerate(tail) if value >= _ASCII), default=0)
    return end - len(tail) + min(stripped, coded)


def with_end(data: Data, scan: int) -> Data:
    """Return the data with an end after its pixels: itself if there is one.

    Args:
        scan: start of the first scan's data.
    """
    if data[-2:] == b"\xff\xd9" or _END.search(data, scan):
        return data
    return bytes(data) + b"\xff\xd9"


def clean(data: Data) -> Data:
    """Return the data with only the segments needed for decoding before its scan.

    Junk between segments is left out, and so is all that is no part of the pixels; an
    unknown JFIF revision or colour transform becomes the one that libjpeg assumes.
    """
    found = list(_segments(data))
    if not found or sum(segment.junk for segment in found) > MOST_JUNK_BYTES:
        return data
    pieces = [_plain(data, segment) for segment in found if segment.code in _NEEDED]
    return b"".join([b"\xff\xd8", *pieces, data[found[-1].end :]])


def _plain(data: Data, segment: Segment) -> bytes:
    """Return a segment without values of which libjpeg would warn."""
    piece = bytearray(data[segment.start : segment.end])
    if piece[1] == _APP0 and piece[4:9] == b"JFIF\0" and len(piece) > _JFIF_MAJOR:
        piece[_JFIF_MAJOR] = 1
    adobe = piece[1] == _APP14 and len(piece) > _ADOBE_TRANSFORM
    if adobe and piece[_ADOBE_TRANSFORM] not in _TRANSFORMS:
        # It is taken for that of three components.
        piece[_ADOBE_TRANSFORM] = 1
    return bytes(piece)


def has_all_scans(data: Data, components: int) -> bool:
    """Return whether the scans of a JPEG of several bring every coefficient in full.

    A file that was cut between two scans is decoded without a warning.
    """
    done: dict[int, set[int]] = {}
    start = next((s.start for s in _segments(data) if s.code == _SOS), len(data))
    for match in SCAN.finditer(data, start):
        count = data[match.end() + 2 : match.end() + 3]
        header = bytes(
            data[match.end() + 3 : match.end() + 6 + 2 * (count or b"\0")[0]]
        )
        if len(header) < _SPECTRUM_BYTES or header[-1] & _LAST_BIT:
            continue
        for component in header[:-3:2]:
            done.setdefault(component, set()).update(range(header[-3], header[-2] + 1))
    whole = set(range(64))
    return len(done) >= components and all(bits >= whole for bits in done.values())


def is_warning(message: str) -> bool:
    """Return whether libjpeg's message is a warning: it decoded all it could."""
    return message.startswith(_WARNINGS)


def is_harmless(message: str, data: Data, scan: int, *, ended: bool) -> bool:
    """Return whether the pixels are whole though libjpeg warned.

    So are those of a file that has junk between its pixels and its end. The rest of
    damaged data looks different: as coded pixels do.

    Args:
        message: libjpeg's first warning for data whose header gave none.
        scan: start of the first scan's data.
        ended: the end was in the file, not put there by :func:`with_end`.
    """
    match = _EXTRANEOUS.search(message)
    end = _END.search(data, scan)
    if match is None:
        return message.startswith(("Invalid SOS", "Unknown Adobe", "Warning:"))
    if end is None or int(match[2], 16) != _EOI or int(match[1]) > MOST_JUNK_BYTES:
        return False
    left = bytes(data[max(scan, end.start() - int(match[1])) : end.start()])
    if len(left) <= _PADDING_BYTES or len(set(left)) == 1:
        return True
    # Coded pixels have a zero behind each 0xFF, and bytes of every value.
    return b"\xff\0" not in left and (not ended or max(left) < _ASCII)
