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


SIZES = [(1, 1), (1, 5), (7, 1), (9, 2), (23, 37)]
TYPES = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 8)]
TYPES += [(4, 8), (4, 16), (6, 8), (6, 16)]
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
PASSES += [(1, 0, 2, 2), (0, 1, 1, 2)]


def rows_of(values, depth, *, interlaced):
    """Return the rows of a PNG [H, W, samples], unfiltered, as they are packed."""
    passes = PASSES if interlaced else [(0, 0, 1, 1)]
    rows = []
    for left, top, across, down in passes:
        for row in values[top::down, left::across]:
            bits = "".join(format(value, f"0{depth}b") for value in row.ravel())
            bits += "0" * (-len(bits) % 8)
            content = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
            rows += [b"\0" + bytes(content)] if bits else []
    return rows


def built(rows, size, depth, colour, *, interlaced=False, extra=b""):
    """Return a PNG of some rows, with chunks before its pixels."""
    head = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, interlaced)
    colours = chunk(b"PLTE", bytes(n % 251 for n in range(3 << min(depth, 8))))
    parts = [chunk(b"IHDR", head), colours if colour == 3 else b"", extra]
    packed = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"".join([PLAIN[:8], *parts, packed, chunk(b"IEND", b"")])


def values_of(size, depth, colour):
    """Return random values of a colour type."""
    shape = (*size, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    return np.random.default_rng(4).integers(0, 1 << depth, shape)


@pytest.mark.parametrize(("colour", "depth"), TYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
def test_a_row_that_is_missing_is_damage(colour, depth, size, interlaced):
    """Packed pixels that end early are damage, though all checksums are right."""
    rows = rows_of(values_of(size, depth, colour), depth, interlaced=interlaced)
    how = (size, depth, colour)
    pixels = pixels_of(built(rows, *how, interlaced=interlaced))
    with Image.open(io.BytesIO(built(rows, *how, interlaced=interlaced))) as image:
        if colour in {2, 3}:
            assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    for missing in {1, len(rows) // 2, len(rows) - 1} - {0}:
        with pytest.raises(UndecodableImage, match="damaged"):
            pixels_of(built(rows[:-missing], *how, interlaced=interlaced))


@pytest.mark.parametrize("value", [0, 90, 165, 195, 255])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_plain_last_row_is_there(value, samples):
    """No colour of the last row is taken for a row that is missing."""
    values = np.full((6, 5, samples), value)
    values[..., 1:2] = 90
    values[..., 2:3] = 195
    rows = rows_of(values, 8, interlaced=False)
    pixels = pixels_of(built(rows, (6, 5), 8, 0 if samples == 1 else 2))
    assert pixels[-1, -1].tolist() == np.broadcast_to(values[0, 0], 3).tolist()


@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (2, 8)])
def test_a_colour_key_is_white_at_any_depth(colour, depth):
    """The key is compared with the values as they are in the file."""
    values = values_of((23, 37), depth, colour)
    rows = rows_of(values, depth, interlaced=False)
    for key in values[0, :8].tolist():
        extra = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
        pixels = pixels_of(built(rows, (23, 37), depth, colour, extra=extra))
        clear = np.all(values == key, axis=2)
        wanted = values * 255 // ((1 << depth) - 1)
        wanted = np.where(clear[..., None], 255, wanted)
        assert np.array_equal(pixels, np.broadcast_to(wanted, pixels.shape))


def test_a_colour_key_of_16_bit_colour_is_its_high_bytes():
    """The low bytes are lost, of the key as of the pixels."""
    values = np.array([[[5000, 60000, 300], [5001, 60001, 301], [9000, 1, 2]]])
    extra = chunk(b"tRNS", struct.pack(">3H", *values[0, 0]))
    rows = rows_of(values, 16, interlaced=False)
    pixels = pixels_of(built(rows, (1, 3), 16, 2, extra=extra))
    assert pixels[0].tolist() == [[255] * 3, [255] * 3, [9000 >> 8, 0, 0]]


def key_of(pixel):
    """Return the chunk that makes a pixel's colour transparent."""
    return chunk(b"tRNS", struct.pack(">3H", *pixel.tolist()))


def test_a_transparency_counts_where_it_has_a_meaning():
    """Before the pixels, once, behind the palette, as long as it has to be."""
    first, other = key_of(PIXELS[0, 0]), key_of(PIXELS[1, 1])
    keyed = PIXELS.copy()
    keyed[np.all(PIXELS[0, 0] == PIXELS, axis=2)] = 255
    head, end = ends(PLAIN)[0], ends(PLAIN)[-1]

    def put(piece, at=head, data=PLAIN):
        return pixels_of(data[:at] + piece + data[at:])

    assert np.array_equal(put(first), keyed)
    assert np.array_equal(put(first + other), keyed)
    assert np.array_equal(put(chunk(b"tRNS", first[8:-4], good=False) + first), keyed)
    assert np.array_equal(put(first, end), PIXELS)
    assert np.array_equal(put(chunk(b"tRNS", first[8:-4] + b"\0\0")), PIXELS)
    clear = chunk(b"tRNS", bytes(16))
    plain = pixels_of(PALETTE)
    assert (put(clear, PALETTE.index(b"IDAT") - 4, PALETTE) == 255).all()
    for odd in (b"", bytes(17), bytes(300)):
        at = PALETTE.index(b"IDAT") - 4
        assert np.array_equal(put(chunk(b"tRNS", odd), at, PALETTE), plain)
    assert np.array_equal(put(clear, head, PALETTE), plain)
    alpha = png(Image.fromarray(PIXELS).convert("RGBA"))
    assert np.array_equal(put(first, head, alpha), PIXELS)


def test_what_is_cut_short_behind_the_pixels_is_passed_over():
    """A whole photo is served, wherever the rest ends."""
    tail = chunk(b"tEXt", b"Comment\0" + b"x" * 40) + chunk(b"eXIf", b"MM\0*")
    tail += chunk(b"IEND", b"")
    pixels = ends(PLAIN)[-1]
    for cut in range(len(tail)):
        assert np.array_equal(pixels_of(PLAIN[:pixels] + tail[:cut]), PIXELS)
    for junk in (bytes(50), b"\xff" * 50, b"\x7f\0\0\0tIME" + bytes(50)):
        assert np.array_equal(pixels_of(PLAIN[:pixels] + junk), PIXELS)
    for cut in range(1, 60):
        with pytest.raises(UndecodableImage, match="damaged"):
            pixels_of(PLAIN[: pixels - 4 - cut])
        with pytest.raises(UndecodableImage, match="damaged"):
            pixels_of(PLAIN[: pixels - 4 - cut] + chunk(b"IEND", b""))


def test_chunks_among_the_pixels_are_read_behind_them():
    """An orientation between two parts of the pixels counts."""
    packed = PLAIN[PLAIN.index(b"IDAT") + 4 : ends(PLAIN)[-1] - 4]
    tiff = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    parts = [packed[:99], packed[99:500], b"", packed[500:]]
    between = chunk(b"eXIf", tiff) + chunk(b"tIME", b"") + chunk(b"prVt", b"")
    odd = between.join(chunk(b"IDAT", part) for part in parts)
    data = PLAIN[: ends(PLAIN)[0]] + odd + chunk(b"IEND", b"")
    assert np.array_equal(pixels_of(data), np.rot90(PIXELS, -1))


def test_a_palette_without_colours_is_damage():
    """Nothing can be shown of it."""
    start = PALETTE.index(b"PLTE") - 4
    rest = PALETTE[start + 12 + int.from_bytes(PALETTE[start : start + 4], "big") :]
    with pytest.raises(UndecodableImage, match="damaged"):
        pixels_of(PALETTE[:start] + chunk(b"PLTE", b"") + rest)


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
