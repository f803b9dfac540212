"""JPEGs that only Pillow decodes: whole to the pixel, damaged refused."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import Limits, decode, jpeg_markers
from support.odd_jpegs import odd_jpeg

LIMITS = Limits()
END = b"\xff\xd9"
# libjpeg reads 57 bits ahead, so the end may be missed by a block or two.
UNSEEN_BYTES = 12
FACTORS = {
    "3x1": ((3, 1), (1, 1), (1, 1)),
    "1x3": ((1, 3), (1, 1), (1, 1)),
    "4x2": ((4, 2), (1, 1), (1, 1)),
    "half of one colour": ((2, 1), (2, 1), (1, 1)),
    "half of the light": ((1, 1), (2, 1), (1, 1)),
}


def scene(height=90, width=170):
    """Return slopes and grain, so that no part of the data is like another."""
    y, x = np.mgrid[:height, :width].astype(float)
    grain = np.random.default_rng(0).normal(0, 12, x.shape)
    light = 120 + 60 * np.sin(x / 7 + y / 11) + grain
    colours = [light, 128 + 50 * np.sin(x / 20), 128 + y / 2]
    return np.clip(np.stack(colours, -1), 0, 255).astype(np.uint8)


FILES = {
    (name, scans, restart): odd_jpeg(scene(), factors, scans=scans, restart=restart)
    for name, factors in FACTORS.items()
    for scans in ("one", "each", "progressive")
    for restart in (0, 1, 5)
}
any_file = pytest.mark.parametrize("key", FILES, ids=str)


def by_pillow(data):
    """Decode as the reference does."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def pixels_of(data, **how):
    """Return the pixels, ``None`` if the photo is refused as damaged."""
    try:
        return decode(data, limits=LIMITS, **how).pixels
    except UndecodableImage as error:
        assert "damaged or cut short" in str(error)  # noqa: PT017
        return None


@any_file
def test_whole_ones_are_served_to_the_pixel(key):
    """Scans, restarts, and bytes behind the pixels make no difference."""
    data = FILES[key]
    wanted = by_pillow(data)
    for tail in (b"", b"\0" * 5000, b"vendor's trailer " * 300):
        for end in (b"", END, END + b"more of it"):
            assert np.array_equal(pixels_of(data[:-2] + tail + end), wanted)
    assert pixels_of(data, at_least=(11, 20)).shape == (12, 22, 3)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 50), (50, 7)])
@pytest.mark.parametrize("scans", ["one", "each", "progressive"])
@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_small_ones_are_served(size, scans, factors):
    """Nothing of a file of a few bytes is taken for junk or for damage."""
    data = odd_jpeg(scene(*size), factors, scans=scans)
    assert np.array_equal(pixels_of(data), by_pillow(data))


@any_file
@given(share=st.floats(0.0, 1.0), end=st.sampled_from([END, b"", END + b"junk"]))
@settings(max_examples=12, deadline=None)
def test_pixels_that_end_early_are_refused(key, share, end):
    """Missing pixels are refused, also if a device appended an end."""
    data = FILES[key]
    scan = jpeg_markers.first_scan(data)
    cut = scan + int(share * (len(data) - 2 - scan - UNSEEN_BYTES))
    assert pixels_of(data[:cut] + end) is None
    assert pixels_of(data[:cut] + end, at_least=(11, 20)) is None


@any_file
@pytest.mark.parametrize("end", [END, b""], ids=["an end", "no end"])
def test_zeros_in_the_place_of_pixels_are_no_junk(key, end):
    """What a full disk leaves is decoded as pixels, which come out flat."""
    data = FILES[key]
    scan = jpeg_markers.first_scan(data)
    for share in (0.1, 0.5, 0.9):
        odd = data[: scan + int(share * (len(data) - 2 - scan))] + bytes(20_000) + end
        assert pixels_of(odd) is None
        assert pixels_of(odd, at_least=(11, 20)) is None


@any_file
def test_without_an_end_anything_may_follow(key):
    """The pixels end at a marker that cannot be theirs."""
    data = FILES[key]
    film = b"\0\0\0\x18ftypmp42" + np.random.default_rng(2).bytes(40_000)
    for tail in (data, film, bytes(200_000)):
        assert np.array_equal(pixels_of(data[:-2] + tail), by_pillow(data))


@any_file
def test_a_scan_or_restart_that_is_missing_is_noticed(key):
    """A file that was cut at a marker is refused, and so is one with a marker less."""
    data = FILES[key]
    start = jpeg_markers.first_scan(data)
    stretches = list(jpeg_markers.stretches(data, ended=True))
    for stretch in stretches[:-1][::7]:
        assert pixels_of(data[: stretch.end] + END) is None
    for before, after in list(itertools.pairwise(stretches))[::11]:
        assert before.end > start
        assert pixels_of(data[: before.end] + data[after.end :]) is None


@pytest.mark.parametrize("name", FACTORS)
def test_a_hole_that_shifts_the_pixels_is_refused(name):
    """Most holes are refused; one that comes out even cannot show."""
    data = FILES[name, "one", 0]
    starts = np.linspace(jpeg_markers.first_scan(data), len(data) - 900, 40).astype(int)
    refusals = [pixels_of(data[:at] + data[at + 800 :]) is None for at in starts]
    assert sum(refusals) > 30


def test_a_sequential_file_without_one_of_its_scans_is_refused():
    """A usual sampling, in a scan for each colour, of which the last is missing."""
    data = odd_jpeg(scene(), ((1, 1),) * 3, scans="each")
    assert np.array_equal(pixels_of(data), by_pillow(data))
    assert pixels_of(data[: data.rindex(b"\xff\xda")] + END) is None


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(deadline=None)
def test_any_bytes_behind_a_header_are_decoded_or_refused(junk, at):
    """Bytes put anywhere among the pixels cause the declared refusal only."""
    data = FILES["3x1", "progressive", 5]
    at += jpeg_markers.first_scan(data)
    pixels_of(data[:at] + junk + data[at:])
    pixels_of(data[:at] + junk)
