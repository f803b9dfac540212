"""Two graphs are compared on sample images, within tolerances."""

import numpy as np
import pytest

from modelserver.core.signatures import Signature
from modelserver.runner.rewriting import NEAR, first_difference, sample_images

FLOOR = 0.1


def signature(kind="detection", **changes):
    facts = {"kind": kind, "input": "x:0", "dtype": "uint8", "layout": "NHWC"}
    return Signature(**{**facts, "outputs": {"scores": "y:0"}, **changes})


def detections(*rows, count=None, room=0):
    """Make outputs of a detector from rows of score, class and left edge."""
    table = np.array([*rows, *[(0, 0, 0)] * room], np.float32).reshape(-1, 3)
    boxes = np.zeros((len(table), 4), np.float32)
    boxes[:, 1], boxes[:, 2:] = table[:, 2], 1
    found = {"scores": table[:, 0], "classes": table[:, 1], "boxes": boxes}
    return found if count is None else {**found, "count": np.float32(count)}


def difference(old, new, floor=FLOOR):
    return first_difference(old, new, signature(), floor)


ROWS = [(0.9, 1, 0.1), (0.5, 2, 0.2), (0.5, 1, 0.3)]


def test_the_images_fit_the_graph():
    """They have its size and channels, or two sizes, and are always the same."""
    images = sample_images(signature(size=(24, 32), channels=1))
    assert [image.shape for image in images] == [(24, 32, 1)] * 2
    images = sample_images(signature())
    assert len({image.shape for image in images}) == 2
    for image, again in zip(images, sample_images(signature()), strict=True):
        assert image.dtype == np.uint8
        assert np.array_equal(image, again)


def test_the_scene_has_a_photos_statistics():
    """Neighbours are alike, there are edges, and all brightnesses occur."""
    scene, noise, _ = (image.astype(float) for image in sample_images(signature()))
    steps, noise_steps = (np.abs(np.diff(i[..., 0], axis=1)) for i in (scene, noise))
    assert np.median(steps) < 10
    assert np.median(noise_steps) > 60
    assert (steps > 60).sum() > 100
    assert scene.std() > 30
    assert scene.min() < 30
    assert scene.max() > 220


def test_equal_detections_agree():
    """Equal scores may change their order, and differences within tolerances pass."""
    assert difference(detections(*ROWS), detections(*ROWS)) is None
    assert difference(detections(*ROWS), detections(*ROWS[::-1])) is None
    near = [(score + 9e-5, number, x - 9e-4) for score, number, x in ROWS]
    assert difference(detections(*ROWS), detections(*near)) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0.5002, 2, 0.2), "class 2, score 0.500000"),
        ((0.5, 3, 0.2), "class 2"),
        ((0.5, 2, 0.202), "box .0.0000, 0.2000"),
        ((0.05, 2, 0.2), "is gone"),
    ],
    ids=["score", "class", "box", "gone"],
)
def test_a_detection_that_differs_is_named(row, words):
    """The log shows the detection as it was."""
    new = detections(ROWS[0], row, ROWS[2], room=1)
    found = difference(detections(*ROWS, room=1), new)
    assert words in found.replace("[", ".")


def test_a_new_detection_is_named():
    """It is named even if all old ones are there."""
    new = detections(*ROWS, (0.3, 3, 0), room=1)
    assert "class 3, score 0.300000" in difference(detections(*ROWS, room=2), new)
    assert difference(detections(*ROWS, room=2), new).endswith("is new")


def test_two_that_are_alike_must_both_be_there():
    """One detection stands for one only."""
    old = detections(ROWS[0], ROWS[0], room=1)
    assert "is gone" in difference(old, detections(ROWS[0], room=2))


def test_below_the_floor_and_past_the_count_nothing_is_compared():
    """Such detections are never answered; one at the floor may be on either side."""
    low = [(0.09, 7, 0.4), (0.1, 8, 0.4)]
    old = detections(*ROWS, *low, room=1)
    assert difference(old, detections(*ROWS, room=3)) is None
    assert difference(detections(*ROWS, room=3), old) is None
    counted = detections(*ROWS, (0.8, 9, 0), count=3)
    assert difference(counted, detections(*ROWS, room=1, count=3)) is None
    assert difference(counted, detections(*ROWS, room=1), floor=0.6) is None


