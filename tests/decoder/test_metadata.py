"""Whole photos are served with any metadata; a BMP's unset alpha counts as none."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import Limits, decode, png_chunks
from modelserver.decoder.decoders import MOST_RUN_PIXELS

LIMITS = Limits()
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def png(image=None, **how):
    """Return a PNG's bytes."""
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, "PNG", **how)
    return file.getvalue()


def chunk(kind, body, *, good=True, length=None):
    """Return a PNG chunk, with a right or wrong checksum, and maybe a wrong length."""
    check = zlib.crc32(kind + body) ^ (0 if good else 1)
    size = len(body) if length is None else length
    return struct.pack(">I", size) + kind + body + struct.pack(">I", check)


def ends(data):
    """Return the end of each chunk of a PNG but its last."""
    at, found = 8, []
    while data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        found.append(at)
    return found


def pixels_of(data):
    """Return the decoded pixels."""
    return decode(data, limits=LIMITS).pixels


PLAIN = png()
PALETTE = png(Image.fromarray(PIXELS).quantize(16))
ANCILLARY = st.sampled_from(
    b"tIME pHYs gAMA cHRM sRGB iCCP bKGD hIST sBIT sPLT zTXt iTXt tEXt acTL fcTL fdAT"
    b" oFFs vpAg caNv npOL eXIf tRNS".split()
)


@pytest.mark.parametrize("data", [PLAIN, PALETTE], ids=["colour", "palette"])
@given(kind=ANCILLARY, body=st.binary(max_size=40), where=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_a_damaged_chunk_that_shows_nothing_is_passed_over(data, kind, body, where):
    """Wrong checksums of other chunks than pixels are ignored."""
    at = [*ends(data)][min(where, len(ends(data)) - 1)]
    odd = data[:at] + chunk(kind, body, good=False) + data[at:]
    assert np.array_equal(pixels_of(odd), pixels_of(data))


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\7nonsense"),
        chunk(b"zTXt", b"Comment\0\7nonsense"),
        chunk(b"tEXt", b"Comment\0" + bytes(3_000_000)),
        chunk(b"pHYs", b"\0\0"),
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"1234"),
        chunk(b"sRGB", b""),
        chunk(b"tIME", b"\7\xea"),
        chunk(b"tRNS", b"\0"),
        chunk(b"tEXt", b"transparency\0" + b"255"),
        chunk(b"acTL", b"\0\0"),
        chunk(b"fcTL", bytes(26)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
    ],
    ids=lambda odd: odd[4:16].decode("latin-1"),
)
def test_metadata_too_large_or_too_short_refuse_no_photo(odd):
    """A photo with odd metadata is served, as browsers show it."""
    for at in ends(PLAIN):
        assert np.array_equal(pixels_of(PLAIN[:at] + odd + PLAIN[at:]), PIXELS)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_what_is_shown_is_damage(kind):
    """A wrong checksum of header, palette or pixels is damage."""
    data = bytearray(PALETTE)
    at = data.index(kind)
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    data[end] ^= 1
    with pytest.raises(UndecodableImage, match="damaged"):
        decode(bytes(data), limits=LIMITS)


def test_what_counts_is_kept():
    """Transparency and orientation are kept, in chunk, text and XMP."""
    clear = png(Image.fromarray(PIXELS), transparency=tuple(PIXELS[0, 0].tolist()))
    assert pixels_of(clear)[0, 0].tolist() == [255, 255, 255]
    tiff = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    text = b"\nexif\n%8d\n%s\n" % (len(tiff) + 6, (b"Exif\0\0" + tiff).hex().encode())
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    at = ends(PLAIN)[0]
    for turned in (
        chunk(b"eXIf", tiff),
        chunk(b"tEXt", b"Raw profile type exif\0" + text),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        picture = decode(PLAIN[:at] + turned + PLAIN[at:], limits=LIMITS)
        assert (picture.orientation, picture.pixels.shape) == (6, (30, 20, 3))


def test_an_animations_first_picture_is_shown():
    """The image for readers that know no animations is decoded."""
    frames = [Image.fromarray(255 - PIXELS), Image.fromarray(PIXELS // 2)]
    data = png(Image.fromarray(PIXELS), save_all=True, append_images=frames)
    assert b"acTL" in data
    assert np.array_equal(pixels_of(data), PIXELS)


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_signature_can_be_looked_at(data):
    """Bytes that form no chunk are left to the decoder."""
    data = PLAIN[:8] + data
    assert len(png_chunks.without_extras(data)) <= len(data)


def test_a_plain_png_is_not_copied():
    """A PNG with nothing to leave out is not copied."""
    assert png_chunks.without_extras(PLAIN) is PLAIN


def bmp(alpha, header):
    """Return a 32-bit BMP with masks, of one red line; header 56, 108 or 124 bytes."""
    pixel = struct.pack("<I", alpha << 24 | 0xFF0000)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", header, 8, 1, 1, 32, 3, 32, 0, 0, 0, 0) + masks
    body = info.ljust(header, b"\0") + pixel * 8
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + header) + body


@pytest.mark.parametrize("header", [56, 108, 124], ids=["V3", "V4", "V5"])
def test_a_bmp_whose_alpha_is_nowhere_set_is_opaque(header):
    """A BMP whose alpha is 0 everywhere is opaque."""
    assert pixels_of(bmp(0, header)).tolist() == [[[255, 0, 0]] * 8]
    half = pixels_of(bmp(128, header))[0, 0]
    assert half[0] == 255
    assert 120 < half[1] < 135


def test_a_run_length_bmp_of_many_pixels_is_refused_unread():
    """A few bytes that claim many pixels are refused unread."""
    side = int(MOST_RUN_PIXELS**0.5) + 1
    info = struct.pack(
        "<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0
    ) + bytes(1024)
    head = b"BM" + struct.pack("<IHHI", 14 + len(info) + 2, 0, 0, 14 + len(info))
    with pytest.raises(UndecodableImage, match=r"2,000,000 pixels .* save it as PNG"):
        decode(head + info + b"\1\1\0\0" * side + b"\0\1", limits=LIMITS)
