"""A JPEG's markers: the start and end of its pixels, and its decoder's warnings.

libjpeg decodes damaged data as well as it can and warns. Only a file's first warning is
reported, so causes of harmless ones are removed before anything is decoded: junk
between the header's segments, and a missing end. A warning after that is judged here:
junk is harmless if it begins where the pixels end, but zeros or words that a full disk
left in the place of pixels were decoded as such.
All functions are pure and take any buffer.
"""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, NamedTuple

from modelserver.decoder.memory_files import TooManyParts

if TYPE_CHECKING:
    from collections.abc import Iterator

Data = bytes | memoryview | mmap.mmap

FILL = 0xFF
# Any number of 0xFF, then a code that is neither fill nor a stuffed byte.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Bytes of 0xFF among the pixels are followed by 0x00, so this is a scan's start there.
SCAN = re.compile(rb"\xff\xda")
_END = re.compile(rb"\xff\xd9")
_SOI, _EOI, _SOS, _DQT, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
# Markers without a length: restarts, the start, the end, and TEM.
_ALONE = frozenset({*range(0xD0, _SOS), 0x01})
_RESTARTS = range(0xD0, 0xD8)
# Those that are no tables (0xC4, 0xCC) and not reserved (0xC8).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# Needed for decoding: frames, Huffman and arithmetic tables, quantisation, restart
# intervals, the scan, and the two segments that tell the colours.
_NEEDED = frozenset({*range(0xC0, 0xD0), _SOS, _DQT, _DRI, _APP0, _APP14})

# Less of these tells libjpeg nothing, marker and length counted.
_LEAST_BYTES = {_APP0: 18, _APP14: 16}
# Those that may hold an orientation.
ORIENTED = frozenset({_APP1})
# What may lie between two scans: tables, a comment, whatever programs add.
_BETWEEN = frozenset({0xC4, 0xCC, _DQT, 0xDC, _DRI, _SOS, 0xFE, *range(0xE0, 0xF0)})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})

