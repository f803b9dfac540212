"""Files that are no servable graph, named by their fault."""

import random

import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1
from support.tiny_graphs.detectors import echo_detector, name_outputs

FAULTS = {}


def fault(function):
    """Note a function that builds a file which is no servable graph."""
    FAULTS[function.__name__] = function
    return function


@fault
def no_placeholder():
    """A graph that reads its image from a constant."""
    with building() as graph:
        name_outputs(tf.zeros([1, 8, 8, 3]))
    return file_of(graph)


@fault
def two_images():
    """A graph that compares two images."""
    with building() as graph:
        one, other = (v1.placeholder(tf.float32, (None, 8, 8, 3), n) for n in "ab")
        name_outputs(one - other)
    return file_of(graph)


@fault
def raw_heads():
    """A detector without its post-processing."""
    with building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "data_1")
        tf.reshape(image, [-1, 48, 4], name="loc/concat")
        tf.reshape(image, [-1, 96, 2], name="cls/concat")
    return file_of(graph)


@fault
def saved_model():
    """A SavedModel's ``saved_model.pb`` under a frozen graph's name."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel(saved_model_schema_version=1)
    message.meta_graphs.add().graph_def.ParseFromString(echo_detector())
    return message.SerializeToString()


@fault
def not_frozen():
    """A graph whose weights are variables, as before freezing."""
    with building() as graph:
        weight = v1.Variable(1.0, use_resource=False, name="weight")
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        name_outputs(tf.cast(image, tf.float32) * weight)
    return file_of(graph)


@fault
def unknown_op():
    """A graph that uses an op of somebody's own."""
    graph_def = v1.GraphDef()
    graph_def.ParseFromString(echo_detector())
    graph_def.node.add(name="custom", op="SomebodysOwnOp")
    return graph_def.SerializeToString()


@fault
def cut_at_a_node():
    """A graph cut off just behind a node, which is still a valid message."""
    graph_def = v1.GraphDef()
    graph_def.ParseFromString(echo_detector())
    del graph_def.node[len(graph_def.node) // 2 :]
    return graph_def.SerializeToString()


@fault
def cut_off():
    """A graph cut off in the middle of a node."""
    data = echo_detector()
    return data[: len(data) // 2 + 1]


@fault
def empty():
    """A file of no bytes."""
    return b""


@fault
def html():
    """A web page saved under the graph's name."""
    return b"\n<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"


@fault
def lfs_pointer():
    """What Git LFS leaves where it did not fetch the file."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@fault
def png():
    """An image under the graph's name."""
    return b"\x89PNG\r\n\x1a\n" + bytes(32)


@fault
def text_form():
    """A graph in text form."""
    return b'# comment\nnode {\n  name: "a"\n  op: "NoOp"\n}\n'


@fault
def random_bytes():
    """A kilobyte of noise."""
    return random.Random(1).randbytes(1024)  # noqa: S311 - reproducible noise
