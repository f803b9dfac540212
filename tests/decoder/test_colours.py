"""Every mode that the formats come in, brought to RGB."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from modelserver.decoder import Limits, decode
from modelserver.decoder.decoders import to_rgb

RED, WHITE = [255, 0, 0], [255, 255, 255]


def decoded(image, kind, **how):
    """Return the pixels of an image after a round trip through a file."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return decode(file.getvalue(), limits=Limits()).pixels


def ramp(height=8, width=32):
    """Return all 256 levels of gray."""
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_gray_becomes_three_equal_channels(kind):
    """Gray is widened and keeps every level."""
    pixels = decoded(Image.fromarray(ramp()), kind)
    assert np.array_equal(pixels, np.repeat(ramp()[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_one_bit_is_black_and_white(kind):
    """One bit becomes 0 and 255."""
    image = Image.fromarray(ramp() > 100)
    wanted = np.where(ramp() > 100, 255, 0)
    assert np.array_equal(decoded(image, kind)[..., 1], wanted)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_gives_its_colours(kind):
    """Palette indices become their colours."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    assert decoded(image, kind).reshape(-1, 3).tolist() == [RED] * 16


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(kind):
    """A transparent entry shows white; its hidden colour is never seen."""
    image = Image.new("P", (4, 1), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((0, 0), 0)
    pixels = decoded(image, kind, transparency=0)
    assert pixels[0].tolist() == [WHITE, RED, RED, RED]


@pytest.mark.parametrize("how", [{}, {"transparency": 1}], ids=["opaque", "clear"])
def test_what_a_gifs_first_frame_leaves_out_is_white(how):
    """A frame may be smaller than its image, and nothing is shown around it."""
    image = Image.new("P", (3, 2), 2)
    image.putpalette([0, 0, 255, 0, 255, 0, 255, 0, 0])
    file = io.BytesIO()
    image.save(file, "GIF", **how)
    data = bytearray(file.getvalue())
    frame = data.index(b"," + bytes(4) + struct.pack("<2H", 3, 2))
    data[6:10] = struct.pack("<2H", 6, 5)
    data[frame + 1 : frame + 5] = struct.pack("<2H", 2, 1)
    wanted = np.full((5, 6, 3), 255)
    wanted[1:3, 2:5] = RED
    assert np.array_equal(decode(bytes(data), limits=Limits()).pixels, wanted)


def test_half_transparent_palette_entries_are_mixed():
    """A palette with a table of transparencies is mixed with white, entry by entry."""
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    pixels = decoded(image, "PNG", transparency=bytes([128, 255]))
    assert pixels[0].tolist() == [[127, 127, 127], RED]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(kind):
    """Opaque stays, transparent is white, half is half."""
    how = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert decoded(image, kind, **how)[0].tolist() == [RED, WHITE, [204] * 3]


def test_opaque_alpha_changes_nothing():
    """An alpha channel that is all opaque is as if it were not there."""
    rgb = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(rgb)
    image.putalpha(255)
    assert np.array_equal(decoded(image, "PNG"), rgb)


def test_gray_with_alpha():
    """Gray with alpha is mixed with white too."""
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (0, 0))
    assert decoded(image, "PNG")[0].tolist() == [[100] * 3, WHITE]


@pytest.mark.parametrize(
    ("mode", "colour", "key"),
    [("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0)],
)
def test_colour_key_is_white(mode, colour, key):
    """A PNG that names one colour as transparent shows white there."""
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), 255 if mode != "RGB" else (255, 0, 0))
    pixels = decoded(image, "PNG", transparency=key)
    assert pixels[0, 0].tolist() == WHITE
    assert pixels[0, 1].tolist() == (RED if mode == "RGB" else WHITE)


def test_16_bit_gray_is_scaled_and_rounded():
    """All 65,536 levels are value / 257, rounded, and none is clipped."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decoded(Image.fromarray(values), "PNG")
    assert np.array_equal(pixels[..., 0], np.round(values / 257))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_16_bit_gray_with_a_colour_key():
    """The transparent level of 16-bit gray is white, told apart by all 16 bits."""
    image = Image.fromarray(np.array([[1000, 1001]], np.uint16))
    image.info["transparency"] = 1000
    assert np.asarray(to_rgb(image))[0].tolist() == [WHITE, [4] * 3]


def test_16_bit_colour_is_scaled():
    """16-bit RGB keeps its high bytes, at most one level below the rounded value."""
    values = np.linspace(0, 65535, 3 * 64).astype(">u2").reshape(1, 64, 3)
    chunks = (
        (b"IHDR", struct.pack(">II5B", 64, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + values.tobytes())),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    pixels = decode(data, limits=Limits()).pixels
    assert np.abs(pixels - values / 257).max() <= 1
    assert pixels[0, 0].tolist()[0] == 0
    assert pixels[0, -1].tolist()[2] == 255


def test_plain_rgb_is_not_copied():
    """An image that is RGB already goes on as it is."""
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image
