"""Damaged photos are refused, and whole ones served with any bytes around them."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import Limits, decode, jpeg_markers

LIMITS = Limits()
END = b"\xff\xd9"


def scene(size=(160, 120)):
    """Return an image with edges, slopes and texture, compressed as photos are."""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(float)
    waves = np.sin(x / 7 + y / 11) * 60 + np.random.default_rng(0).normal(
        0, 12, x.shape
    )
    red = 120 + waves + 50 * (x > width / 3)
    return Image.fromarray(
        np.clip(np.stack([red, 255 - red, red * y / height], -1), 0, 255).astype(
            "uint8"
        )
    )


def jpeg(image=None, **how):
    """Return a JPEG's bytes."""
    file = io.BytesIO()
    (image or scene()).save(file, "JPEG", **{"quality": 85, **how})
    return file.getvalue()


JPEGS = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "gray": jpeg(scene().convert("L")),
    "restarts": jpeg(restart_marker_rows=2),
    "own codes": jpeg(optimize=True),
    "four inks": jpeg(scene().convert("CMYK")),
    "progressive inks": jpeg(scene().convert("CMYK"), progressive=True),
    "small": jpeg(scene((24, 16))),
}
WHOLE = {name: decode(data, limits=LIMITS).pixels for name, data in JPEGS.items()}
any_jpeg = pytest.mark.parametrize("name", JPEGS)


def refused(data, **how):
    """Return whether a photo is refused as damaged."""
    try:
        decode(data, limits=LIMITS, **how)
    except UndecodableImage as error:
        assert "damaged or cut short" in str(error)  # noqa: PT017
        return True
    return False


@any_jpeg
@given(share=st.floats(0.0, 0.97), end=st.sampled_from([END, b"", END + b"junk"]))
@settings(max_examples=40, deadline=None)
def test_pixels_that_end_early_are_refused(name, share, end):
    """Missing pixels are refused, also if a device appended an end."""
    data = JPEGS[name]
    scan = jpeg_markers.first_scan(data)
    cut = data[: scan + int(share * (len(data) - scan - 2))]
    if refused(cut + end):
        assert refused(cut + end, at_least=(20, 20))
    else:  # the last byte may be padding alone
        assert share > 0.9
        assert np.array_equal(decode(cut + end, limits=LIMITS).pixels, WHOLE[name])


FILLS = {
    "zeros": bytes(9000),
    "many zeros": bytes(90_000),
    "ones": b"\xff" * 9000,
    "words": b"the last log line, " * 500,
}


@pytest.mark.parametrize("name", sorted(set(JPEGS) - {"small"}))
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("end", [END, b""], ids=["an end", "no end"])
def test_a_fill_in_the_place_of_pixels_is_no_junk(name, fill, end):
    """What a full disk leaves is decoded as pixels, which come out flat."""
    data = JPEGS[name]
    scan = jpeg_markers.first_scan(data)
    for share in (0.0, 0.2, 0.5, 0.8):
        odd = data[: scan + int(share * (len(data) - scan - 2))] + FILLS[fill] + end
        assert refused(odd)
        assert refused(odd, at_least=(20, 20))
    for share in (0.3, 0.6):
        cut = scan + int(share * (len(data) - scan - 2))
        assert refused(data[:cut] + FILLS[fill][: len(data) - cut - 2] + END)


def test_flat_pixels_are_no_fill():
    """Pixels of one colour may be coded as zeros, too, also the last ones."""
    pixels = np.asarray(scene((320, 240))).copy()
    pixels[16:] = 128
    data = jpeg(Image.fromarray(pixels), optimize=True)
    assert data.count(b"\0" * 50)
    wanted = decode(data, limits=LIMITS).pixels
    for end in (b"", END, END + bytes(9000)):
        assert np.array_equal(decode(data[:-2] + end, limits=LIMITS).pixels, wanted)


