"""The middle of a photo equals that of Custom Vision's own code, to the pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver import decoder


def pixel(photo, x, y, ratio, origin):
    """Return one pixel between its four neighbours, as in that code."""
    found = []
    for place, start, length in (
        (x, origin[0], photo.shape[1]),
        (y, origin[1], photo.shape[0]),
    ):
        delta = (place + 0.5) * ratio - 0.5
        low = int(delta)
        delta -= low
        low += start
        high = low + 1
        if low < 0:
            low, high, delta = 0, 0, 0.0
        elif low >= length - 1:
            low, high, delta = length - 1, length - 1, 0.0
        found.append((low, high, delta))
    (left, right, across), (top, bottom, down) = found
    above = across * photo[top, right] + (1.0 - across) * photo[top, left]
    below = across * photo[bottom, right] + (1.0 - across) * photo[bottom, left]
    return np.clip(down * below + (1.0 - down) * above, 0, 255).astype(np.uint8)


def reference(photo, size):
    """Scale down to 1600, bring the middle square to 256, cut out the middle."""
    width, height = photo.shape[1], photo.shape[0]
    if height >= 1600 or width >= 1600:
        longer = max(height, width)
        scaled = (
            (1600 * width // height, 1600)
            if height > width
            else (1600, 1600 * height // width)
        )
        enough = 1600 / longer >= 0.5
        how = Image.Resampling.BILINEAR if enough else Image.Resampling.BICUBIC
        photo = np.asarray(Image.fromarray(photo).resize(scaled, how))
        height, width = photo.shape[:2]
    ratio = min(height, width) / 256.0
    origin = int(0.5 * (width - ratio * 256)), int(0.5 * (height - ratio * 256))
    start = max(0, 256 // 2 - size // 2 - 1)
    return np.array(
        [
            [pixel(photo, x, y, ratio, origin) for x in range(start, start + size)]
            for y in range(start, start + size)
        ]
    )


def noise(height, width):
    random = np.random.default_rng(height * 10000 + width)
    return random.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [224, 227])
@pytest.mark.parametrize(
    "shape",
    [(480, 640), (641, 479), (300, 300), (1600, 900), (1200, 2001), (3500, 400)],
)
def test_it_is_the_exports_own_code_to_the_pixel(shape, size):
    photo = noise(*shape)
    made = decoder.crop_from(photo, 256, (size, size))
    np.testing.assert_array_equal(made, reference(photo, size))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_small_photos_of_any_shape_are_enlarged_alike(height, width):
    photo = noise(height, width)
    made = decoder.crop_from(photo, 256, (24, 24))
    np.testing.assert_array_equal(made, reference(photo, 24))


def test_it_is_written_into_memory_that_is_given():
    out = np.zeros((227, 227, 3), np.uint8)
    photo = noise(500, 400)
    assert decoder.crop_from(photo, 256, (227, 227), out) is out
    np.testing.assert_array_equal(out, decoder.crop_from(photo, 256, (227, 227)))
