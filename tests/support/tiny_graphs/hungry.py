"""Detectors that take time or memory without end, which no check of ops can see."""

import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1
from support.tiny_graphs.detectors import name_outputs


def _image():
    return v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")


def _white(image, above):
    return tf.reduce_mean(tf.cast(image, tf.float32)) > above


def hangs_when_white(above=250.0):
    """A detector that runs for ever when the images' mean is above a value."""
    with building() as graph:
        image = _image()
        more = _white(image, above)
        turns = tf.while_loop(
            lambda _: more, lambda turn: turn + 1, [tf.constant(0, tf.int64)]
        )
        with tf.control_dependencies([tf.identity(turns)]):
            name_outputs(tf.identity(image))
    return file_of(graph)


def hangs_always():
    """A detector that runs for ever, so that its load never ends."""
    return hangs_when_white(above=-1.0)


def eats_when_white(megabytes=3000, above=250.0):
    """A detector that fills so much memory when the images' mean is above a value.

    It then waits for ten seconds with it.
    """
    with building() as graph:
        image = _image()
        count = tf.where(_white(image, above), megabytes, 0)
        pile = tf.fill([count, 1024, 1024], tf.cast(1, tf.uint8))
        with tf.control_dependencies([tf.identity(pile[:, 0, 0])]):
            start = tf.timestamp()
        ends = start + tf.where(count > 0, tf.constant(10.0, tf.float64), 0)
        waited = tf.while_loop(
            lambda now: now < ends, lambda _: tf.timestamp(), [start]
        )
        with tf.control_dependencies([tf.identity(waited)]):
            eaten = tf.cast(
                tf.reduce_sum(tf.cast(pile[:, 0, 0], tf.int32)) < 0, tf.uint8
            )
        name_outputs(image + eaten)
    return file_of(graph)


def eats_always(megabytes=3000):
    """A detector that fills so much memory in any run, so also in the first."""
    return eats_when_white(megabytes, above=-1.0)
