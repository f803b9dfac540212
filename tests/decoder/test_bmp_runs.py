"""Run-length coded BMPs are shown as Windows shows them."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import Limits, bmp_runs, decode

LIMITS = Limits()
COLOURS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
either = pytest.mark.parametrize("bits", [4, 8])


def bmp(bits, size, body, gap=b""):
    """Return a run-length coded BMP, with a gap before its pixels."""
    kind = {8: 1, 4: 2}[bits]
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, kind, len(body), 0, 0, 0, 0)
    colours = b"".join(bytes(c[::-1]) + b"\0" for c in COLOURS[: 1 << bits])
    start = 14 + len(info) + len(colours) + len(gap)
    head = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return head + info + colours + gap + body


def shown(*how):
    """Return the pixels that are decoded."""
    return decode(bmp(*how), limits=LIMITS).pixels


def value(bits, *indices):
    """Return a byte of a run: one index, or two of 4 bits."""
    return bytes((indices[0] if bits == 8 else indices[0] << 4 | indices[-1],))


def plain(bits, row):
    """Return pixels as they are."""
    row = [int(index) for index in row]
    if bits == 4:
        halves = [*row, 0][: len(row) + len(row) % 2]
        packed = bytes(halves[n] << 4 | halves[n + 1] for n in range(0, len(halves), 2))
    else:
        packed = bytes(row)
    return bytes((0, len(row))) + packed + b"\0" * (len(packed) % 2)


LINE, END = b"\0\0", b"\0\1"


@either
@pytest.mark.parametrize("width", [3, 4, 5, 8, 9])
@pytest.mark.parametrize("gap", [b"", b"x", b"gap"], ids=len)
@pytest.mark.parametrize(
    "end", [END, b"", END + b"junk"], ids=["end", "no end", "junk"]
)
def test_runs_and_plain_pixels_are_read(bits, width, gap, end):
    """Words of plain pixels begin where the pixels do, wherever those lie."""
    indices = np.random.default_rng(1).integers(0, 1 << bits, (6, width))
    runs = b"".join(
        b"".join(b"\1" + value(bits, index) for index in row) + LINE
        for row in indices[::-1].tolist()
    )
    plains = b"".join(plain(bits, row) + LINE for row in indices[::-1])
    for body in (runs, plains, plains[: -len(LINE)]):
        pixels = shown(bits, (width, 6), body + end, gap)
        assert np.array_equal(pixels, COLOURS[indices])


@either
def test_what_the_file_leaves_out_has_the_first_colour(bits):
    """A line may be empty, a jump may pass over pixels, and an image end early."""
    one, two = value(bits, 1), value(bits, 2)
    cases = {
        b"\6"
        + one
        + LINE
        + LINE
        + b"\6"
        + two
        + LINE
        + END: "...... 222222 ...... 111111",
        LINE + LINE + LINE + b"\6" + one + END: "111111 ...... ...... ......",
        b"\3" + one + b"\0\2\2\1\1" + two + END: "...... ...... .....2 111...",
        b"\3" + one + LINE + b"\0\2\2\1\3" + two + END: "...... ..222. ...... 111...",
        b"\6" + one + LINE + END: "...... ...... ...... 111111",
        END: "...... ...... ...... ......",
        b"\x0a" + one + LINE + b"\6" + two + END: "...... ...... 222222 111111",
        b"\0\2\0\x09" + one + END: "...... ...... ...... ......",
    }
    for body, wanted in cases.items():
        rows = [[int(c) for c in row.replace(".", "0")] for row in wanted.split()]
        assert np.array_equal(shown(bits, (6, 4), body), COLOURS[np.array(rows)])


@either
def test_halves_of_a_run_alternate(bits):
    """A run of four bits a pixel has two colours."""
    wanted = [1, 2, 1, 2, 1] if bits == 4 else [1] * 5
    pixels = shown(bits, (5, 1), b"\5" + value(bits, 1, 2) + END)
    assert np.array_equal(pixels[0], COLOURS[wanted])


@either
def test_runs_that_end_early_are_damage(bits):
    """Cut anywhere but behind the last pixel, a file is refused."""
    rows = [plain(bits, range(5)), b"\5" + value(bits, 3), plain(bits, range(5))]
    body = LINE.join(rows)
    shown(bits, (5, 3), body)
    for cut in range(len(body) - 1):
        with pytest.raises(UndecodableImage, match="damaged"):
            shown(bits, (5, 3), body[:cut])


@either
@pytest.mark.parametrize(
    "body",
    [b"\0\2\0\0" * 5000, b"\4\0" * 5000, b"\0\2\xff\0" * 5000 + b"\1\1"],
    ids=["jumps to nowhere", "a line without end", "jumps out of the line"],
)
def test_codes_that_go_nowhere_are_damage(bits, body):
    """A file cannot keep a decoder busy without bringing pixels."""
    with pytest.raises(UndecodableImage, match="damaged"):
        shown(bits, (20, 20), body)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_unpacked_or_refused(data, halves):
    """A byte for each pixel comes out, or the declared errors."""
    try:
        pixels = bmp_runs.unpack(data, (7, 5), halves=halves)
    except (ValueError, IndexError):
        return
    assert len(pixels) == 35
