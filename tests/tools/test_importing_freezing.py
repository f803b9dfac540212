"""Giving a frozen graph the names that the server looks for."""

import tensorflow as tf

from modelserver.tools.importing import freezing

v1 = tf.compat.v1


def waiting_graph():
    """A classifier named as TF-Hub's: its constants wait for the input."""
    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.float32, [None, 4, 4, 3], "input")
        with tf.control_dependencies([image]):
            two = tf.constant(2.0, name="hub_input/y")
        pixels = tf.multiply(image, two, name="hub_input/Mul")
        scores = tf.reduce_mean(pixels, [1, 2], name="pooled")
        tf.nn.softmax(scores, name="Identity")
    return graph.as_graph_def()


def test_constants_that_wait_for_the_input_make_no_second_input():
    """A control input on the old placeholder goes, so that one placeholder is left."""
    graph_def = waiting_graph()
    assert "^input" in {name for node in graph_def.node for name in node.input}
    # The input's new name is its old one, so the old nodes move under a scope.
    data = freezing.rename_ends(graph_def, "input:0", {"scores": "Identity:0"})
    made = v1.GraphDef.FromString(data)
    placeholders = [node.name for node in made.node if node.op == "Placeholder"]
    assert placeholders == ["input"]
    assert not [name for node in made.node for name in node.input if "^" in name]
