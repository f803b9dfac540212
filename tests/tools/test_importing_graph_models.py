"""Opening graphs of plain nodes that carry no signature."""

import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graph_models

v1 = tf.compat.v1


def retrained(*images):
    """What TensorFlow's retrain script leaves: a second door that has a default."""
    with tf.Graph().as_default() as graph:
        inputs = [v1.placeholder(tf.float32, [None, 4, 4, 3], name) for name in images]
        features = tf.reduce_mean(tf.add_n(inputs), [1, 2])
        door = v1.placeholder_with_default(
            features, [None, 3], "input/BottleneckInputPlaceholder"
        )
        tf.nn.softmax(door, name="final_result")
    return graph.as_graph_def()


def test_a_door_with_a_default_is_no_second_image():
    """The image is the placeholder that has no default; the other keeps its own."""
    what = "TensorFlow.js model"
    with graph_models.open_graph(retrained("Placeholder"), what) as opened:
        assert opened.input == "Placeholder:0"
        assert set(opened.outputs) == {"final_result"}


def test_two_images_are_still_refused():
    """A model is served with one image."""
    with (
        pytest.raises(ConversionError, match="takes left, right, but"),
        graph_models.open_graph(retrained("left", "right"), "TensorFlow.js model"),
    ):
        pass
