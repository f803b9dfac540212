"""Runs a frozen graph's bytes plainly with TensorFlow."""

import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1


def run(data, fetches, feed):
    """Run the graph once; names are those of nodes."""
    definition = tf.compat.v1.GraphDef.FromString(data)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(
            [f"{name}:0" for name in fetches],
            {f"{name}:0": value for name, value in feed.items()},
        )


def refused_op():
    """A classifier that would write a file."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], "input")
        tf.nn.softmax(tf.reduce_mean(image, [1, 2]), name="scores")
        tf.io.write_file("x", "y")
        tf.io.write_file("y", "y")
    return file_of(graph)
