"""Images that are made to cost time or memory, or that pretend to be others."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.errors import (
    ImageTooLarge,
    NotAnImage,
    UndecodableImage,
)
from modelserver.decoder import Limits, decode, decoders, png_chunks
from modelserver.decoder.memory_files import MemoryFile

LIMITS = Limits()
REFUSALS = (NotAnImage, UndecodableImage, ImageTooLarge)


def encoded(kind, size=(16, 16), mode="RGB", **how):
    """Return an image file of one colour."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **how)
    return file.getvalue()


def chunk(kind, content):
    """Return a PNG chunk with its checksum."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


PNG, JPEG, GIF = encoded("PNG"), encoded("JPEG"), encoded("GIF")
# Behind a GIF's header and its colours.
GIF_AT = 13 + 3 * (2 << (GIF[10] & 7))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            PNG[:33] + chunk(b"teXt", b"") * 60_000 + PNG[33:], id="png chunks"
        ),
        pytest.param(
            PNG[:33] + chunk(b"tEXt", b"a\0b") * 60_000 + PNG[33:], id="png texts"
        ),
        pytest.param(
            JPEG[:2] + b"\xff\xe9\0\2" * 200_000 + JPEG[2:], id="jpeg segments"
        ),
    ],
)
def test_a_structure_of_crumbs_is_refused(data):
    """Thousands of tiny parts are refused at once, not once they took too long."""
    with pytest.raises(UndecodableImage, match=r"too long to read|damaged"):
        decode(data, limits=LIMITS)


def test_transparency_without_a_header_is_looked_at_as_well():
    """The colour type that it depends on need not be there."""
    data = PNG[:8] + chunk(b"tRNS", b"\0\7")
    assert png_chunks.without_extras(data) == data
    with pytest.raises(UndecodableImage):
        decode(data, limits=LIMITS)


def run_length_bmp(width, height):
    """Return a BMP of which each run is one pixel."""
    row = b"".join(b"\1%c" % (x & 1) for x in range(width)) + b"\0\0"
    body = row * height + b"\0\1"
    at = 14 + 40 + 1024
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0
    )
    colours = b"\0\0\0\0\xff\xff\xff\0" * 128
    return (
        b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + info + colours + body
    )


def test_run_length_bmps_are_read():
    """Each run is read, however short."""
    picture = decode(run_length_bmp(200, 150), limits=LIMITS)
    assert picture.pixels[0, :3, 0].tolist() == [0, 255, 0]


def test_a_png_of_many_small_parts_is_read():
    """A PNG of parts a quarter of the usual size is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 0)
    parts = [chunk(b"IDAT", packed[at : at + 256]) for at in range(0, len(packed), 256)]
    header = chunk(b"IHDR", struct.pack(">II5B", 800, 600, 8, 2, 0, 0, 0))
    data = PNG[:8] + header + b"".join(parts) + chunk(b"IEND", b"")
    assert np.array_equal(decode(data, limits=LIMITS).pixels, pixels)


def with_scans(width, height, more):
    """Return a progressive JPEG that repeats its last scan."""
    data = encoded("JPEG", (width, height), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * more + b"\xff\xd9"


def test_scans_are_counted_before_any_is_decoded(monkeypatch):
    """Too many scans are refused before one is decoded."""
    assert LIMITS.most_scans(5000, 5000) == 100
    assert LIMITS.most_scans(0, 0) == LIMITS.most_scans(16, 16) == 1000

    def never(self, *args, **kwargs):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(decoders._Jpeg, "_reduced_shape", never)
        with pytest.raises(UndecodableImage, match="more than 250 scans"):
            decode(with_scans(2000, 5000, 241), limits=LIMITS, at_least=(9, 9))
        with pytest.raises(UndecodableImage, match="more than 1000 scans"):
            decode(with_scans(16, 16, 1000), limits=LIMITS)
    # Behind the picture others may lie, as in a phone's file, whose scans count too.
    data = encoded("JPEG", (160, 100), progressive=True)
    assert decode(data * 24, limits=LIMITS).pixels.shape == (100, 160, 3)
    assert decode(data * 3, limits=LIMITS).format == "JPEG"


@given(
    st.binary(max_size=40),
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.one_of(st.none(), st.integers(-1, 50))),
            st.tuples(st.just("seek"), st.integers(0, 60)),
        ),
        max_size=12,
    ),
)
def test_a_file_in_memory_reads_like_any_other(data, calls):
    """Position and content equal those of a file in memory."""
    ours, theirs = MemoryFile(memoryview(data)), io.BytesIO(data)
    for name, argument in calls:
        assert getattr(ours, name)(argument) == getattr(theirs, name)(argument)
        assert ours.tell() == theirs.tell()
    for offset, whence in ((-3, 2), (-1, 1), (2, 1), (0, 0)):
        assert ours.seek(offset, whence) >= 0


def seeds():
    """Return one file of each format, with some metadata."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    files = {}
    for kind in kinds:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files[kind] = file.getvalue()
    return files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_twenty_thousand_mutations_of_each_format(kind):
    """Changed, cut or repeated bytes cause the declared refusals only."""
    seed = seeds()[kind]
    limits = Limits(max_pixels=200_000, max_header_pixels=400_000)
    dice = random.Random(kind)  # noqa: S311 - to be the same each time
    for number in range(20_000):
        data = bytearray(seed)
        for _ in range(dice.randint(1, 6)):
            # Half of the changes hit the first bytes, where the structure is.
            at = dice.randrange(dice.choice((60, len(seed))))
            data[at : at + dice.randrange(20)] = dice.randbytes(dice.randrange(20))
        reduced = (4, 4) if number % 2 else None
        try:
            picture = decode(bytes(data), limits=limits, at_least=reduced)
        except REFUSALS:
            continue
        assert picture.pixels.size <= 3 * limits.max_pixels


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", id="eps"),
        pytest.param(b"8BPS\0\1" + bytes(20), id="psd"),
        pytest.param(b"SIMPLE  =                    T", id="fits"),
        pytest.param(b"icns" + bytes(20), id="icns"),
        pytest.param(b"\xd7\xcd\xc6\x9a" + bytes(20), id="wmf"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(20), id="hdf5"),
        pytest.param(b"PK\3\4" + bytes(20), id="zip"),
        pytest.param(b"<?xml version='1.0'?><svg/>", id="svg"),
    ],
)
def test_formats_with_a_history_are_never_opened(data, monkeypatch):
    """No other plugin than the five is called, for any file name."""
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(NotAnImage):
        decode(data, limits=LIMITS)


@pytest.mark.parametrize("kind", ["iCCP", "iTXt", "zTXt"])
def test_compressed_chunks_that_grow_are_refused(kind):
    """A hundred megabytes in a hundred kilobytes are refused, never a 500."""
    bomb = zlib.compress(bytes(100_000_000), 9)
    body = b"key\0\1\0\0\0" + bomb if kind == "iTXt" else b"key\0\0" + bomb
    data = PNG[:33] + chunk(kind.encode(), body) + PNG[33:]
    try:
        picture = decode(data, limits=LIMITS)
    except UndecodableImage:
        return
    assert picture.pixels.shape == (16, 16, 3), "the chunk was passed over"
