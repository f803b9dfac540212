"""Non-maximum suppression starts from a floor under the scores."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.runner.rewriting.passthrough import strip_passthrough
from modelserver.runner.rewriting.suppression import raise_thresholds
from support.rewriting_runs import Trial
from support.suppression_graphs import (
    BOXES,
    CLASSES,
    FLOOR,
    KINDS,
    NAMES,
    ROWS,
    SCOPE,
    combined,
    exported,
    heads,
    noise,
    outputs,
)
from support.tiny_graphs import building

v1 = tf.compat.v1


def trial(graph):
    made = Trial(graph, NAMES)
    made.apply(strip_passthrough)
    return made


def raised(made, floor=FLOOR):
    return made.apply(lambda draft: raise_thresholds(draft, NAMES[1], floor))


def above(values, floor=FLOOR):
    """Return the detections of each image at or above the floor, best first."""
    boxes, scores, classes, counts = values
    found = []
    for image, count in enumerate(np.reshape(counts, -1).astype(int)):
        keep = scores[image][:count] >= np.float32(floor)
        rows = [scores[image][:count], classes[image][:count]]
        rows = np.column_stack([*rows, boxes[image][:count]])[keep]
        found.append(rows[np.lexsort(rows.T[::-1])])
    return found


def assert_same_above(made, feed, floor=FLOOR):
    before, after = made.run(feed)
    for old, new in zip(above(before, floor), above(after, floor), strict=True):
        assert len(old)
        np.testing.assert_array_equal(new, old)
    assert after[3].sum() < before[3].sum()
    assert after[1][after[1] > 0].min() >= np.float32(floor)


@pytest.mark.parametrize("options", [{}, {"pad_per_class": True}], ids=["", "padded"])
def test_detections_at_or_above_the_floor_are_the_same(options):
    """Detections that equal the floor stay, too; those below are padding."""
    made = trial(combined(**options))
    assert raised(made) == 1
    for seed in range(5):
        assert_same_above(made, noise(seed, images=2))


def test_a_higher_threshold_stays():
    """The operator or the exporter asked for it."""
    assert raised(trial(combined(0.3))) == 0
    assert raised(trial(combined(0.2))) == 1


def test_a_threshold_that_is_no_constant_stays():
    """A threshold that is computed or fed stays."""
    with building() as graph:
        x = v1.placeholder(tf.float32, (None, BOXES, 7), "x")
        boxes, scores = heads(x)
        made = tf.image.combined_non_max_suppression(
            boxes[:, :, None], scores, 20, ROWS, score_threshold=tf.reduce_min(x)
        )
        outputs(*made)
    assert raised(trial(graph)) == 0


def moved(boxes, scores, classes, count):
    """Change outputs as exporters do: add 1, cut, fill up, reshape, count as floats."""
    classes = tf.pad(classes[:, :20] + 1, [[0, 0], [0, 5]])
    scores = tf.squeeze(tf.expand_dims(tf.pad(scores[:, :20], [[0, 0], [0, 5]]), 0), 0)
    boxes = tf.gather(boxes, tf.range(25), axis=1) * 2 - boxes[:, :25]
    scores = tf.concat([scores[:, :10], scores[:, 10:]], 1)
    outputs(boxes, tf.reshape(scores, [-1, 25]), classes, tf.cast(count, tf.float32))


def test_moving_and_counting_behind_it_is_followed():
    """Each box is still by itself."""
    made = trial(combined(end=moved))
    assert raised(made) == 1
    before, after = made.run(noise())
    keep = before[1] >= FLOOR
    for old, new in zip(before[:3], after[:3], strict=True):
        np.testing.assert_array_equal(new[keep], old[keep])


def scaled_scores(boxes, scores, classes, count):
    outputs(boxes, scores * 2, classes, count)


def relative_scores(boxes, scores, classes, count):
    outputs(boxes, scores, classes / tf.reduce_sum(classes), count)


def other_scores(boxes, scores, classes, count):
    outputs(boxes, classes, scores, count)


def counted_boxes(boxes, scores, classes, count):
    outputs(boxes / tf.cast(tf.shape(scores)[1], tf.float32), scores, classes, count)


def by_count(boxes, scores, classes, count):
    outputs(boxes, scores[:, : count[0]], classes, count)


@pytest.mark.parametrize(
    "end",
    [scaled_scores, relative_scores, other_scores, counted_boxes, by_count],
    ids=lambda end: end.__name__,
)
def test_computing_with_scores_or_between_boxes_stops_it(end):
    """A box below the floor may then change the answers."""
    assert raised(trial(combined(end=end))) == 0


def test_no_floor_changes_nothing():
    """Every box is answered without a floor."""
    assert raised(trial(combined(0.0)), floor=0.0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_detection_apis_suppressions_are_known(kind):
    """They are known in every generation; there is one for each class."""
    made = trial(exported(kind))
    assert raised(made) == CLASSES
    for seed in range(3):
        assert_same_above(made, noise(seed, images=2))


@pytest.mark.parametrize("kind", KINDS)
def test_no_detection_at_all_is_answered(kind):
    """Every class is empty then, which the threshold of 1e-8 never let happen."""
    made = trial(exported(kind))
    assert raised(made, floor=0.9999) == CLASSES
    _, after = made.run(noise() * np.float32(0.5))
    assert not after[3].any()
    assert not after[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_stage_of_a_faster_rcnn_is_left_alone(kind):
    """A box of a low objectness there may become a detection of a high score."""
    scope = SCOPE.removeprefix("Postprocessor/")
    assert raised(trial(exported(kind, scope=scope))) == 0
    scope = f"SecondStage{SCOPE}"
    assert raised(trial(exported(kind, scope=scope))) == CLASSES


def rescored(boxes, scores, classes, count):
    """Build a network that scores the boxes anew."""
    weights = tf.eye(ROWS)
    outputs(boxes, tf.matmul(scores, weights), classes, count)


def unrelated(boxes, scores, classes, count):
    outputs(boxes, tf.zeros([1, ROWS]), classes, count)


@pytest.mark.parametrize("end", [rescored, unrelated], ids=lambda end: end.__name__)
def test_a_network_behind_the_suppression_stops_it(end):
    """The answered scores must come of the suppression, without a network between."""
    assert raised(trial(exported("V3", end=end))) == 0


def test_soft_suppression_is_left_alone():
    """Soft suppression lowers scores by those of others."""
    assert raised(trial(exported("V5", sigma=0.5))) == 0


def test_a_comparison_for_something_else_is_left_alone():
    """Only a comparison that selects boxes is a filter."""

    def each(image):
        with tf.name_scope(SCOPE), tf.name_scope("FilterGreaterThan"):
            return tf.cast(tf.greater(image[:, 4], 1e-8), tf.float32)

    with building(old_loops=True) as graph:
        x = v1.placeholder(tf.float32, (None, BOXES, 7), "x")
        scores = tf.map_fn(each, x)
        outputs(x[..., :4], scores, scores, tf.shape(x)[:1])
    assert raised(trial(graph)) == 0
