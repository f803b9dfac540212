"""Orientation: read like Pillow reads it, applied like Pillow applies it."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from modelserver.decoder import Limits, decode
from modelserver.decoder.orientation import copy_upright, orientation_of, turns

TAG = 0x0112
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def noise(height, width):
    """Return pixels of which no two places look alike."""
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def exif(orientation, order="<"):
    """Return EXIF with a few entries around an orientation."""
    block = Image.Exif()
    block.endian = order
    block[0x010F] = "a maker's name that is stored at an offset"
    block[TAG] = orientation
    block[0x0132] = "2020:01:01 00:00:00"
    return block.tobytes()


def by_pillow(data):
    """Decode as the reference does."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_all_orientations_as_pillow_applies_them(kind, how, orientation):
    """Every orientation in every format that has EXIF comes out upright."""
    file = io.BytesIO()
    image = Image.fromarray(noise(23, 41))
    image.save(file, kind, exif=exif(orientation), **how)
    picture = decode(file.getvalue(), limits=Limits())
    assert picture.orientation == orientation
    assert np.array_equal(picture.pixels, by_pillow(file.getvalue()))
    assert picture.pixels.flags.c_contiguous
    assert (picture.height, picture.width) == picture.pixels.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_images_are_turned_the_same(orientation):
    """The copy in squares is whole, also if the last ones are narrower."""
    stored = noise(300, 530)
    shape = (530, 300, 3) if turns(orientation) else (300, 530, 3)
    out = np.zeros(shape, np.uint8)
    copy_upright(stored, orientation, out)
    tagged = Image.fromarray(stored)
    tagged.getexif()[TAG] = orientation
    assert np.array_equal(out, np.asarray(ImageOps.exif_transpose(tagged)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", [0, 1, 6, 8, 9, 65535])
def test_reads_what_pillow_reads(order, value):
    """Either byte order is read; a value that names no orientation is none."""
    block = exif(value, order)
    assert orientation_of({"exif": block}) == (value if 1 <= value <= 8 else 1)
    assert orientation_of({"exif": block.removeprefix(b"Exif\0\0")}) == orientation_of(
        {"exif": block}
    )


def test_long_numbers_count_and_other_types_do_not():
    """An orientation is one whole number; text or several numbers are none."""
    head = b"MM\0*\0\0\0\x08\0\x01\x01\x12"
    assert orientation_of({"exif": head + b"\0\x04\0\0\0\x01\0\0\0\x03"}) == 3
    assert orientation_of({"exif": head + b"\0\x03\0\0\0\x02\0\x03\0\x03"}) == 1
    assert orientation_of({"exif": head + b"\0\x02\0\0\0\x01\x03\0\0\0"}) == 1


def test_directory_that_is_cut_short():
    """Entries before the cut count, as in Pillow, and nothing fails."""
    block = exif(6)
    whole = block.index(b"\x12\x01\x03\x00") + 12
    assert orientation_of({"exif": block[:whole]}) == 6
    assert orientation_of({"exif": block[: whole - 4]}) == 1
    assert orientation_of({"exif": block[:9]}) == 1


def test_damaged_exif_of_a_jpeg_says_nothing_on_stderr():
    """An entry that points outside is passed over; warnings are errors here."""
    block = exif(6)
    entry = block.index(b"\x0f\x01\x02\x00") + 4
    broken = block[:entry] + b"\xff\xff\xff\x7f" + block[entry + 4 :]
    file = io.BytesIO()
    Image.fromarray(noise(8, 16)).save(file, "JPEG", exif=broken)
    picture = decode(file.getvalue(), limits=Limits())
    assert (picture.orientation, picture.width, picture.height) == (6, 8, 16)


@pytest.mark.parametrize("where", ["xmp", "XML:com.adobe.xmp"])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_xmp_counts_where_exif_says_nothing(where, kind):
    """XMP alone turns an image, in either spelling; EXIF goes before it."""
    element = "<tiff:Orientation>8</tiff:Orientation>"
    assert orientation_of({where: kind(XMP.format(6))}) == 6
    assert orientation_of({where: kind(element)}) == 8
    assert orientation_of({where: kind(XMP.format(6)), "exif": exif(3)}) == 3
    assert orientation_of({where: kind(XMP.format(9))}) == 1


def test_xmp_of_a_jpeg_is_applied():
    """A JPEG whose editor wrote only XMP comes out as Pillow turns it."""
    file = io.BytesIO()
    Image.fromarray(noise(8, 16)).save(file, "JPEG", xmp=XMP.format(6).encode())
    picture = decode(file.getvalue(), limits=Limits())
    assert picture.orientation == 6
    assert np.array_equal(picture.pixels, by_pillow(file.getvalue()))


def test_hexadecimal_text_of_a_png():
    """ImageMagick's text form of EXIF is read, and damaged text is none."""
    text = exif(5).hex()
    assert orientation_of({"Raw profile type exif": f"\nexif\n  99\n{text}"}) == 5
    assert orientation_of({"Raw profile type exif": f"\nexif\n  99\nz{text}"}) == 1


def test_info_of_other_types_is_none():
    """Info of an unexpected type is ignored."""
    assert orientation_of({"exif": 3, "xmp": 5, "Raw profile type exif": b"x"}) == 1
    assert orientation_of({}) == 1


@given(st.binary(max_size=64))
@example(b"II*\0\xff\xff\xff\xff")
@example(b"MM\0*\0\0\0\x08\xff\xff")
def test_any_bytes_give_an_orientation(block):
    """Any broken EXIF gives an orientation and fails no request."""
    assert 1 <= orientation_of({"exif": block}) <= 8


@given(st.lists(st.tuples(st.integers(0, 95), st.integers(0, 255)), max_size=3))
def test_damaged_exif_as_pillow_reads_it(changes):
    """Damaged EXIF that Pillow reads without a warning is read the same."""
    block = bytearray(exif(6))
    for place, value in changes:
        block[place % len(block)] = value
    reference = Image.new("RGB", (1, 1))
    reference.info["exif"] = bytes(block)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = reference.getexif().get(TAG)
    except Exception:  # noqa: BLE001 - Pillow gives up in many ways
        value = None
    if isinstance(value, int) and 1 <= value <= 8:
        assert orientation_of({"exif": bytes(block)}) == value
