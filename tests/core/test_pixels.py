"""Resizing as TensorFlow does it, and PNG, in NumPy alone."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.pixels import encode_png, sample
from support.app_client import noise

FLAGS = {"corner": {}, "centre": {"half_pixel_centers": True}}
FLAGS["ends"] = {"align_corners": True}
SIDES = st.integers(1, 40)


def by_tensorflow(pixels, size, sampling):
    """Return a graph's own resize of an image: float32 [height, width, C]."""
    return tf.raw_ops.ResizeBilinear(
        images=pixels[None].astype(np.float32), size=size, **FLAGS[sampling]
    ).numpy()[0]


@given(
    st.tuples(SIDES, SIDES),
    st.tuples(SIDES, SIDES),
    st.sampled_from(sorted(FLAGS)),
    st.sampled_from([1, 3]),
)
def test_any_size_becomes_any_other_as_in_tensorflow(shape, size, sampling, channels):
    """Any resize equals TensorFlow's, but for rounding."""
    pixels = np.ascontiguousarray(noise(shape)[..., :channels])
    made = sample(pixels, size, sampling)
    assert made.shape == (*size, channels)
    gap = np.abs(made.astype(np.float32) - by_tensorflow(pixels, size, sampling))
    assert gap.max() <= 0.502


@pytest.mark.parametrize("sampling", sorted(FLAGS))
@pytest.mark.parametrize("shape", [(480, 640), (3024, 4032), (300, 451), (200, 150)])
def test_photos_become_a_detectors_input(shape, sampling):
    """Photos of usual sizes are resized into given memory."""
    pixels, out = noise(shape), np.zeros((300, 300, 3), np.uint8)
    assert sample(pixels, (300, 300), sampling, out) is out
    gap = np.abs(out.astype(np.float32) - by_tensorflow(pixels, (300, 300), sampling))
    assert gap.max() <= 0.51


@given(st.tuples(SIDES, SIDES), st.sampled_from(sorted(FLAGS)))
def test_what_has_the_size_already_stays_as_it_is(shape, sampling):
    """An image of that size stays the same to the byte."""
    pixels = noise(shape)
    made = sample(pixels, shape, sampling)
    assert made is not pixels
    assert np.array_equal(made, pixels)
    assert np.array_equal(by_tensorflow(pixels, shape, sampling), pixels)


@given(SIDES, SIDES, st.sampled_from([1, 3]))
def test_png_is_read_back_the_same(height, width, channels):
    """Pixels written as PNG are read back the same."""
    pixels = np.ascontiguousarray(noise((height, width))[..., :channels])
    with Image.open(io.BytesIO(encode_png(pixels)), formats=("PNG",)) as image:
        image.load()
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
