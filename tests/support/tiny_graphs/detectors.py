"""Detectors that answer by the mean colour of each image."""

import numpy as np
import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1


def echoed(red, green, blue):
    """Give what ``echo_detector`` answers first for an image of one colour.

    Returns:
        Class id, score, and box as ymin, xmin, ymax, xmax.
    """
    box = (0.1, 0.2, 0.1 + 0.8 * green / 255, 0.2 + 0.7 * blue / 255)
    return 1 + round(red / 10), 0.9 + 0.09 * red / 255, box


def _rows(image):
    """Make three rows an image of its mean colour; only the first is a sure one."""
    colour = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2])
    red, green, blue = tf.unstack(colour, num=3, axis=1)
    low = tf.zeros_like(red)
    first = tf.stack(
        [low + 0.1, low + 0.2, 0.1 + 0.8 * green / 255, 0.2 + 0.7 * blue / 255], 1
    )
    boxes = tf.stack([first, first * 0.5, first * 0.25], 1)
    scores = tf.stack([0.9 + 0.09 * red / 255, low + 0.5, low + 0.25], 1)
    classes = tf.stack([1 + tf.round(red / 10), low + 2, low + 3], 1)
    return boxes, scores, classes, low + 3


def name_outputs(image, *, scope="", **changed):
    """Name the outputs as the Object Detection API does; ``None`` leaves one out."""
    parts = dict(
        zip(("boxes", "scores", "classes", "count"), _rows(image), strict=True)
    )
    parts |= {role: change(parts[role]) for role, change in changed.items() if change}
    for role, name in (
        ("boxes", "detection_boxes"),
        ("scores", "detection_scores"),
        ("classes", "detection_classes"),
        ("count", "num_detections"),
    ):
        if changed.get(role, True) is not None:
            tf.identity(parts[role], name=scope + name)


def echo_detector(
    shape=(None, None, None, 3), dtype=tf.uint8, name="image_tensor", **changed
):
    """A detector whose answers are ``echoed``; ``changed`` maps a role to a function."""
    with building() as graph:
        name_outputs(v1.placeholder(dtype, shape, name), **changed)
    return file_of(graph)


def float_detector():
    """``image_tensor`` of floats, 0..255 as the Object Detection API has it."""
    return echo_detector(dtype=tf.float32)


def batch_of_one_detector():
    """A detector whose batch is fixed at one."""
    return echo_detector((1, None, None, 3))


def no_count_detector():
    """A detector without ``num_detections``."""
    return echo_detector(count=None)


def nan_scores_detector():
    """A detector whose second score is NaN and whose third is infinite."""
    bad = tf.constant([[0.0, np.nan, np.inf]])
    return echo_detector(
        scores=lambda scores: scores + tf.cast(bad.numpy(), tf.float32)
    )


def percent_detector():
    """A detector whose scores are in percent."""
    return echo_detector(scores=lambda scores: scores * 100)


def logits_detector():
    """A detector without the sigmoid over its scores."""
    return echo_detector(scores=lambda scores: scores * 30 - 20)


def high_class_ids_detector():
    """A detector whose class ids are above 255."""
    return echo_detector(classes=lambda classes: classes + 300)


def count_too_big_detector():
    """A detector that counts more detections than it has rows."""
    return echo_detector(count=lambda count: count + 100)


def do_nothing_detector():
    """A detector that costs nothing: one constant row for each image."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        one = tf.ones([tf.shape(image)[0], 1])
        tf.multiply(one[:, :, None], [0.1, 0.2, 0.6, 0.7], name="detection_boxes")
        tf.multiply(one, 0.9, name="detection_scores")
        tf.identity(one, name="detection_classes")
        tf.identity(one[:, 0], name="num_detections")
    return file_of(graph)


def encoded_detector(shape=(None,)):
    """``encoded_image_string_tensor``: the graph decodes the photo's file itself."""
    with building(old_loops=True) as graph:
        files = v1.placeholder(tf.string, shape, "encoded_image_string_tensor")
        name_outputs(tf.map_fn(_decoded, tf.reshape(files, [-1]), dtype=tf.float32))
    return file_of(graph)


def _decoded(file):
    return v1.image.resize_bilinear(tf.io.decode_jpeg(file, channels=3)[None], (8, 8))[
        0
    ]


def resizing_detector(size=(6, 8)):
    """A detector that resizes inside, as ``fixed_shape_resizer`` without a loop."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        name_outputs(v1.image.resize_bilinear(tf.cast(image, tf.float32), size))
    return file_of(graph)


def map_resizing_detector(size=(6, 8)):
    """A detector of TensorFlow 1 that resizes each image of the batch in a loop."""
    with building(old_loops=True) as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        small = tf.map_fn(
            lambda one: tf.squeeze(v1.image.resize_bilinear(one[None], size), 0),
            tf.cast(image, tf.float32),
        )
        name_outputs(small * (2 / 255) * (255 / 2))
    return file_of(graph)


def keep_aspect_detector():
    """A detector that resizes to a size computed from the image's own."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        size = tf.shape(image)[1:3] // 2
        name_outputs(v1.image.resize_bilinear(tf.cast(image, tf.float32), size))
    return file_of(graph)


def tensorflow_2_detector(extra=True):
    """A frozen TensorFlow 2 export: outputs ``Identity`` ... sorted by their keys."""
    with building() as graph:
        image = v1.placeholder(
            tf.uint8, (1, None, None, 3), "serving_default_input_tensor"
        )
        boxes, scores, classes, count = _rows(image)
        outputs = [boxes, classes, scores, count]
        if extra:
            each = tf.tile(scores[:, :, None], [1, 1, 4])
            outputs = [scores, boxes, classes, each, scores, count, boxes, each]
        for output in outputs:
            tf.identity(output, name="Identity")
    return file_of(graph)


def scoped_detector():
    """A detector that was imported under a name, so that its nodes have a scope."""
    return echo_detector(name="import/image_tensor", scope="import/")


def slow_detector(seconds=1.0):
    """A detector whose every run takes ``seconds``; it can be stopped between ops."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        end = tf.timestamp() + seconds
        passed = tf.while_loop(
            lambda now: now < end, lambda _: tf.timestamp(), [tf.timestamp()]
        )
        with tf.control_dependencies(passed if isinstance(passed, list) else [passed]):
            name_outputs(tf.identity(image))
    return file_of(graph)


def crashes_when_white(above=250.0):
    """A detector that aborts its process when the images' mean is above a value."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        floats = tf.cast(image, tf.float32)
        dark, white = tf.raw_ops.Switch(
            data=floats, pred=tf.reduce_mean(floats) > above
        )
        with tf.control_dependencies([tf.identity(white)]):
            abort = tf.raw_ops.Abort(error_msg="white", exit_without_error=False)
        with tf.control_dependencies([abort]):
            white = tf.identity(white)
        name_outputs(tf.raw_ops.Merge(inputs=[dark, white])[0])
    return file_of(graph)


def crashes_always():
    """A detector that aborts its process in any run, so also in the first."""
    return crashes_when_white(above=-1.0)
