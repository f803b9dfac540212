"""Boxes drawn over a photo."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modelserver.core.messages import Mark
from modelserver.decoder.drawing import TONES, colour, draw

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
    dog = colour("dog")
    row, column = round(0.5 * 119), round(0.25 * 199)
    assert tuple(picture[100, column]) == dog
    assert tuple(picture[row, 140]) == dog
    assert tuple(picture[119, 100]) == dog
    assert tuple(picture[90, 120]) == (90, 90, 90)
    assert tuple(picture[100, column - 2]) == (90, 90, 90)
    assert np.array_equal(GREY, before)


def test_the_surest_box_lies_uppermost():
    """The first of two boxes at the same position is seen."""
    box = (0.1, 0.5, 0.9, 0.9)
    picture = drawn([Mark("dog", "", box), Mark("cat", "", box)])
    assert tuple(picture[80, round(0.1 * 199)]) == colour("dog")


def luminance(rgb):
    """Return how light a colour is, as WCAG has it."""
    parts = [part / 255 for part in rgb]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_label_keeps_its_colour_and_its_words_can_be_read():
    """White words have a contrast of 4.5 on each colour, and all colours are used."""
    labels = [str(number) for number in range(400)]
    found = {label: colour(label) for label in labels}
    assert found == {label: colour(label) for label in labels}
    assert len(set(found.values())) == len(set(TONES)) == len(TONES)
    assert all(1.05 / (luminance(rgb) + 0.05) >= 4.5 for rgb in found.values())


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
