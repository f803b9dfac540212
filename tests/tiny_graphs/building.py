"""What all tiny graphs are built with."""

from contextlib import contextmanager

import tensorflow as tf

v1 = tf.compat.v1


def write(path, data):
    """Write a file and give its path."""
    path.write_bytes(data)
    return path


@contextmanager
def building(*, old_loops=False):
    """Give a graph to build in; ``old_loops`` writes TensorFlow 1's loops."""
    with tf.Graph().as_default() as graph:
        if old_loops:
            v1.disable_control_flow_v2()
        try:
            yield graph
        finally:
            if old_loops:
                v1.enable_control_flow_v2()


def file_of(graph):
    """Give the bytes of a graph's file."""
    return graph.as_graph_def(add_shapes=False).SerializeToString()
