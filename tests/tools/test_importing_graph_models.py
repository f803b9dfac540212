"""Opening graphs of plain nodes that carry no signature."""

import json
from contextlib import contextmanager

import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError, GraphError
from modelserver.tools.importing import graph_models
from support import foreign_models, tfjs_models

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


@contextmanager
def edited(source):
    """Give a TensorFlow.js model's description, to be changed."""
    path = source / "model.json"
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


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


def test_a_node_of_no_known_op_is_refused(tmp_path):
    """TensorFlow's error for it becomes ours."""
    source = foreign_models.graph_model(tmp_path)
    path = source / "model.json"
    text = path.read_text().replace('"Softmax"', '"Softmux"')
    path.write_text(text)
    with (
        pytest.raises(ConversionError, match="not valid: Op type not registered"),
        graph_models.open_tfjs_graph(source),
    ):
        pass


def test_a_type_that_is_no_text_is_refused(tmp_path):
    """JSON can write half a character, which protobuf stumbles over."""
    source = foreign_models.graph_model(tmp_path)
    with edited(source) as content:
        softmax = content["modelTopology"]["node"][-1]
        softmax["attr"]["T"] = {"type": "\ud800"}
    with pytest.raises(ConversionError), graph_models.open_tfjs_graph(source):
        pass


def test_a_graph_that_would_fill_the_memory_is_refused_before_it_is_made(tmp_path):
    """A few bytes can stand for a constant of any size."""
    source = foreign_models.graph_model(tmp_path)
    tensor = {
        "dtype": "DT_FLOAT",
        "tensorShape": {"dim": [{"size": str(10**10)}]},
        "floatVal": [0],
    }
    large = tfjs_models.node(
        "HostConst", "large", dtype={"type": 1}, value={"tensor": tensor}
    )
    with edited(source) as content:
        content["modelTopology"]["node"].append(large)
    with (
        pytest.raises(GraphError, match="fill the memory"),
        graph_models.open_tfjs_graph(source),
    ):
        pass


def test_a_fused_step_that_is_no_text_is_refused(tmp_path):
    """It is as unknown as any other step."""
    source = foreign_models.graph_model(tmp_path)
    with edited(source) as content:
        nodes = content["modelTopology"]["node"]
        (fused,) = (node for node in nodes if node["name"] == "depthwise")
        fused["attr"]["fused_ops"] = {"list": {"s": [[253, 1]]}}
    with (
        pytest.raises(ConversionError, match="fused in, which is not known"),
        graph_models.open_tfjs_graph(source),
    ):
        pass
