"""The units that a coded image consists of: HEVC's in a HEIC, AV1's in an AVIF.

Only their heads are read, for the number of frames and their sizes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_FIRST_PARAMETER_SET = 32


class BadContainerError(Exception):
    """The file is not a still image as cameras and programs write it."""


def units_of_hevc(content: bytes) -> Iterator[tuple[bool, int, int]]:
    """Yield for each unit whether a frame begins with it; libheif checks the sizes.

    A length of four bytes precedes each unit in every file that is written.

    Raises:
        BadContainerError, struct.error: they are cut off.
    """
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        if length < 3 or at + 4 + length > len(content):  # noqa: PLR2004 - head and a byte
            raise BadContainerError
        kind = content[at + 4] >> 1 & 63
        # The first bit of a slice: it is its image's first.
        yield kind < _FIRST_PARAMETER_SET and content[at + 6] >> 7 == 1, 0, 0
        at += 4 + length


def units_of_av1(content: bytes) -> Iterator[tuple[bool, int, int]]:
    """Yield for each unit whether it is a frame, and the largest size it allows.

    Raises:
        BadContainerError, IndexError: they are cut off.
    """
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
            width, height = size_of_av1(content[at : at + size])
        yield kind in {_FRAME_HEADER, _FRAME}, width, height
        at += size


def _leb128(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = content[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:  # noqa: PLR2004 - the last byte has no top bit
            return value, at + index + 1
    raise BadContainerError


def size_of_av1(header: bytes) -> tuple[int, int]:
    """Read the largest frame out of a sequence header (AV1 specification, 5.5.1)."""
    bits = _Bits(header)
    bits.take(4)  # profile, still image
    if bits.take(1):  # the short form, for still pictures
        bits.take(5)
    else:
        if bits.take(1):  # timing: images have none
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
    """Reads bits from bytes, highest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:64], "big")
        self._left = 8 * min(len(data), 64)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise BadContainerError
        return self._value >> self._left & ((1 << count) - 1)