def test_where_all_places_are_taken_the_last_may_differ():
    """Which of two equal scores gets the last row is not determined."""
    old, new = detections(*ROWS), detections(*ROWS[:2], (0.5, 9, 0.6))
    assert difference(old, new) is None
    assert "class 9" in difference(detections(*ROWS, room=1), new)
    new = detections(ROWS[1], ROWS[2], (0.5, 9, 0.6))
    assert "score 0.900000" in difference(old, new)


def test_a_score_of_nan_is_no_detection():
    """The server leaves out NaN scores, too."""
    old = detections(*ROWS, (np.nan, 1, 0), (np.inf, 1, 0), (0.7, 1, np.nan))
    assert difference(old, detections(*ROWS, room=3)) is None


def test_no_detections_agree():
    """Neither graph need find anything."""
    assert difference(detections(), detections()) is None
    assert difference(detections(room=3), detections(room=3, count=0)) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([0.2, 0.8], [0.2, 0.8], None),
        ([0.2, 0.8], [[0.20009, 0.79991]], None),
        ([0.2, 0.8], [0.2002, 0.8], "score 0 was 0.2 and is 0.2002"),
        ([0.2, 0.8], [0.2, 0.5, 0.3], "2 scores became 3"),
        ([0.50001, 0.49999], [0.49999, 0.50001], None),
        ([0.50008, 0.49992], [0.49999, 0.50001], "the best class was 0 and is 1"),
        ([np.nan, 0.8], [np.nan, 0.8], None),
        ([np.nan, 0.8], [0.1, 0.8], "other scores are no numbers"),
        ([np.nan], [np.nan], None),
    ],
    ids=str,
)
def test_classifiers_are_compared_by_score_and_best_class(old, new, words):
    """Scores agree within 1e-4; of two best that are equal either may win."""
    found = first_difference(
        {"scores": np.array(old)},
        {"scores": np.array(new)},
        signature("classification"),
        0,
    )
    assert found == words


def near(old, new, **facts):
    """Compare the answers of two devices."""
    return first_difference(old, new, signature(**facts), FLOOR / 10, NEAR)


def test_another_device_may_round_otherwise():
    """Scores may differ by .02, boxes by .01, and no more."""
    old = detections(*ROWS)
    moved = [(score - 0.019, number, x + 0.009) for score, number, x in ROWS]
    assert near(old, detections(*moved)) is None
    assert "gone" in near(old, detections(*[(s - 0.03, n, x) for s, n, x in ROWS]))
    assert "gone" in near(old, detections(*[(s, n, x + 0.02) for s, n, x in ROWS]))


def test_another_device_may_keep_other_faint_boxes():
    """One in ten of those below .1 may be another; never one above."""
    faint = [(0.05, 1, number / 40) for number in range(20)]
    other = [(0.05, 1, 0.9), (0.05, 1, 0.95), (0.05, 1, 0.85)]

    def nearly(old, new):
        return near(detections(*old, room=5), detections(*new, room=5))

    assert nearly(faint, [*faint[2:], *other[:2]]) is None
    assert "gone" in nearly(faint, [*faint[3:], *other])
    assert "0.2" in nearly([(0.2, 1, 0.99), *faint], faint)


def test_logits_of_another_device_are_compared_as_probabilities():
    """The size of logits says nothing about the answers."""
    old = {"scores": np.array([9.0, 2.0, -30.0])}
    new = {"scores": np.array([9.1, 2.3, -28.0])}
    facts = {"kind": "classification", "softmax": True}
    assert near(old, new, **facts) is None
    assert near(old, {"scores": np.array([2.0, 9.0, -30.0])}, **facts)
    assert near(old, {"scores": np.array([np.nan, 9.0, -30.0])}, **facts)
    assert first_difference(old, new, signature(**facts), FLOOR)
