"""What a model found, as objects."""

import pytest

from modelserver.client import Class, Classification, Detections
from support.client_fakes import CAT, DOG


def test_what_is_found_is_shown_by_its_label():
    """The repr is short enough for a prompt."""
    assert repr(CAT) == "Detection('cat', 0.934, box=(0.1, 0.2, 0.5, 0.6))"
    both = Detections((CAT, DOG), "net")
    assert repr(both) == "Detections('net': cat 0.93, dog 0.51)"
    assert repr(Detections((), "net")) == "Detections('net': nothing)"


def test_a_classification_shows_its_classes():
    """The repr shows the classes, if there are any."""
    assert repr(Classification("cat", "net")) == "Classification('cat')"
    classes = (Class(1, "cat", 0.9), Class(2, "dog", 0.1))
    seen = Classification("cat", "net", classes)
    assert repr(seen) == "Classification('cat': cat 0.90, dog 0.10)"


def test_detections_are_a_sequence():
    """Detections can be counted, sliced and looped over, and are equal if their members are."""
    both = Detections((CAT, DOG), "net")
    assert (len(both), both[0], both[-1], both[:1]) == (2, CAT, DOG, (CAT,))
    assert list(both) == [CAT, DOG]
    assert DOG in both
    assert both == Detections((CAT, DOG), "net")
    assert not Detections((), "net")


def test_boxes_are_turned_into_pixels():
    """Sides in x are scaled by the width, sides in y by the height."""
    assert CAT.in_pixels(100, 1000) == pytest.approx((10, 200, 50, 600))
    told = Detections((CAT,), "net", size=(100, 1000))
    assert told.in_pixels() == [CAT.in_pixels(100, 1000)]
    untold = Detections((CAT,), "net")
    assert untold.in_pixels((100, 1000)) == told.in_pixels()


def test_the_servers_word_on_the_size_counts():
    """The server's size wins, because the server has seen the photo upright."""
    told = Detections((CAT,), "net", size=(100, 1000))
    assert told.in_pixels((5, 5)) == told.in_pixels()


def test_without_a_size_there_are_no_pixels():
    """Pixels need a size, unless the boxes are in pixels already."""
    with pytest.raises(ValueError, match="width and height"):
        Detections((CAT,), "net").in_pixels()
    pixels = Detections((CAT,), "net", coordinates="pixel")
    assert pixels.in_pixels() == [CAT.box]
