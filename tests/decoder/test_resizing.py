"""Resizing and gray: checked against Pillow and against plain geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelserver.decoder import resize, source_window, to_gray

SIDES = st.integers(1, 60)
HOW = st.sampled_from(["stretch", "crop", "pad"])


def noise(height, width, channels=3):
    """Return pixels of which no two look alike."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (7, 90), (1, 1), (200, 3)])
def test_stretch_is_pillows_bilinear(size):
    """Stretching gives what Pillow's antialiased bilinear gives, to the bit."""
    pixels = noise(40, 61)
    wanted = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(resize(pixels, size, "stretch"), np.asarray(wanted))


def test_crop_keeps_the_middle():
    """Cropping to a square drops both ends of the longer side evenly."""
    pixels = noise(20, 60)
    assert np.array_equal(
        resize(pixels, (20, 20), "crop"),
        resize(pixels[:, 20:40].copy(), (20, 20), "stretch"),
    )
    tall = pixels.transpose(1, 0, 2).copy()
    assert np.array_equal(resize(tall, (20, 20), "crop"), tall[20:40])


def test_pad_adds_black_at_both_ends():
    """Padding shows the whole image in the middle of black."""
    pixels = np.full((20, 60, 3), 255, np.uint8)
    wide = resize(pixels, (30, 30), "pad")
    assert wide[10:20].min() == 255
    assert wide[:10].max() == wide[20:].max() == 0
    tall = resize(pixels.transpose(1, 0, 2).copy(), (30, 30), "pad")
    assert np.array_equal(tall, wide.transpose(1, 0, 2))


def test_pad_covers_what_lay_in_the_memory():
    """Padding overwrites the image that the memory held before."""
    out = np.full((30, 30, 3), 77, np.uint8)
    resize(np.full((20, 60, 3), 255, np.uint8), (30, 30), "pad", out)
    assert set(np.unique(out)) == {0, 255}


def test_writes_into_the_memory_it_is_given():
    """With ``out`` the result is that array."""
    out = np.zeros((8, 9, 3), np.uint8)
    assert resize(noise(30, 30), (8, 9), "stretch", out) is out
    assert out.any()


def test_same_size_is_a_plain_copy():
    """An image that fits is copied as it is, and never returned itself."""
    pixels = noise(9, 9)
    copy = resize(pixels, (9, 9), "crop")
    assert np.array_equal(copy, pixels)
    assert not np.shares_memory(copy, pixels)


def test_gray_pixels_keep_one_channel():
    """One channel goes in and one comes out."""
    gray = noise(12, 18, 1)
    wanted = Image.fromarray(gray[..., 0]).resize((6, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(resize(gray, (4, 6), "stretch")[..., 0], np.asarray(wanted))


@given(SIDES, SIDES, SIDES, SIDES, HOW)
def test_any_shape_to_any_size(height, width, rows, columns, how):
    """Every combination gives the asked size, strips of one pixel included."""
    out = resize(noise(height, width), (rows, columns), how)
    assert out.shape == (rows, columns, 3)


@given(SIDES, SIDES, SIDES, SIDES, HOW)
def test_window_lies_around_the_middle(height, width, rows, columns, how):
    """Crop looks inside the image, pad outside of it, stretch at all of it."""
    ymin, xmin, ymax, xmax = source_window((height, width, 3), (rows, columns), how)
    tolerance = 1e-9
    if how == "stretch":
        assert (ymin, xmin, ymax, xmax) == pytest.approx((0, 0, 1, 1))
    elif how == "crop":
        assert -tolerance <= ymin < ymax <= 1 + tolerance
        assert -tolerance <= xmin < xmax <= 1 + tolerance
        assert (ymin + ymax, xmin + xmax) == pytest.approx((1, 1))
    else:
        assert max(ymin, xmin) <= tolerance
        assert min(ymax, xmax) >= 1 - tolerance


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (100, 100)])
def test_window_maps_a_box_back(how, shape):
    """A square found in the resized image maps to its spot in the original."""
    pixels = np.zeros((*shape, 3), np.uint8)
    top, left = shape[0] // 2 - 10, shape[1] // 2 - 20
    pixels[top : top + 30, left : left + 30] = 255
    size = (400, 300)
    ymin, xmin, ymax, xmax = source_window(pixels.shape, size, how)
    rows, columns = np.nonzero(resize(pixels, size, how)[..., 0] > 127)
    y = ymin + np.array([rows.min(), rows.max() + 1]) / size[0] * (ymax - ymin)
    x = xmin + np.array([columns.min(), columns.max() + 1]) / size[1] * (xmax - xmin)
    assert y * shape[0] == pytest.approx([top, top + 30], abs=0.5)
    assert x * shape[1] == pytest.approx([left, left + 30], abs=0.5)


def test_gray_is_pillows():
    """Gray is weighed and rounded as Pillow does it."""
    pixels = noise(64, 64)
    wanted = np.asarray(Image.fromarray(pixels).convert("L"))
    gray = to_gray(pixels)
    assert gray.shape == (64, 64, 1)
    assert np.array_equal(gray[..., 0], wanted)
