"""Graphs that neither detect nor classify, which clients ask with tensors."""

import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1

SIDE = 16


def pose(side=SIDE):
    """Heat maps and offsets of five key points, of an image of any batch."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, side, side, 3], "image")
        weights = tf.reshape(tf.linspace(-1.0, 1.0, 3 * 15), [1, 1, 3, 15])
        maps = tf.nn.conv2d(image, weights, 2, "SAME")
        tf.sigmoid(maps[..., :5], name="heatmap")
        tf.identity(maps[..., 5:], name="offsets")
    return file_of(graph)


def segmentation():
    """The class of each pixel, with a switch for training."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], "ImageTensor")
        training = v1.placeholder(tf.bool, [], "is_training")
        weights = tf.reshape(tf.linspace(-1.0, 1.0, 3 * 21), [1, 1, 3, 21])
        seen = tf.nn.conv2d(image, weights, 1, "SAME")
        seen *= 1.0 - tf.cast(training, tf.float32)
        tf.argmax(seen, 3, output_type=tf.int32, name="SemanticPredictions")
    return file_of(graph)


def embedding():
    """A vector of length one for each image."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [1, SIDE, SIDE, 3], "input")
        pooled = tf.reduce_mean(tf.nn.space_to_depth(image, 4), [1, 2])
        tf.math.l2_normalize(pooled, 1, name="embeddings")
    return file_of(graph)


def two_inputs():
    """A map of two images, which the server's one input does not do."""
    with building() as graph:
        first = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], "first")
        second = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], "second")
        tf.subtract(first, second, name="heatmap")
    return file_of(graph)


def unrunnable_pose():
    """Heat maps of a graph that TensorFlow refuses to run."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], "image")
        count = tf.size(image)
        tf.reshape(image, tf.stack([1, count + 1]), name="heatmap")
    return file_of(graph)
