"""A size that the graph leaves open is found by the layers that follow."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.core.signatures import Sidecar
from modelserver.runner import graphs
from modelserver.runner.graphs import sizes
from support import tiny_graphs
from support.classifier_runs import find, imported

v1 = tf.compat.v1


def weights(*shape):
    """Make weights of a layer, small ones for a small file."""
    return np.full(shape, 0.01, np.float32)


def stack(image, layers, padding):
    """Build convolutions of 3 x 3 with two channels, and poolings that halve."""
    depth = image.shape[-1] if image.shape.rank and image.shape[-1] else 3
    for _ in range(layers):
        image = tf.nn.relu(v1.nn.conv2d(image, weights(3, 3, depth, 2), 1, padding))
        image, depth = v1.nn.max_pool2d(image, 2, 2, padding), 2
    return image


def network(
    side,
    layers,
    padding="VALID",
    *,
    end="dense",
    shape=(None, None, None, 3),
    name="input",
    data=None,
):
    """Build a tutorial's network for images of a side that its placeholder hides."""
    height, width = side if isinstance(side, tuple) else (side, side)
    with tiny_graphs.building() as probe:
        zeros = v1.placeholder(tf.float32, (1, height, width, 3))
        last = stack(zeros, layers, padding).shape.as_list()
    del probe
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, shape, name)
        features = stack(image, layers, padding)
        if end == "dense":
            count = last[1] * last[2] * last[3]
            features = tf.matmul(tf.reshape(features, [-1, count]), weights(count, 3))
        elif end == "window":
            features = v1.nn.avg_pool2d(features, last[1], 1, "VALID")
            features = v1.nn.conv2d(features, weights(1, 1, 2, 3), 1, "SAME")
            features = tf.squeeze(features, [1, 2])
        else:
            features = tf.matmul(tf.reduce_mean(features, [1, 2]), weights(2, 3))
        tf.nn.softmax(features, name="softmax")
    return tiny_graphs.file_of(graph)


SIDES = (28, 32, 48, 64, 96, 128, 150, 180, 200, 224, 299)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_a_dense_layer_shows_the_size(side, padding):
    """It takes as many numbers as the map has; if two sides fit, the guess says so."""
    signature = find(network(side, 3, padding))
    if signature.sizing.source == "arithmetic":
        assert signature.size == (side, side)
        assert "it alone fits" in signature.sizing.why
    else:
        assert f"{side} x {side}" in str(signature.guesses)
        assert "nothing in the graph tells it from" in str(signature.guesses)


def test_of_those_that_fit_the_one_without_a_rest_is_taken():
    """It is taken before a likelier one that leaves a rest at some stride."""
    assert find(network(160, 3, "SAME")).size == (160, 160)
    assert find(network(32, 3, "SAME")).size == (32, 32)


def test_a_gray_image_is_a_digit_where_that_fits():
    """28 x 28 is taken, even if 32 x 32 leaves no rest and fits as well."""
    gray = network(28, 3, "SAME", shape=(None, None, None, 1))
    assert find(gray).size == (28, 28)
    assert "tells it from 32 x 32" in str(find(gray).guesses)


@pytest.mark.parametrize("shape", [None, (None, None, None, None), (1, None, None, 3)])
def test_the_placeholder_may_leave_more_open(shape):
    """The size is found if rank, channels or batch are open, too."""
    assert find(network(150, 4, shape=shape)).size == (150, 150)


def test_a_pooling_window_for_the_whole_map_shows_the_size():
    """Of those that fit the one without a rest is taken, and the others are named."""
    signature = find(network(128, 5, "SAME", end="window"))
    assert signature.size == (128, 128)
    assert "100 x 100" in signature.sizing.why


def test_a_side_that_is_known_is_kept():
    """The other side is one that fits, which need not make a square."""
    assert find(network((128, 64), 2, shape=(None, 128, None, 3))).size == (128, 64)
    assert find(network((96, 224), 2, shape=(None, None, 224, 3))).size == (96, 224)
    assert find(network(96, 2, shape=(None, 96, None, 3))).size == (96, 96)