# Before the first scan: cameras write some dozens of segments, depth maps and profiles
# some hundreds. Pillow joins EXIF segments one by one and unpacks each table.
_MOST_SEGMENTS = 2000
_MOST_EXIF_BYTES = 1 << 20
_MOST_TABLE_BYTES = 1 << 16
# Junk that may lie between segments, or between the pixels and the end.
MOST_JUNK_BYTES = 1 << 16
# Encoders pad the last bits to some bytes.
_PADDING_BYTES = 4
# libjpeg reads up to eight bytes ahead (jdhuff.h), and does not count those as junk.
_AHEAD_BYTES = 8
# The last coded bytes may look like the junk behind them, in runs up to twice as
# long as the longest of the bytes before, or as this, if those are too few to tell.
_SAMPLE_BYTES, _LEAST_SAMPLE_BYTES, _LONGEST_RUN_BYTES = 4096, 64, 32
_WORDS = rb"[\0-\x7f]"
_HIGH_BITS = bytes(value >> 7 for value in range(256))
# Less of them may be chance.
_SHORT_JUNK_BYTES = 32

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
        most_end: where they end at the latest.
        restart: the restart that would come next, if another marker does.
    """

    start: int
    end: int
    least_end: int
    most_end: int
    restart: bytes


class _Scan(NamedTuple):
    """A scan, with what is needed to tell whether it is whole.

    Attributes:
        code: of its frame's marker.
        frame: the frame's header.
        header: its own.
        follows: nothing but whole segments lies before it, behind the scan before.
        interval: units between two restarts, 0 for none.
        restarts: how many there are.
        end: of its data: the start of the next other marker.
        behind: that marker's code, 0 if there is none.
    """

    code: int
    frame: bytes
    header: bytes
    follows: bool
    interval: int
    restarts: int
    end: int
    behind: int

    @property
    def is_only(self) -> bool:
        """Whether there can be no further scan, as this one has all components."""
        return self.code not in _PROGRESSIVE and self.header[:1] == self.frame[5:6]


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


def stretches(data: Data, *, ended: bool) -> Iterator[Stretch]:
    """Yield the stretches of coded pixels up to the end.

    Args:
        ended: as for :func:`is_harmless`.

    Raises:
        ValueError: there is no end.
    """
    at, restarts = first_scan(data), 0
    first = at
    while match := _MARKER.search(data, at):
        start, end, code = at, match.start(), match[1][0]
        before = bytes(data[max(start, end - MOST_JUNK_BYTES) : end])
        # Before other markers only zeros are known as padding.
        zeros = len(before) - len(before.rstrip(b"\0"))
        bounds = (end - zeros, end)
        if code == _EOI or zeros >= _SHORT_JUNK_BYTES:
            bounds = _pixels_end(data, first, (start, end), ended=ended)
        restart = _RESTARTS[restarts % len(_RESTARTS)]
        if code == restart:
            yield Stretch(start, end, *bounds, b"")
            at = match.end()
            restarts += 1
            continue
        yield Stretch(start, end, *bounds, bytes((FILL, restart)))
        scan = next((s for s in _segments(data, end) if s.code == _SOS), None)
        if scan is None:
            return
        at, restarts = scan.end, 0
    raise ValueError("there is no end")


def _pixels_end(
    data: Data, first: int, stretch: tuple[int, int], *, ended: bool
) -> tuple[int, int]:
    """Return where the last stretch's pixels end at the earliest and at the latest.

    Args:
        first: start of the pixels, of which those before the stretch count, too.
        stretch: its start and end.
    """
    start, end = stretch
    tail = bytes(data[start:end])
    kind, junk = re.escape(tail[-1:]), len(tail) - len(tail.rstrip(tail[-1:]))
    words = len(tail) - len(tail.translate(_HIGH_BITS).rstrip(b"\0"))
    if words > junk:
        kind, junk = _WORDS, words
    if not ended and junk < _SHORT_JUNK_BYTES:
        # It may be anything, but coded pixels have a zero behind each 0xFF.
        tail = tail[-MOST_JUNK_BYTES:]
        return end - len(tail) + tail.rfind(b"\xff\0") + 2, end
    sample = bytes(data[max(first, end - junk - _SAMPLE_BYTES) : end - junk])
    longest = max(map(len, re.findall(kind + b"+", sample)), default=1)
    if len(sample) < _LEAST_SAMPLE_BYTES:
        longest = _LONGEST_RUN_BYTES
    return end - junk, min(end, end - junk + 2 * longest + _AHEAD_BYTES)


def with_end(data: Data, scan: int) -> Data:
    """Return the data with an end after its pixels: itself if there is one.

    Of zeros that fill a file up no more are kept than junk may have.

    Args:
        scan: start of the first scan's data.
    """
    if data[-2:] == b"\xff\xd9" or _END.search(data, scan):
        return data
    content = bytes(data)
    kept = len(content.rstrip(b"\0")) + MOST_JUNK_BYTES
    return content[:kept] + b"\xff\xd9"


def without_tail(data: Data, *, ended: bool) -> Data:
    """Return a photo that lacks its end, with one in the place of what follows.

    Only restarts lie among the pixels, and only whole segments between two scans. So
    the pixels end at the first other marker: the start of a further picture, or bytes
    of a film.

    Args:
        ended: as for :func:`is_harmless`.

    Returns:
        The data itself if it has an end behind its pixels, or at its own end, where
        no picture follows: then the odd marker lies in a hole.
    """
    last = None
    for scan in _scans(data):
        if last is None or scan.follows:
            last = scan
        if last is not scan or last.is_only:
            break
    if last is None or last.behind in {0, _EOI}:
        return data
    if last.behind != _SOI and ended and data[-2:] == b"\xff\xd9":
        return data
    return bytes(data[: last.end]) + b"\xff\xd9"


def has_all_restarts(data: Data) -> bool:
    """Return whether each scan has the restarts that its size asks for.

    Where there are fewer, libjpeg warns of the junk at the end only.
    """
    return all(scan.restarts == _count_restarts(scan) for scan in _scans(data))


def _scans(data: Data) -> Iterator[_Scan]:
    """Yield the scans, at least up to the end."""
    at, interval, frame = 2, 0, (0, b"")
    while True:
        found = list(_segments(data, at))
        for code, _, start, end in found:
            if code == _DRI:
                interval = int.from_bytes(data[start + 4 : end], "big")
            if code in _FRAMES:
                frame = (code, bytes(data[start + 4 : end]))
        if not found or found[-1].code != _SOS:
            return
        _, _, start, at = found[-1]
        restarts, behind, header = 0, 0, bytes(data[start + 4 : at])
        for match in _MARKER.finditer(data, at):
            at, behind = match.start(), match[1][0]
            if behind not in _RESTARTS or not interval:
                break
            restarts += 1
        follows = all(s.code in _BETWEEN and not s.junk for s in found)
        yield _Scan(*frame, header, follows, interval, restarts, at, behind)


def _count_restarts(scan: _Scan) -> int:
    """Return how many restarts a scan should have."""
    if not scan.interval:
        return 0
    height, width = (int.from_bytes(scan.frame[at : at + 2], "big") for at in (1, 3))
    factors = {
        name: (both & 0xF, both >> 4)
        for name, both in zip(scan.frame[6::3], scan.frame[7::3], strict=False)
    }
    most = [max((both[n] for both in factors.values()), default=1) for n in (0, 1)]
    # A scan of one component has its blocks alone, others have units of all.
    unit = [8 * factor for factor in most]
    sides = [height, width]
    if scan.header[0] == 1:
        own = factors.get(scan.header[1], (1, 1))
        sides = [-(-side * own[n] // (most[n] or 1)) for n, side in enumerate(sides)]
        unit = [8, 8]
    rows, columns = (
        -(-side // (one or 1)) for side, one in zip(sides, unit, strict=True)
    )
    return max(0, rows * columns - 1) // scan.interval


def clean(data: Data, *, keep: frozenset[int] = frozenset()) -> Data:
    """Return the data with only the segments needed for decoding before its scan.

    Junk between segments is left out, and so is all that is no part of the pixels or
    too short to tell their colours; an unknown JFIF revision or colour transform
    becomes the one that libjpeg assumes.

    Args:
        keep: codes of more segments to keep.
    """
    found = list(_segments(data))
    if not found or sum(segment.junk for segment in found) > MOST_JUNK_BYTES:
        return data
    needed = [
        segment
        for segment in found
        if segment.code in _NEEDED | keep
        and segment.end - segment.start >= _LEAST_BYTES.get(segment.code, 0)
    ]
    pieces = [_plain(data, segment) for segment in needed]
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
    # Behind it lie other pictures.
    end = _END.search(data, start)
    for match in SCAN.finditer(data, start, end.start() if end else len(data)):
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


def tells_of_tail(message: str) -> bool:
    """Return whether libjpeg got past the pixels, and found no end there.

    Its errors come from a marker that means nothing there.
    """
    match = _EXTRANEOUS.search(message)
    return int(match[2], 16) != _EOI if match else not is_warning(message)


def tells_of_padding(message: str) -> bool:
    """Return whether libjpeg found bytes that may be padding before a later scan.

    Or before a restart. It would not tell of damage after that.
    """
    match = _EXTRANEOUS.search(message)
    if match is None or int(match[1]) > MOST_JUNK_BYTES:
        return False
    return int(match[2], 16) in _BETWEEN | {*_RESTARTS}


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
    count = int(match[1])
    if end is None or int(match[2], 16) != _EOI or count > MOST_JUNK_BYTES:
        return False
    before = bytes(data[max(scan, end.start() - MOST_JUNK_BYTES) : end.start()])
    # The end's own fill does not count.
    stop = end.start() - len(before) + len(before.rstrip(b"\xff"))
    earliest, latest = _pixels_end(data, scan, (scan, stop), ended=ended)
    begins = stop - count
    if begins > latest or (begins < earliest and count > _PADDING_BYTES):
        return False
    return has_all_restarts(data)
