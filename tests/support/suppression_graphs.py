"""Detectors that suppress boxes as the exports of this field do."""

import tensorflow as tf

from support.rewriting_runs import numbers
from support.tiny_graphs import building

v1 = tf.compat.v1

FLOOR = 0.25


BOXES = 60


CLASSES = 3


ROWS = 50


NAMES = ("detection_boxes:0", "detection_scores:0", "detection_classes:0", "count:0")


def heads(x):
    """Overlapping boxes [N, 60, 4] and their scores [N, 60, 3] from noise."""
    corners = x[..., :2] * 0.6
    boxes = tf.concat([corners, corners + 0.1 + 0.3 * x[..., 2:4]], 2)
    return boxes, x[..., 4 : 4 + CLASSES]


def outputs(boxes, scores, classes, count):
    tf.identity(boxes, name="detection_boxes")
    tf.identity(scores, name="detection_scores")
    tf.identity(classes, name="detection_classes")
    tf.identity(count, name="count")


def combined(threshold=1e-8, *, end=outputs, before=lambda scores: scores, **options):
    """A detector of one CombinedNonMaxSuppression."""
    with building() as graph:
        x = v1.placeholder(tf.float32, (None, BOXES, 7), "x")
        boxes, scores = heads(x)
        end(
            *tf.image.combined_non_max_suppression(
                boxes[:, :, None],
                before(scores),
                max_output_size_per_class=20,
                max_total_size=ROWS,
                iou_threshold=0.4,
                score_threshold=threshold,
                **options,
            )
        )
    return graph


def noise(seed=0, images=1):
    """Numbers 0..1; few of the scores are high, one is the floor itself."""
    values = numbers(images, BOXES, 7, seed=seed, low=0)
    values[..., 4:] **= 4
    values[:, 7, 4] = FLOOR
    return values


SCOPE = "Postprocessor/BatchMultiClassNonMaxSuppression/map/while/"


def suppress(kind, boxes, scores, threshold, sigma):
    """One class's suppression, by the op of one TensorFlow or the next."""
    arguments = {
        "boxes": boxes,
        "scores": scores,
        "max_output_size": tf.minimum(20, tf.shape(boxes)[0]),
        "iou_threshold": 0.4,
    }
    if kind == "filter":
        return tf.raw_ops.NonMaxSuppressionV2(**arguments)
    arguments["score_threshold"] = threshold
    if kind == "V5":
        made = tf.raw_ops.NonMaxSuppressionV5(**arguments, soft_nms_sigma=sigma)
        return made.selected_indices
    made = getattr(tf.raw_ops, f"NonMaxSuppression{kind}")(**arguments)
    return made if kind == "V3" else made.selected_indices


def one_image(kind, boxes, scores, threshold, sigma):
    """Filter, suppress each class, join, sort and pad, as the API does."""
    parts = []
    for number in range(CLASSES):
        own, rows = scores[:, number], boxes
        if kind == "filter":
            with tf.name_scope("FilterGreaterThan"):
                high = tf.greater(own, threshold)
            places = tf.reshape(tf.where(high), [-1])
            own, rows = tf.gather(own, places), tf.gather(rows, places)
        found = suppress(kind, rows, own, threshold, sigma)
        own, rows = tf.gather(own, found), tf.gather(rows, found)
        parts.append((rows, own, tf.zeros_like(own) + number))
    boxes, scores, classes = (tf.concat(part, 0) for part in zip(*parts, strict=True))
    _, order = tf.nn.top_k(scores, tf.shape(scores)[0])
    order = order[:ROWS]
    missing = ROWS - tf.shape(order)[0]
    rows = [tf.gather(part, order) for part in (scores, classes)]
    rows = [tf.pad(part, [[0, missing]]) for part in rows]
    boxes = tf.pad(tf.gather(boxes, order), [[0, missing], [0, 0]])
    return boxes, *rows, tf.shape(order)[0]


def exported(kind, threshold=1e-8, sigma=0.0, scope=SCOPE, end=outputs):
    """What the Object Detection API of TensorFlow 1 exports: a loop over images."""
    with building(old_loops=True) as graph:
        x = v1.placeholder(tf.float32, (None, BOXES, 7), "x")
        boxes, scores = heads(x)

        def each(image):
            with tf.name_scope(scope):
                return one_image(kind, *image, threshold, sigma)

        end(*tf.map_fn(each, (boxes, scores), dtype=(*[tf.float32] * 3, tf.int32)))
    return graph


KINDS = ("filter", "V3", "V4", "V5")
