"""What all tiny graphs are built with."""

import hashlib
from contextlib import contextmanager

import tensorflow as tf

v1 = tf.compat.v1


def write(path, data):
    """Write a file and give its path."""
    path.write_bytes(data)
    return path


def trusted(*graphs):
    """Give the SHA-256 of graphs that use ops no other may, such as ``Abort``."""
    return tuple(hashlib.sha256(data).hexdigest() for data in graphs)


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
    """Give the bytes of a graph's file, the same ones each time it is built."""
    return graph.as_graph_def(add_shapes=False).SerializeToString(deterministic=True)
