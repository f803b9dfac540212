"""Classifiers of ``COLOURS``: the strongest channel's class wins."""

import numpy as np
import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1

COLOURS = ("red", "green", "blue")


def colour_logits(image, weights=None):
    """Score the mean of each channel: the strongest colour's class wins."""
    colour = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2])
    sides = colour.shape[-1] or 3
    if weights is None:
        weights = np.eye(sides, dtype=np.float32) * 5 if sides > 1 else [[-5.0, 5.0]]
    return tf.matmul(tf.reshape(colour, [-1, sides]), weights)


def classifier(
    shape=(None, 8, 8, 3), *, name="input", dtype=tf.float32, before=None, end=None
):
    """A classifier of ``COLOURS``; ``before`` and ``end`` change its ends."""
    with building() as graph:
        image = v1.placeholder(dtype, shape, name)
        logits = colour_logits(image if before is None else before(image))
        end(logits) if end else tf.nn.softmax(logits, name="softmax")
    return file_of(graph)


def logits_classifier():
    """A classifier without a softmax."""
    return classifier(end=lambda logits: tf.identity(logits, name="logits"))


def percent_classifier():
    """A classifier whose scores are in percent."""
    return classifier(
        end=lambda logits: tf.multiply(tf.nn.softmax(logits), 100.0, name="scores")
    )


def brightness():
    """The mean of a photo's bytes, for a task that is not in the package."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, 8, 8, 3), "image")
        tf.reduce_mean(tf.cast(image, tf.float32), [1, 2, 3], name="brightness")
    return file_of(graph)


def multi_label_classifier():
    """A classifier of bytes with a sigmoid for each of ``COLOURS``: none excludes any."""
    return classifier(
        dtype=tf.uint8, end=lambda x: tf.nn.sigmoid(x / 51 - 12.5, name="sigmoid")
    )


def one_sigmoid_classifier():
    """A classifier of bytes with one sigmoid, 1 for red and 0 for other colours."""
    return classifier(
        dtype=tf.uint8,
        end=lambda x: tf.nn.sigmoid(x[:, :1] / 51 - 12.5, name="sigmoid"),
    )


def gray_classifier():
    """A classifier of one channel in 0..1, classes dark and bright."""
    weights = np.array([[-5.0, 5.0]], np.float32)
    with building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 1), "conv2d_input")
        logits = tf.nn.bias_add(colour_logits(image, weights), [2.5, -2.5])
        tf.nn.softmax(logits, name="dense/Softmax")
    return file_of(graph)


def one_image_classifier():
    """A classifier of one image without the batch's axis."""
    return classifier((8, 8, 3), before=lambda image: tf.expand_dims(image, 0))


def batch_of_one_classifier():
    """A classifier whose batch is fixed at one."""
    return classifier((1, 8, 8, 3))


def squeezed_classifier():
    """A classifier whose answer has lost the batch's axis."""
    return classifier(
        (1, 8, 8, 3),
        end=lambda logits: tf.nn.softmax(tf.squeeze(logits, 0), name="prob"),
    )


def rank_4_classifier():
    """A fully convolutional classifier: [N, 1, 1, classes]."""
    return classifier(
        end=lambda logits: tf.nn.softmax(logits[:, None, None, :], name="prob")
    )


def file_classifier(constant=False):
    """A classifier that decodes the photo's file, ``DecodeJpeg/contents``.

    As a ``constant`` it holds an example in the placeholder's place, as Inception of
    2015 does.
    """
    with building() as graph:
        name = "DecodeJpeg/contents"
        file = (
            tf.constant(b"an example", name=name)
            if constant
            else v1.placeholder(tf.string, (), name)
        )
        image = tf.io.decode_jpeg(file, channels=3, name="DecodeJpeg")
        small = v1.image.resize_bilinear(tf.cast(image, tf.float32)[None], (8, 8))
        tf.nn.softmax(colour_logits((small - 128) * (1 / 128)), name="softmax")
    return file_of(graph)


def default_classifier():
    """A classifier whose image has a default."""
    with building() as graph:
        image = v1.placeholder_with_default(
            np.zeros((1, 8, 8, 3), np.float32), (None, 8, 8, 3), "input"
        )
        tf.nn.softmax(colour_logits(image), name="softmax")
    return file_of(graph)


def unknown_shape_classifier():
    """A classifier whose placeholder has no shape."""
    return classifier(None, name="Placeholder")


def switched_classifier(name="keep_prob", dtype=tf.float32, shape=()):
    """A classifier with another placeholder, such as ``keep_prob`` or ``is_training``."""
    with building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        switch = tf.cast(v1.placeholder(dtype, shape, name), tf.float32)
        tf.nn.softmax(
            colour_logits(image) * (1 + tf.reduce_sum(switch)), name="softmax"
        )
    return file_of(graph)


def learning_classifier(name="is_training", default=True, *, by=None):
    """A classifier that is left learning: its colours pass a dropout.

    Args:
        name: of the switch, a placeholder with a default.
        default: its default.
        by: the switch is a flag where this is ``None``, else the number of the dropout:
            of what is kept (``keep``), what is dropped (``rate``), and that as newer
            TensorFlows write it (``drop``).
    """
    with building(old_loops=True) as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        switch = v1.placeholder_with_default(default, (), name)
        many = tf.tile(image, [1, 1, 1, 16])
        random = v1.random_uniform(tf.shape(many))
        kept = tf.constant(0.5)
        if by is not None:
            kept = switch if by == "keep" else 1 - tf.identity(switch)
        passes = random >= switch if by == "drop" else tf.floor(kept + random)
        dropped = many / kept * tf.cast(passes, tf.float32)
        if by is None:
            dropped = tf.where(switch, dropped, many)
        colour = tf.reduce_mean(tf.reshape(dropped, [-1, 64, 16, 3]), [1, 2])
        tf.nn.softmax(colour * 5, name="softmax")
    return file_of(graph)
