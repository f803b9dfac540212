"""Decoding: results equal Pillow's, and refusals have their reason."""

import io
import logging
import mmap
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from modelserver.core.errors import ImageTooLarge, NotAnImage, UndecodableImage
from modelserver.decoder import Limits, decode, formats

LIMITS = Limits()
SHARED = Path(
    os.environ.get("MODELSERVER_SHARED_DATA")
    or Path(__file__).parents[3] / "shared" / "data"
)
SHARED_IMAGES = sorted(
    path
    for folder in ("images", "odd_images")
    for path in SHARED.glob(f"{folder}/*")
    if path.is_file()
)
SOF0, SOF2 = b"\xff\xc0", b"\xff\xc2"


def photo(height, width, channels=3):
    """Return something between a photo and noise: smooth colours with grain."""
    y, x = np.mgrid[:height, :width]
    grain = np.random.default_rng(5).integers(0, 60, (height, width, 3))
    waves = np.stack([90 + 80 * np.sin(x / 9), 90 + 80 * np.cos(y / 7), x + y], 2)
    return (waves + grain).clip(0, 255).astype(np.uint8)[..., :channels]


def encoded(pixels, kind="JPEG", **how):
    """Return an image file's bytes."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **how)
    return file.getvalue()


def by_pillow(data):
    """Decode as the reference does, ignoring orientation."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def with_jpeg_size(data, height, width, marker=SOF0):
    """Return a JPEG whose header claims another size."""
    at = data.index(marker) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def png(*chunks):
    """Return a PNG of the given chunks, with right checksums."""
    framed = [
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def png_header(width, height, bits=1, colour=0):
    """Return the IHDR chunk of a PNG."""
    return b"IHDR", struct.pack(">II5B", width, height, bits, colour, 0, 0, 0)


def count_calls(monkeypatch):
    """Count the decodes by simplejpeg that came to an end."""
    done = []
    real = simplejpeg.decode_jpeg

    def counted(*args, **kwargs):
        result = real(*args, **kwargs)
        done.append(result.shape)
        return result

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    return done


def seeds():
    """Return a small file of every format and of several makes of it."""
    small = photo(24, 33)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(small)
    rgba.putalpha(100)
    return {
        "jpeg": encoded(small, exif=exif),
        "progressive": encoded(small, progressive=True),
        "cmyk": encoded(Image.fromarray(small).convert("CMYK")),
        "png": encoded(small, "PNG", exif=exif),
        "palette": encoded(Image.fromarray(small).quantize(16), "PNG", transparency=0),
        "16 bit": encoded(photo(9, 9)[..., 0].astype(np.uint16) * 257, "PNG"),
        "webp": encoded(small, "WEBP", exif=exif.tobytes()),
        "webp alpha": encoded(rgba, "WEBP", lossless=True),
        "gif": encoded(Image.fromarray(small).quantize(32), "GIF", transparency=3),
        "bmp": encoded(small, "BMP"),
    }


SEEDS = seeds()


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (33, 47), (130, 65)])
def test_full_decode_of_a_jpeg_is_pillows(subsampling, size):
    """A JPEG of any subsampling and size equals Pillow's to the bit."""
    colours = "GRAY" if subsampling == "Gray" else "RGB"
    pixels = np.ascontiguousarray(photo(*size, channels=1 if colours == "GRAY" else 3))
    data = simplejpeg.encode_jpeg(pixels, 90, colours, subsampling)
    picture = decode(data, limits=LIMITS)
    assert np.array_equal(picture.pixels, by_pillow(data))
    assert (picture.height, picture.width) == size
    assert (picture.format, picture.orientation) == ("JPEG", 1)


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.integers(5, 100),
)
@settings(max_examples=60, deadline=None)
def test_full_decode_of_any_jpeg_of_pillows(
    height, width, sampling, progressive, quality
):
    """Sizes, qualities and progressive scans make no difference."""
    data = encoded(
        photo(height, width),
        subsampling=sampling,
        progressive=progressive,
        quality=quality,
    )
    assert np.array_equal(decode(data, limits=LIMITS).pixels, by_pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_give_their_pixels(kind):
    """A lossless file gives its pixels, and its format's name."""
    pixels = photo(20, 31)
    how = {"lossless": True} if kind == "WEBP" else {}
    picture = decode(encoded(pixels, kind, **how), limits=LIMITS)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.format.upper() == kind


@pytest.mark.parametrize("wrap", [bytes, memoryview, "mmap"])
@pytest.mark.parametrize("name", ["jpeg", "cmyk", "png", "webp", "gif", "bmp"])
def test_takes_bytes_views_and_maps(name, wrap, tmp_path):
    """Every kind of buffer decodes the same, also twice, and is released."""
    wanted = decode(SEEDS[name], limits=LIMITS).pixels
    if wrap != "mmap":
        assert np.array_equal(decode(wrap(SEEDS[name]), limits=LIMITS).pixels, wanted)
        return
    path = tmp_path / "upload"
    path.write_bytes(SEEDS[name])
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for _ in range(2):
        picture = decode(mapped, limits=LIMITS)
        assert np.array_equal(picture.pixels, wanted)
    mapped.close()


def test_map_of_a_broken_jpeg_is_let_go(tmp_path):
    """A decoder that failed releases its buffer."""
    path = tmp_path / "upload"
    path.write_bytes(SEEDS["jpeg"][:-40])
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with pytest.raises(UndecodableImage):
        decode(mapped, limits=LIMITS)
    mapped.close()


@pytest.mark.parametrize("name", SEEDS)
def test_decodes_into_the_memory_it_is_given(name):
    """The pixels are in ``allocate``'s array, which is asked for once."""
    given_out = []

    def allocate(shape):
        given_out.append(np.full(shape, 9, np.uint8))
        return given_out[-1]

    picture = decode(SEEDS[name], limits=LIMITS, allocate=allocate)
    assert [np.shares_memory(picture.pixels, a) for a in given_out] == [True]
    assert np.array_equal(picture.pixels, decode(SEEDS[name], limits=LIMITS).pixels)


def test_errors_of_the_allocator_pass_through():
    """The caller's own refusal is not taken for a broken image."""

    def allocate(shape):
        raise BufferError("no slot")

    for data in SEEDS.values():
        with pytest.raises(BufferError, match="no slot"):
            decode(data, limits=LIMITS, allocate=allocate)


@pytest.mark.parametrize(
    ("at_least", "wanted"),
    [
        (None, (400, 640)),
        ((400, 640), (400, 640)),
        ((1, 1), (50, 80)),
        ((50, 80), (50, 80)),
        ((51, 80), (100, 160)),
        ((101, 10), (150, 240)),
        ((10, 300), (200, 320)),
        ((201, 320), (400, 640)),
        ((500, 10), (400, 640)),
    ],
)
def test_reduced_decode_keeps_both_sides_long_enough(at_least, wanted):
    """The smallest fast scale with both sides long enough is used."""
    data = encoded(photo(400, 640))
    picture = decode(data, limits=LIMITS, at_least=at_least)
    assert picture.pixels.shape == (*wanted, 3)
    assert (picture.height, picture.width) == (400, 640)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_reduced_decode_counts_upright(orientation):
    """``at_least`` is meant upright, in any orientation of the camera."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = photo(640, 400)
    stored = upright if orientation == 1 else upright.transpose(1, 0, 2)
    picture = decode(encoded(stored, exif=exif), limits=LIMITS, at_least=(300, 50))
    assert picture.pixels.shape == (320, 200, 3)
    assert (picture.height, picture.width) == (640, 400)


def test_reduced_decode_shows_the_same_picture():
    """A reduced decode is near the full one averaged over blocks."""
    data = encoded(photo(256, 256), quality=95)
    reduced = decode(data, limits=LIMITS, at_least=(64, 64)).pixels.astype(int)
    full = by_pillow(data).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - full).mean() < 3


@pytest.mark.parametrize("name", ["png", "webp", "gif", "bmp"])
def test_other_formats_are_decoded_in_full(name):
    """Only JPEG has a cheap reduction."""
    assert decode(SEEDS[name], limits=LIMITS, at_least=(3, 3)).pixels.shape[2] == 3
    full = decode(SEEDS[name], limits=LIMITS)
    assert full.pixels.shape == (full.height, full.width, 3)


def test_slow_scales_are_for_images_over_the_limit_only():
    """5/8 is slower than a full decode, but brings an image under the limit."""
    data = encoded(photo(400, 640))
    tight = Limits(max_pixels=250 * 400)
    assert decode(data, limits=LIMITS, at_least=(210, 10)).pixels.shape[0] == 400
    assert decode(data, limits=tight, at_least=(210, 10)).pixels.shape[0] == 250


@pytest.mark.parametrize("colours", ["CMYK", "YCCK"])
def test_four_inks_become_what_pillow_makes_of_them(colours):
    """Four-ink JPEGs, inverted as Adobe writes them, give Pillow's colours."""
    data = encoded(Image.fromarray(photo(40, 50)).convert("CMYK"))
    if colours == "YCCK":
        at = data.index(b"Adobe") + 11
        data = data[:at] + b"\x02" + data[at + 1 :]
    assert simplejpeg.decode_jpeg_header(data)[2] == colours
    assert np.array_equal(decode(data, limits=LIMITS).pixels, by_pillow(data))


def test_four_inks_are_reduced_too():
    """Four-ink JPEGs are reduced at the same scales."""
    data = encoded(Image.fromarray(photo(400, 640)).convert("CMYK"))
    picture = decode(data, limits=LIMITS, at_least=(90, 90))
    assert picture.pixels.shape == (100, 160, 3)
    assert (picture.height, picture.width) == (400, 640)


def test_most_jpegs_go_through_simplejpeg(monkeypatch):
    """Ordinary JPEGs go through the fast decoder."""
    done = count_calls(monkeypatch)
    decode(SEEDS["jpeg"], limits=LIMITS)
    decode(SEEDS["progressive"], limits=LIMITS)
    assert len(done) == 2


def test_junk_between_segments_is_passed_over(monkeypatch):
    """Junk is removed before decoding, so that damage still shows."""
    done = count_calls(monkeypatch)
    data = encoded(photo(24, 33))
    at = data.index(b"\xff\xdb")
    odd = data[:at] + b"junk" + data[at:]
    assert np.array_equal(decode(odd, limits=LIMITS).pixels, by_pillow(data))
    assert done == [(24, 33, 3)]
    with pytest.raises(UndecodableImage, match="damaged"):
        decode(odd[: len(odd) * 3 // 4] + b"\xff\xd9", limits=LIMITS)


def test_a_photo_is_decoded_once_whatever_lies_behind_its_pixels():
    """Bytes after the pixels cause no second decode."""
    shapes = []

    def allocate(shape):
        shapes.append(shape)
        return np.zeros(shape, np.uint8)

    data = encoded(photo(64, 64))
    odd = data[:-2] + b"\x12\x34\x56" + data[-2:]
    picture = decode(odd, limits=LIMITS, allocate=allocate)
    assert np.array_equal(picture.pixels, by_pillow(odd))
    assert shapes == [(64, 64, 3)]


def test_phones_jpegs_with_more_pictures_inside(monkeypatch):
    """An MPO is the JPEG that it begins with, by the fast decoder."""
    done = count_calls(monkeypatch)
    first, second = photo(48, 64), photo(24, 32)
    data = encoded(first, "MPO", save_all=True, append_images=[Image.fromarray(second)])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    picture = decode(data, limits=LIMITS)
    assert picture.format == "JPEG"
    assert np.array_equal(picture.pixels, by_pillow(data))
    assert done == [(48, 64, 3)]


def test_two_readers_that_disagree_go_through_pillow(monkeypatch):
    """Pillow decodes a file in which the two see different sizes."""
    real = simplejpeg.decode_jpeg_header
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg_header", lambda *a, **k: (7, 7, *real(*a, **k)[2:])
    )
    picture = decode(SEEDS["jpeg"], limits=LIMITS)
    assert np.array_equal(
        picture.pixels, by_pillow(SEEDS["jpeg"]).transpose(1, 0, 2)[:, ::-1]
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"hello, this is a text",
        b"BM, the cars: a text that starts like a BMP",
        b"GIF88a" + bytes(20),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"%PDF-1.7 ",
        b"II*\0\x08\0\0\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x0cjP  \r\n\x87\n",
    ],
)
def test_other_content_is_not_an_image(data):
    """Content of none of the five formats is not an image."""
    with pytest.raises(NotAnImage):
        decode(data, limits=LIMITS)


def test_other_formats_of_pillow_are_not_served():
    """Formats outside of the five are refused though Pillow could read them."""
    for kind in ("TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000"):
        with pytest.raises(NotAnImage):
            decode(encoded(photo(16, 16), kind), limits=LIMITS)


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("twentieths", range(20))
def test_cut_short_is_refused_or_decoded(name, twentieths):
    """A cut file is refused as documented, or decoded at its whole size."""
    data = SEEDS[name]
    whole = decode(data, limits=LIMITS).pixels.shape
    try:
        picture = decode(data[: len(data) * twentieths // 20], limits=LIMITS)
    except (NotAnImage, UndecodableImage):
        return
    assert picture.pixels.shape == whole


@pytest.mark.parametrize("name", ["jpeg", "progressive", "cmyk", "png", "webp", "bmp"])
def test_half_a_file_is_undecodable(name):
    """Half a photo is not served as a photo with a gray half."""
    data = SEEDS[name]
    with pytest.raises(UndecodableImage, match=r"data is damaged or cut short\.$"):
        decode(data[: len(data) // 2], limits=LIMITS)


def test_refusals_are_logged_with_the_reason(caplog):
    """The client gets one sentence; the log has the decoder's own words."""
    caplog.set_level(logging.DEBUG, "modelserver.decoder")
    with pytest.raises(UndecodableImage):
        decode(SEEDS["png"][:60], limits=LIMITS)
    assert caplog.records[0].image_format == "PNG"
    assert caplog.records[0].exc_info


@pytest.mark.parametrize("name", SEEDS)
def test_any_damage_is_a_refusal(name):
    """Any changed bytes cause the three refusals only."""
    limits = Limits(max_pixels=200_000, max_header_pixels=400_000)
    size = len(SEEDS[name])
    # Half of the changes hit the first bytes, where the structure is.
    places = st.one_of(st.integers(0, min(size, 100) - 1), st.integers(0, size - 1))

    @given(
        st.lists(st.tuples(places, st.integers(0, 255)), max_size=4),
        st.integers(0, size),
        st.sampled_from([None, (8, 8)]),
    )
    @settings(max_examples=60, deadline=None)
    def check(changes, cut, at_least):
        data = bytearray(SEEDS[name])
        for place, value in changes:
            data[place] = value
        if cut % 2:
            del data[cut:]
        try:
            picture = decode(bytes(data), limits=limits, at_least=at_least)
        except (NotAnImage, UndecodableImage, ImageTooLarge):
            return
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.size <= 3 * limits.max_pixels

    check()


def test_header_limit_is_checked_before_decoding():
    """A few bytes that claim 81 million pixels are refused by their header."""
    for data in (
        png(png_header(9000, 9000), (b"IDAT", b"")),
        png(png_header(20_000, 20_000), (b"IDAT", b"")),
        with_jpeg_size(encoded(photo(16, 16)), 9000, 9000),
        encoded(photo(1, 1), "GIF")[:6]
        + struct.pack("<HH", 9000, 9000)
        + encoded(Image.new("P", (1, 1)), "GIF")[10:],
    ):
        with pytest.raises(ImageTooLarge):
            decode(data, limits=LIMITS)


def test_limits_count_what_is_decoded():
    """A photo over the limit is served if a reduced decode is under it."""
    data = encoded(photo(400, 640))
    limits = Limits(max_pixels=200 * 320, max_header_pixels=400 * 640)
    assert decode(data, limits=limits, at_least=(200, 200)).pixels.shape[0] == 200
    for at_least in (None, (201, 10)):
        with pytest.raises(ImageTooLarge, match="640 x 400"):
            decode(data, limits=Limits(max_pixels=100 * 150), at_least=at_least)
    with pytest.raises(ImageTooLarge, match="at most 255999"):
        decode(data, limits=Limits(max_header_pixels=255_999), at_least=(9, 9))


def test_limits_at_the_border():
    """Exactly as many pixels as allowed are allowed."""
    data = SEEDS["png"]
    assert decode(data, limits=Limits(max_pixels=24 * 33))
    with pytest.raises(ImageTooLarge):
        decode(data, limits=Limits(max_pixels=24 * 33 - 1))


def test_jpeg_of_many_scans_must_fit_in_memory_whole():
    """A reduction does not help if the decoder holds the full image."""
    big = (8000, 8000)
    baseline = encoded(photo(16, 16))
    progressive = encoded(photo(16, 16), progressive=True)
    scan = baseline.index(b"\xff\xda")
    one_component = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    separate = baseline[:scan] + one_component + baseline[scan + 14 :]
    for data in (
        with_jpeg_size(progressive, *big, SOF2),
        with_jpeg_size(separate, *big),
    ):
        with pytest.raises(ImageTooLarge, match="at most 50000000"):
            decode(data, limits=LIMITS, at_least=(600, 600))
    plain = encoded(np.full((*big, 3), 100, np.uint8))
    reduced = decode(plain, limits=LIMITS, at_least=(600, 600))
    assert reduced.pixels.shape == (1000, 1000, 3)


def test_strips_have_a_longest_side():
    """A very long strip is refused with its reason; others are served."""
    strip = encoded(np.zeros((1, 10_000, 3), np.uint8), "PNG")
    assert decode(strip, limits=LIMITS).pixels.shape == (1, 10_000, 3)
    with pytest.raises(UndecodableImage, match="9999"):
        decode(strip, limits=Limits(max_side=9_999))


def test_empty_extents_are_undecodable():
    """An image of no height is no image."""
    for data in (
        png(png_header(5, 0), (b"IDAT", b"")),
        with_jpeg_size(encoded(photo(16, 16)), 0, 16),
    ):
        with pytest.raises(UndecodableImage):
            decode(data, limits=LIMITS)


def test_text_bombs_are_never_unpacked():
    """Compressed text that grows without end is ignored at any position."""
    bomb = b"key\0\0" + zlib.compress(bytes(80_000_000), 9)
    pixel = (b"IDAT", zlib.compress(b"\0\0"))
    for chunks in (((b"zTXt", bomb), pixel), (pixel, (b"zTXt", bomb))):
        assert decode(png(png_header(1, 1, 8), *chunks, (b"IEND", b"")), limits=LIMITS)


@pytest.mark.parametrize("extent", [65_535, 11_000])
def test_frame_far_outside_of_its_gif(extent):
    """A GIF's frame that would blow up the canvas is refused without a warning."""
    data = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    at = data.index(b",", 13)
    data[at + 1 : at + 9] = struct.pack("<4H", extent - 1, extent - 1, 1, 1)
    with pytest.raises((UndecodableImage, ImageTooLarge)):
        decode(bytes(data), limits=LIMITS)


def test_12_bit_jpeg_is_undecodable():
    """Medical 12-bit JPEGs are refused in words, not misread."""
    data = encoded(photo(16, 16))
    at = data.index(SOF0) + 4
    with pytest.raises(UndecodableImage):
        decode(data[:at] + b"\x0c" + data[at + 1 :], limits=LIMITS)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(kind, monkeypatch):
    """Only the first frame counts, and no other is looked at."""
    colours = ["red", "lime", "blue"]
    frames = [Image.new("RGB", (8, 8), colour) for colour in colours]
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)

    def no_seek(self, frame):
        raise AssertionError

    opener = formats.OPENERS["WebP" if kind == "WEBP" else kind]
    monkeypatch.setattr(opener, "seek", no_seek)
    assert decode(data, limits=LIMITS).pixels[4, 4].tolist() == [255, 0, 0]


def test_polyglots_are_the_image_they_begin_with():
    """A JPEG with an archive behind it is a JPEG."""
    pixels = decode(SEEDS["jpeg"], limits=LIMITS).pixels
    odd = SEEDS["jpeg"] + b"PK\x03\x04" + bytes(100)
    assert np.array_equal(decode(odd, limits=LIMITS).pixels, pixels)


@pytest.mark.parametrize("path", SHARED_IMAGES, ids=lambda path: path.name)
def test_files_from_the_field(path):
    """Real and odd files decode as Pillow decodes them, or are refused in words."""
    data = path.read_bytes()
    try:
        picture = decode(data, limits=LIMITS)
    except (NotAnImage, UndecodableImage, ImageTooLarge):
        return
    assert picture.pixels.shape == (picture.height, picture.width, 3)
    if picture.format == "JPEG" and "mpo" not in path.name:
        with Image.open(io.BytesIO(data)) as image:
            wanted = ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(picture.pixels, np.asarray(wanted))


def test_page_on_images_names_the_limits():
    """The documentation tells the limits that are in force."""
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    for limit in (LIMITS.max_pixels, LIMITS.max_header_pixels, LIMITS.max_side):
        assert f"{limit:,}" in page
