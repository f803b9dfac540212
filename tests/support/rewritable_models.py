"""Models that have what rewriting makes faster."""

import tensorflow as tf

from support.rewriting_runs import numbers
from support.tiny_graphs import building, file_of

v1 = tf.compat.v1


def network(x):
    """A convolution with a batch norm written out, and a branch with a bias behind."""
    mean, variance, beta = (numbers(6, seed=seed, low=0.1) for seed in (3, 4, 5))
    scale = tf.math.rsqrt(tf.constant(variance) + 0.001)
    kernel = tf.identity(tf.constant(numbers(3, 3, 3, 6)))
    value = tf.nn.conv2d(x, kernel, 2, "SAME")
    value = tf.nn.relu6(value * scale + (tf.constant(beta) - mean * scale))
    branch = tf.nn.conv2d(value, numbers(3, 3, 6, 6), 1, "SAME")
    return tf.add_n([branch, value]) + numbers(6)


def fast_detector(threshold=1e-8, change=lambda boxes: boxes):
    """A detector that every rewrite finds something to do in."""
    with building(old_loops=True) as graph:
        images = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        small = tf.map_fn(
            lambda one: tf.squeeze(
                v1.image.resize_bilinear(tf.expand_dims(one, 0), (16, 16)), [0]
            ),
            tf.cast(images, tf.float32),
        )
        heads = tf.reshape(network(small * (2 / 255) - 1), [-1, 64, 6])
        corners = tf.sigmoid(heads[..., :2]) * 0.6
        boxes = tf.concat([corners, corners + 0.1 + 0.3 * heads[..., 2:4] / 6], 2)
        outputs = tf.image.combined_non_max_suppression(
            change(boxes)[:, :, None],
            tf.sigmoid(heads[..., 4:] - 4),
            max_output_size_per_class=64,
            max_total_size=100,
            iou_threshold=0.5,
            score_threshold=threshold,
        )
        tf.identity(outputs[0], name="detection_boxes")
        tf.identity(outputs[1], name="detection_scores")
        tf.add(outputs[2], 1, name="detection_classes")
        tf.cast(outputs[3], tf.float32, name="num_detections")
    return file_of(graph)


def fast_classifier():
    with building() as graph:
        x = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        value = tf.reduce_mean(network(x), [1, 2])
        tf.nn.softmax(tf.matmul(value, numbers(6, 4)) + numbers(4), name="softmax")
    return file_of(graph)