@any_jpeg
@pytest.mark.parametrize("end", [b"", END], ids=["no end", "an end"])
def test_restarts_that_are_missing_are_counted(name, end):
    """Of rows that are missing behind a restart libjpeg warns as of junk."""
    data = JPEGS["restarts"]
    at = data.index(b"\xff\xd2")
    assert refused(data[:at] + end)
    assert refused(data[:at] + b" " * 500 + end)
    assert jpeg_markers.has_all_restarts(JPEGS[name])


@any_jpeg
def test_a_further_picture_stands_in_for_nothing(name):
    """Scans of a picture behind the end are no scans of the photo."""
    data = JPEGS[name]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        assert refused(data[:at] + END + data)
        assert refused(data[:at] + data)


def film():
    """Return a film's start, with bytes of every value."""
    return b"\0\0\0\x18ftypmp42" + np.random.default_rng(2).bytes(40_000)


@any_jpeg
@pytest.mark.parametrize(
    "tail",
    [
        JPEGS["baseline"],
        JPEGS["progressive"],
        film(),
        b"\xff\xe5\0\4ab",
        bytes(200_000),
    ],
    ids=["picture", "progressive picture", "film", "segment", "zeros"],
)
def test_without_an_end_anything_may_follow(name, tail):
    """The pixels end at a marker that cannot be theirs."""
    odd = JPEGS[name][:-2] + tail
    assert np.array_equal(decode(odd, limits=LIMITS).pixels, WHOLE[name])
    assert decode(odd, limits=LIMITS, at_least=(9, 9)).pixels.shape[2] == 3


def test_a_scan_whose_header_never_ends_is_refused():
    """There is nothing behind it that could be cut off."""
    data = JPEGS["progressive"]
    at = data.rindex(b"\xff\xda")
    for start in (at, data.index(b"\xff\xda")):
        odd = data[: start + 2] + b"\xff\xff" + data[start + 4 :]
        assert refused(odd)
        assert jpeg_markers.without_tail(odd, ended=False) is odd
    assert refused(data[: at + 2] + b"\xff\xff\x03" + b"\x3a\xff\x3a" * 9)


def test_an_odd_marker_before_the_end_is_a_hole():
    """Where a file has its end, other markers among the pixels are damage."""
    data = JPEGS["baseline"]
    assert refused(data[:-40] + b"\xff\x3a" + data[-38:])
    assert refused(data[:-400] + film()[:398] + END)


@any_jpeg
@pytest.mark.parametrize("padding", [b"\0", bytes(5), bytes(3000)], ids=len)
def test_padding_before_any_marker_is_harmless(name, padding):
    """Zeros before a restart, or between two scans, change nothing, and hide nothing."""
    data = JPEGS[name]
    stretches = list(jpeg_markers.stretches(data, ended=True))
    for at in {one.end for one in stretches[:2]}:
        odd = data[:at] + padding + data[at:]
        assert np.array_equal(decode(odd, limits=LIMITS).pixels, WHOLE[name])
        assert not refused(odd, at_least=(20, 20))
        if at < len(data) - 200:
            cut = at + len(padding) + (len(data) - at) // 2
            assert refused(odd[:cut] + END)
        if name != "small":
            assert refused(data[: at - 60] + padding + data[at:])


@any_jpeg
def test_a_scan_that_is_missing_is_noticed(name):
    """A progressive file that was cut between two scans is refused."""
    data = JPEGS[name]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        assert refused(data[:at] + END)


def test_a_hole_that_shifts_the_pixels_is_refused():
    """Most holes are refused; one that comes out even cannot show."""
    data = JPEGS["baseline"]
    scan = jpeg_markers.first_scan(data)
    starts = np.linspace(scan, len(data) - 900, 40).astype(int)
    refusals = [refused(data[:at] + data[at + 800 :]) for at in starts]
    assert sum(refusals) > 30


@any_jpeg
@pytest.mark.parametrize(
    "junk",
    [b"", b"\0", b"\0" * 5000, b"vendor's trailer " * 300, b"<xml/>"],
    ids=["nothing", "a byte", "padding", "words", "a few"],
)
def test_a_whole_photo_that_lacks_its_end_is_served(name, junk):
    """Junk or another end behind the pixels changes nothing."""
    for end in (b"", END, END + b"more of it"):
        odd = JPEGS[name][:-2] + junk + end
        assert np.array_equal(decode(odd, limits=LIMITS).pixels, WHOLE[name])


