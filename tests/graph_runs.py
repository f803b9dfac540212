"""Runs a frozen graph's bytes plainly with TensorFlow."""

import tensorflow as tf


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
