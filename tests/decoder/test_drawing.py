"""Boxes drawn over a photo."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.messages import Mark
from modelserver.decoder.drawing import colours, draw

GREY = np.full((120, 200, 3), 90, np.uint8)


def drawn(marks, pixels=GREY, form="PNG"):
    """Return the pixels of a photo with some marks."""
    return np.asarray(Image.open(io.BytesIO(draw(pixels, marks, form))))


def test_a_photo_without_marks_stays_as_it_is():
    """A PNG without marks equals the photo, which is not written to."""
    assert np.array_equal(drawn([]), GREY)


def test_a_box_lies_where_it_was_found():
    """The lines have the label's colour, the inside is the photo's."""
    before = GREY.copy()
    picture = drawn([Mark("dog", "dog 90 %", (0.25, 0.5, 0.75, 1.0))])
    colour, _ = colours("dog")
    row, column = round(0.5 * 119), round(0.25 * 199)
    assert tuple(picture[100, column]) == colour
    assert tuple(picture[row, 140]) == colour
    assert tuple(picture[119, 100]) == colour
    assert tuple(picture[90, 120]) == (90, 90, 90)
    assert tuple(picture[100, column - 2]) == (90, 90, 90)
    assert np.array_equal(GREY, before)


def test_the_surest_box_lies_uppermost():
    """The first of two boxes at the same position is seen."""
    box = (0.1, 0.5, 0.9, 0.9)
    picture = drawn([Mark("dog", "", box), Mark("cat", "", box)])
    assert tuple(picture[80, round(0.1 * 199)]) == colours("dog")[0]


def test_a_label_keeps_its_colour_and_its_words_can_be_read():
    """Words are black or white, in contrast to their colour."""
    for label in map(str, range(200)):
        back, ink = colours(label)
        assert (back, ink) == colours(label)
        assert abs(sum(back) / 3 - ink[0]) > 60


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_both_formats_can_be_read_again(form):
    """JPEG and PNG are read back at the photo's size."""
    data = draw(GREY, [Mark("a", "a", (0, 0, 1, 1))], form)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == (form, (200, 120))


SIDE = st.floats(0, 1)


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=30),
    st.tuples(SIDE, SIDE, SIDE, SIDE),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_label_on_any_box_can_be_drawn(words, box, height, width):
    """Flipped boxes, control characters and one-pixel photos are drawn."""
    pixels = np.zeros((height, width, 3), np.uint8)
    assert drawn([Mark(words, words, box)], pixels).shape == pixels.shape
