"""AVIF and HEIC: photos of phones, and hostile files."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from modelserver.core.errors import (
    ImageTooLarge,
    NotAnImage,
    RequestError,
    UndecodableImage,
)
from modelserver.decoder import Limits, decode, formats

LIMITS = Limits()
KINDS = [kind for kind in ("AVIF", "HEIC") if kind in formats.boxed_formats()]


def encoded(kind, image=None, **how):
    """Return an image's file."""
    image = image or Image.new("RGB", (80, 60), (200, 100, 50))
    file = io.BytesIO()
    if kind == "AVIF":
        image.save(file, "AVIF", speed=10, **how)
    else:
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(image).save(file, quality=90, **how)
    return file.getvalue()


SEEDS = {kind: encoded(kind) for kind in KINDS}


def photo():
    """Return a photo that is red on the left and blue on the right."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 200
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_decoded(kind):
    """The format is known by content, the size by the header."""
    picture = decode(encoded(kind, photo()), limits=LIMITS)
    assert (picture.format, picture.width, picture.height) == (kind, 80, 60)
    assert picture.orientation == 1
    assert picture.pixels.shape == (60, 80, 3)
    assert np.abs(picture.pixels[30, 10].astype(int) - (200, 0, 0)).max() < 20
    assert np.abs(picture.pixels[30, 70].astype(int) - (0, 0, 200)).max() < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_transparent_photo_is_decoded(kind):
    """Alpha, a second image in the file, is laid over white."""
    data = encoded(kind, Image.new("RGBA", (80, 60), (200, 100, 50, 255)))
    assert decode(data, limits=LIMITS).pixels.shape == (60, 80, 3)


def test_a_turned_photo_comes_upright():
    """AVIF's own property for the orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(encoded("AVIF", photo(), exif=exif), limits=LIMITS)
    assert (picture.width, picture.height, picture.orientation) == (60, 80, 6)
    assert np.abs(picture.pixels[10, 30].astype(int) - (200, 0, 0)).max() < 20


def test_a_photo_of_tiles_is_decoded():
    """A photo of tiles, as phones write them, is decoded."""
    pytest.importorskip("pillow_heif")
    data = encoded("HEIC", Image.new("RGB", (300, 200), (200, 100, 50)), tile_size=128)
    assert b"grid" in data
    assert decode(data, limits=LIMITS).pixels.shape == (200, 300, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_alone_rules_out_what_is_too_large(kind, monkeypatch):
    """A large image is refused before any is decoded."""

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(formats.OPENERS["AVIF"], "load", never)
    if kind == "HEIC":
        monkeypatch.setattr(formats.heic_opener(), "load", never)
    for limits in (Limits(max_pixels=4799), Limits(max_header_pixels=4799)):
        with pytest.raises(ImageTooLarge):
            decode(SEEDS[kind], limits=limits)


def resized(data, width, height):
    """Return a file that claims another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def test_an_avif_has_the_size_that_its_head_claims():
    """Its decoder scales what lies in the file, however large that is."""
    large = encoded("AVIF", Image.new("RGB", (1600, 1200)))
    assert decode(resized(large, 64, 48), limits=LIMITS).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"iloc", b"ilox"),
        lambda data: data[: data.index(b"mdat") + 8],
        lambda data: data[:40],
    ],
)
def test_a_file_without_its_parts_is_refused(change):
    """Missing data, or no way to it."""
    changed = change(SEEDS["AVIF"])
    assert changed != SEEDS["AVIF"]
    with pytest.raises(UndecodableImage):
        decode(changed, limits=LIMITS)


def test_a_format_without_its_library_is_no_image(monkeypatch):
    """The error names the formats that can be decoded."""
    monkeypatch.setattr(formats, "boxed_formats", lambda: ("AVIF",))
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(NotAnImage, match="BMP or AVIF image"):
        decode(heic, limits=LIMITS)
    monkeypatch.setattr(formats, "boxed_formats", tuple)
    with pytest.raises(NotAnImage, match="GIF or BMP image"):
        decode(SEEDS["AVIF"], limits=LIMITS)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif", None),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41iso2", None),
        (b"\0\0\0\0ftyp", None),
        (b"ftyp", None),
        (b"", None),
    ],
)
def test_brands_tell_the_format(head, kind):
    """The main brand decides, else the first known compatible one."""
    assert formats._brand(head) == kind


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_bytes_a_picture_comes_or_a_refusal(kind, data):
    """Any bytes give an image or a refusal, and no larger frame."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    changed = bytearray(SEEDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    if data.draw(st.booleans()):
        changed = changed[:cut]
    try:
        picture = decode(bytes(changed), limits=Limits(max_pixels=1 << 20))
    except RequestError:
        return
    assert picture.pixels.size <= 3 << 20