@any_jpeg
def test_vendor_bytes_behind_the_end_are_harmless(name):
    """Any number of bytes after the end is harmless."""
    odd = JPEGS[name] + np.random.default_rng(1).bytes(100_000)
    assert np.array_equal(decode(odd, limits=LIMITS).pixels, WHOLE[name])


def test_too_much_between_pixels_and_end_is_no_padding():
    """More than 64 KiB before the end are damage."""
    data = JPEGS["baseline"][:-2]
    assert not refused(data + b" " * 65_000 + END)
    assert refused(data + b" " * 70_000 + END)


def segment(code, body):
    """Return a JPEG's segment."""
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "before",
    [
        b"\0\0junk\0",
        segment(0xE1, b"Exif\0\0"),
        segment(0xE0, b"JFIF\0\x07\x01\0\0\x01\0\x01\0\0"),
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
        segment(0xE2, b"ICC_PROFILE\0\x05\x01nonsense"),
        segment(0xFE, b"a comment"),
        b"\xff" * 20,
        segment(0xE0, b"JFIF"),
        segment(0xE0, b"JFIF\0\1"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        segment(0xEE, b"Adobe"),
        segment(0xEE, b"Adobe\0"),
    ],
    ids=[
        "junk",
        "empty EXIF",
        "JFIF 7",
        "Adobe 9",
        "odd ICC",
        "comment",
        "fill",
        "JFIF only",
        "short JFIF",
        "empty ICC",
        "short ICC",
        "short resource",
        "Adobe only",
        "short Adobe",
    ],
)
def test_what_a_header_holds_hides_no_damage(before):
    """Warnings of the header do not hide one of the pixels."""
    data = JPEGS["baseline"]
    at = data.index(b"\xff\xdb")
    odd = data[:at] + before + data[at:]
    assert np.array_equal(decode(odd, limits=LIMITS).pixels, WHOLE["baseline"])
    assert refused(odd[: len(odd) * 2 // 3] + END)


def test_a_photo_is_turned_though_other_metadata_is_too_short():
    """What Pillow stumbles over is left out, and the orientation is not."""
    tiff = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    odd = segment(0xE1, b"Exif\0\0" + tiff) + segment(0xEE, b"Adobe")
    for name in ("baseline", "four inks"):
        data = JPEGS[name]
        image = decode(data[:2] + odd + data[2:], limits=LIMITS)
        assert image.orientation == 6
        assert np.array_equal(image.pixels, np.rot90(WHOLE[name], -1))


@pytest.mark.parametrize(
    "before",
    [
        segment(0xE1, b"Exif\0\0" + bytes(3400)) * 9000,
        segment(0xDB, b"\0" + bytes(64)) * 1900,
        segment(0xFE, b"") * 2100,
    ],
    ids=["EXIF", "tables", "comments"],
)
def test_a_header_without_end_is_refused_before_it_is_read(before):
    """Thousands of segments or tables are refused unread."""
    data = JPEGS["baseline"]
    with pytest.raises(UndecodableImage, match="too long to read"):
        decode(data[:2] + before + data[2:], limits=LIMITS)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_looked_at(data):
    """Any bytes are read without going past the end or running for ever."""
    data = b"\xff\xd8" + data
    scan = jpeg_markers.first_scan(data)
    assert 0 <= scan <= len(data)
    jpeg_markers.clean(data)
    jpeg_markers.has_all_restarts(data)
    jpeg_markers.without_tail(data, ended=False)
    jpeg_markers.has_all_scans(data, 3)
    message = "Corrupt JPEG data: 7 extraneous bytes before marker 0xd9"
    jpeg_markers.is_harmless(message, data, scan, ended=True)
    assert bytes(jpeg_markers.with_end(data, scan)).startswith(data)