def test_where_all_fit_alike_it_is_a_guess():
    """224 is taken, and reported like a scaling without evidence."""
    signature = find(network(224, 2, "SAME", end="mean"))
    assert signature.size == (224, 224)
    assert signature.sizing.source == "default"
    assert "guessed 224 x 224, nothing in the graph tells" in str(signature.guesses)


@pytest.mark.parametrize(
    ("name", "side"), [("input_150x150", 150), ("image_96", 96), ("input_17x17", 224)]
)
def test_a_side_in_a_name_is_taken_where_it_fits(name, side):
    """A usual side in a name is taken if it fits."""
    signature = find(network(64, 2, "SAME", end="mean", name=name))
    assert signature.size == (side, side)
    assert (signature.sizing.source == "architecture") == (side != 224)
    assert find(network(64, 2, end="dense", name=name)).size == (64, 64)


def test_where_none_fits_it_is_refused_with_the_key_that_helps():
    """The graph is served once the sidecar has that key."""
    data = network(77, 2)
    with pytest.raises(GraphError, match=r'put "size": .* into NAME\.json') as refused:
        find(data)
    assert "none of the usual sizes" in str(refused.value)
    assert find(data, size=77).size == (77, 77)
    assert find(data, size=77).sizing.source == "sidecar"


def test_a_size_that_the_graph_fixes_needs_no_evidence():
    """Nothing is tried, and nothing reported."""
    signature = find(tiny_graphs.classifier())
    assert signature.size == (8, 8)
    assert signature.sizing is None


def test_a_graph_that_calls_functions_is_guessed_as_before():
    """Shapes of such a graph are not tried."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, None, None, 3), "input")
        scored = tf.function(tiny_graphs.colour_logits).get_concrete_function(
            tf.TensorSpec((None, None, None, 3))
        )
        tf.nn.softmax(tf.reshape(scored(image), [-1, 3]), name="softmax")
    signature = find(tiny_graphs.file_of(graph))
    assert signature.size == (224, 224)
    assert signature.sizing.source == "default"


def test_trying_has_an_end(monkeypatch):
    """The best fit of the tries until then counts."""
    monkeypatch.setattr(sizes, "_LONGEST_S", -1.0)
    with pytest.raises(GraphError, match="none of the usual sizes"):
        find(network(224, 2))
    monkeypatch.setattr(sizes, "_LONGEST_S", 3.0)
    monkeypatch.setattr(sizes, "_MOST_NODES", 3)
    assert find(network(224, 2)).size == (224, 224)


def test_weights_are_not_copied_to_be_tried():
    """The trial's graph has the weights' shapes only."""
    graph = imported(network(224, 2))
    image = graph.get_tensor_by_name("input:0")
    trials = sizes.Trials(
        image, [graph.get_tensor_by_name("softmax:0")], (1, None, None, 3)
    )
    assert trials.possible
    assert trials._skeleton.ByteSize() < 10_000


def test_a_detector_that_takes_any_size_is_fed_any():
    """Its number of boxes may be a constant, which needs no image."""
    signature = graphs.find_signature(
        imported(tiny_graphs.echo_detector()), "detection", Sidecar()
    )
    assert (signature.size, signature.sizing) == (None, None)
    constant = tiny_graphs.echo_detector((1, None, None, 3))
    assert graphs.find_signature(imported(constant), "detection", None).size is None


def test_a_detector_for_one_size_is_fed_that():
    """Its heads are for so many boxes."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, None, None, 3), "image_tensor")
        features = stack(image, 2, "SAME")
        boxes = tf.reshape(features, [-1, 75 * 75 * 2 // 2, 2])
        tf.concat([boxes, boxes], 2, name="detection_boxes")
        scores = tf.reshape(features[..., 0], [-1, 75 * 75], name="detection_scores")
        tf.identity(scores, name="detection_classes")
    signature = graphs.find_signature(
        imported(tiny_graphs.file_of(graph)), "detection", None
    )
    assert signature.size == (300, 300)


def test_an_image_that_nobody_has_is_refused():
    """Else its first run would ask for all memory."""
    graph = tiny_graphs.classifier((None, 9000, 8, 3))
    with pytest.raises(GraphError, match="8 x 9000 pixels; a side may have 8192"):
        find(graph)
