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
from modelserver.decoder import Limits, coded_units, containers, decode, formats

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


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_holds_more_than_it_claims_is_refused(kind):
    """A file whose image is larger than its claim is refused."""
    large = encoded(kind, Image.new("RGB", (1600, 1200)))
    with pytest.raises(UndecodableImage):
        decode(resized(large, 64, 64), limits=LIMITS)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"av01Color", b"iovlColor"),
        lambda data: data.replace(b"iloc", b"ilox"),
        lambda data: data.replace(b"pitm", b"iprp"),
        lambda data: data + b"\0\0\0\x08moov",
        lambda data: data + data[data.index(b"meta") - 4 :],
        lambda data: data[: data.index(b"mdat") + 8],
        lambda data: data[:40],
    ],
)
def test_a_structure_that_nobody_writes_is_refused(change):
    """Overlays, films, two heads and missing data are refused."""
    changed = change(SEEDS["AVIF"])
    assert changed != SEEDS["AVIF"]
    with pytest.raises(containers.BadContainerError):
        containers.check(changed, "AVIF")
    with pytest.raises(UndecodableImage):
        decode(changed, limits=LIMITS)


def largest(content, kind, limit=100):
    return containers._largest_frame(content, kind, iter(range(limit)))


def test_a_picture_of_many_frames_is_refused():
    """An image of many frames is refused: libde265 would decode each."""
    unit = struct.pack(">I", 3) + bytes([1 << 1, 1, 0x80])
    slices = struct.pack(">I", 3) + bytes([1 << 1, 1, 0x00])
    assert largest(unit + slices * 9, "HEIC") == 0
    for content in (unit * 5, slices, b"", unit[:-1], unit + b"\0\0"):
        with pytest.raises((containers.BadContainerError, struct.error)):
            largest(content, "HEIC")
    frame = bytes([6 << 3 | 2, 1, 0])
    assert largest(frame * 4, "AVIF") == 0
    with pytest.raises(containers.BadContainerError):
        largest(b"\x12\0" * 50 + frame, "AVIF", 50)
    for content in (frame * 5, frame[:-1], b"\x32" + b"\xff" * 8, b"\x12\0"):
        with pytest.raises(containers.BadContainerError):
            largest(content, "AVIF")


def sequence_header(bits):
    """Return a sequence header of AV1 of zeros and ones."""
    bits = bits.replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_av1_tells_its_size_in_either_form():
    """The size is read from the short header and the whole one."""
    sides = f"{6:04b} {6:04b} {99:07b} {49:07b}"
    assert coded_units.size_of_av1(sequence_header(f"000 1 1 01000 {sides}")) == (
        100,
        50,
    )
    points = f"{1:05b} {0:012b} {9:05b} 1 1 0011 {0:012b} {4:05b} 0"
    whole = f"000 1 0 0 1 {points} {sides}"
    assert coded_units.size_of_av1(sequence_header(whole)) == (100, 50)
    for bad in (f"000 1 0 1 {sides}", "000 1 1 01000"):
        with pytest.raises(containers.BadContainerError):
            coded_units.size_of_av1(sequence_header(bad))


def test_what_is_packed_within_is_refused():
    """A packed item is refused, as it might unpack to anything."""
    entry = struct.pack(">B3xHH4s", 2, 7, 0, b"mime") + b"\0application/rdf+xml\0"
    for encoding, fine in ((b"", True), (b"\0", True), (b"deflate\0", False)):
        box = struct.pack(">I4s", 8 + len(entry + encoding), b"infe") + entry + encoding
        data = bytes(4) + b"\0\x01" + box
        head = containers.Head()
        if fine:
            containers._Reader(data)._read_items(0, len(data), head)
            assert head.items == {7: b"mime"}
        else:
            with pytest.raises(containers.BadContainerError):
                containers._Reader(data)._read_items(0, len(data), head)


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
    assert containers.brand(head) == kind


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


FRAME = bytes([6 << 3 | 2, 1, 0])


def box(kind, *content, wide=False, open_end=False):
    """Return a box; ``wide`` has its length in 64 bits, ``open_end`` none at all."""
    inner = b"".join(content)
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(inner)) + inner
    return struct.pack(">I4s", 0 if open_end else 8 + len(inner), kind) + inner


def built(iloc, *, idat=b"", version=2, kind=b"av01", data=FRAME, **how):
    """Return an AVIF's boxes around one item, 16 bytes before the end."""
    number = struct.pack(">I" if version == 3 else ">H", 1)
    entry = box(b"infe", bytes([version, 0, 0, 0]), number, b"\0\0", kind, b"\0")
    items = box(b"iinf", bytes(4), b"\0\1", entry)
    size = box(b"ispe", bytes(4), struct.pack(">II", 80, 60))
    meta = box(
        b"meta",
        bytes(4),
        items,
        box(b"iprp", box(b"ipco", size)),
        box(b"idat", idat) if idat else b"",
        box(b"iloc", iloc),
    )
    return box(b"ftyp", b"avif", bytes(4)) + meta + box(b"mdat", data, **how)


def located(offset, length, *, version=0, method=0, sizes=0x4400, count=1, number=1):
    """Return the location of an item, in one of the format's three versions."""
    wide = ">I" if version == 2 else ">H"
    one = struct.pack(wide, number)
    one += struct.pack(">H", method) if version else b""
    one += b"\0\0" + struct.pack(">HII", 1, offset, length)
    head = bytes([version, 0, 0, 0]) + struct.pack(">H", sizes)
    return head + struct.pack(wide, count) + one * count


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("how", [{}, {"wide": True}, {"open_end": True}])
def test_data_is_found_however_it_is_placed(version, how):
    """An item is found by each version of the table."""
    whole = built(located(0, 3, version=version), **how)
    at = whole.rindex(FRAME)
    assert (
        containers.check(built(located(at, 3, version=version), **how), "AVIF") == 4800
    )
    inside = built(located(0, 3, version=1, method=1), idat=FRAME, version=3)
    assert containers.check(inside, "AVIF") == 4800


@pytest.mark.parametrize(
    "data",
    [
        built(located(0, 0)),
        built(located(1 << 30, 3)),
        built(located(0, 3, version=1, method=1)),
        built(located(0, 3, version=1, method=2)),
        built(located(0, 3, version=3)),
        built(located(0, 3, sizes=0x3300)),
        built(located(0, 3, count=2)),
        built(located(0, 3, number=2)),
        built(located(0, 3)[:-2]),
        built(located(0, 3, count=2000)),
        built(located(0, 3), version=1),
        built(located(0, 3), kind=b"iden"),
        built(located(0, 3, count=900), data=bytes(3000)),
        built(located(0, 3000, count=5), data=bytes(3000)),
        built(located(0, 3)).replace(b"iprp", b"free"),
        built(located(0, 3))[:-1],
    ],
)
def test_data_that_cannot_be_found_is_refused(data):
    """An item outside of the read data is refused."""
    with pytest.raises(containers.BadContainerError):
        containers.check(data, "AVIF")


def test_one_items_data_may_not_be_asked_for_again_and_again():
    """Items that repeat the same data without end are refused."""
    many = 60_000
    table = bytes([0, 0, 0, 0]) + struct.pack(">HHH2xH", 0x4400, 1, 1, many)
    with pytest.raises(containers.BadContainerError):
        containers.check(built(table + struct.pack(">II", 0, 50) * many), "AVIF")
    with pytest.raises(containers.BadContainerError):
        containers.check(built(table + struct.pack(">II", 0, 0) * many), "AVIF")
