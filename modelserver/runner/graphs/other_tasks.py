"""Recognise graphs of other tasks, whose outputs are neither scores nor detections."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from modelserver.runner.graphs.activations import maker
from modelserver.runner.graphs.traversal import (
    leaves,
    list_tensors,
    placeholders,
    shape_of,
)

# Words in the names of a detector's heads, of keypoints, and of single measures.
_BOXES = (
    "bbox bboxes box boxes box_encodings deltas loc location locations locs mbox_loc "
    "regression regressors offsets raw_detection_boxes"
)
_SCORES = (
    "class classes classification classificators cls conf confidence confidences "
    "class_predictions_with_background logits mbox_conf mbox_conf_flatten "
    "mbox_conf_softmax objectness prob probs raw_detection_scores scores score"
)
_POINTS = (
    "displacement_fwd displacement_bwd heatmap heatmaps hm joints keypoint keypoints "
    "landmark landmarks paf pafs pose"
)
_MEASURES = "age angle angles bbox boundingbox bounding_box coordinates coords depth"
# A tensor of four numbers a row are boxes; with one row it is one box an image.
_SIDES = 4
# Of an image's side, at most so much is a cell of a detector's grid.
_CELLS = 8
# Classes and boxes of each of so many places at least are no sequence.
_PLACES = 100
_FEATURES = frozenset({"Elu", "LeakyRelu", "MaxPool", "Relu", "Relu6", "Selu"})
_WHOLE_NUMBERS = frozenset({"ArgMax", "Cast"})


class Heads(NamedTuple):
    """The outputs of a detector without post-processing: its boxes and the rest."""

    boxes: Any
    others: tuple[Any, ...]


def _word_pattern(words: str) -> re.Pattern[str]:
    names = "|".join(words.split())
    return re.compile(rf"(?:^|[/_.-])(?:{names})(?:[/_.:-]|\d|$)")


_BOX_NAME, _SCORE_NAME, _POINT_NAME, _MEASURE_NAME = map(
    _word_pattern, (_BOXES, _SCORES, _POINTS, _MEASURES)
)


def raw_heads(graph: Any) -> Heads | None:
    """Find the outputs of a detector that neither decodes boxes nor drops overlaps.

    Boxes are known by their four numbers a row, or by their name next to one of scores.
    A graph that has a non-maximum suppression is none: its outputs have other names.
    """
    if any("NonMaxSuppression" in op.type for op in graph.get_operations()):
        return None
    ends = leaves(graph.get_operations())
    for boxes in ends:
        others = tuple(end for end in ends if end is not boxes)
        if _has_rows_of_four(boxes) and others:
            return Heads(boxes, others)
        scores = any(_SCORE_NAME.search(other.op.name.lower()) for other in others)
        if scores and _is_named_boxes(boxes):
            return Heads(boxes, others)
    return None


def _has_rows_of_four(tensor: Any) -> bool:
    """Return whether a tensor is [N, boxes, 4]."""
    shape = shape_of(tensor)
    return bool(shape and len(shape) == 3 and shape[2] == _SIDES and shape[1] != 1)  # noqa: PLR2004 - batch, boxes, sides


def _is_named_boxes(tensor: Any) -> bool:
    """Return whether a name is boxes'; four numbers an image are one box, no head."""
    shape = shape_of(tensor)
    if not _BOX_NAME.search(tensor.op.name.lower()):
        return False
    return shape is None or (len(shape) > 1 and shape[1:] != (_SIDES,))


def no_post_processing_sentence(heads: Heads) -> str:
    """Describe a detector without its post-processing, and the remedy."""
    return (
        "the graph is a detector without post-processing: it gives "
        f"{list_tensors([heads.boxes])} for boxes and {list_tensors(heads.others)} "
        "beside them, but neither decodes boxes nor drops overlapping ones "
        "(non-maximum suppression). Export it with both, so that it gives "
        "detection_boxes, detection_scores, detection_classes and num_detections, as "
        "the Object Detection API's exporter writes them"
    )


def other_task(graph: Any) -> str:
    """Describe the task of a graph that is neither a classifier nor a detector.

    Returns:
        A part of a sentence; empty if the task is unknown.
    """
    ops = graph.get_operations()
    ends = leaves(ops)
    points = [end for end in ends if _POINT_NAME.search(end.op.name.lower())]
    if points or _are_points(ends):
        found = list_tensors(points or ends)
        return f"it finds keypoints ({found}), which no app here answers"
    masks = [
        output
        for op in ops
        if op.type in _WHOLE_NUMBERS
        for output in op.outputs
        if not output.consumers() and output.shape.rank == 3  # noqa: PLR2004 - a class a pixel
    ]
    if masks:
        return _pixels_sentence(masks[0])
    side = _input_side(graph)
    for end in ends:
        reason = _describe_output(end, side)
        if reason:
            return reason
    return ""


def _are_points(ends: list[Any]) -> bool:
    """Return whether there are heatmaps next to offsets of two numbers a point."""
    shapes = [shape_of(end) for end in ends]
    maps = [shape for shape in shapes if shape and len(shape) == 4 and shape[3]]  # noqa: PLR2004 - [N, H, W, points]
    return any(
        one[3] * 2 == other[3] and one[3] > 1 and one[:3] == other[:3]  # type: ignore[operator]
        for one in maps
        for other in maps
    )


def _input_side(graph: Any) -> int:
    """Return the longest side of the graph's inputs, 0 if it is not known."""
    shapes = [shape_of(op.outputs[0]) for op in placeholders(graph)]
    images = [shape[-3:-1] for shape in shapes if shape and len(shape) in {3, 4}]
    return max((side or 0 for shape in images for side in shape), default=0)


def _describe_output(tensor: Any, full: int) -> str:
    """Describe an output by its rank and the op that made it.

    Args:
        tensor: the output.
        full: the longest side of the image, 0 if it is not known.
    """
    shape = shape_of(tensor) or ()
    made = maker(tensor).type
    if len(shape) == 5:  # noqa: PLR2004 - [N, H, W, anchors, 5 + classes]
        return _grid_sentence(tensor)
    if len(shape) == 4 and set(shape[1:3]) != {1}:  # noqa: PLR2004
        return _describe_map(tensor, shape, made, full)
    if len(shape) == 3:  # noqa: PLR2004
        sides = [side or _PLACES for side in shape[1:]]
        if max(sides) >= _PLACES and min(sides) > _SIDES and made != "Softmax":
            return _grid_sentence(tensor)
        if max(sides) > _SIDES:
            return (
                f"it gives a sequence ({list_tensors([tensor])}), as text recognition "
                "does, and no classes of the whole photo"
            )
    return ""


def _describe_map(
    tensor: Any, shape: tuple[int | None, ...], made: str, full: int
) -> str:
    """Describe [N, H, W, channels]: a grid, features, an image, or a mask."""
    side = max((length or 0 for length in shape[1:3]), default=0)
    small = 0 < side * _CELLS <= full
    if made in _FEATURES and shape[3] != 3:  # noqa: PLR2004 - colours
        return (
            f"it gives features ({list_tensors([tensor])}), as a network without "
            "its last layers does"
        )
    if small and made not in {"Softmax", "Tanh"}:
        return _grid_sentence(tensor)
    if shape[3] == 3 and made != "Softmax":  # noqa: PLR2004 - colours
        return (
            f"it gives an image back ({list_tensors([tensor])}), as style transfer, "
            "super-resolution and GANs do"
        )
    return _pixels_sentence(tensor)


def _grid_sentence(tensor: Any) -> str:
    return (
        f"it is a detector without post-processing: {list_tensors([tensor])} is its "
        "grid of cells with anchors, in which boxes are neither decoded nor rid of "
        "overlaps (non-maximum suppression)"
    )


def _pixels_sentence(tensor: Any) -> str:
    return (
        f"it gives a value or class a pixel ({list_tensors([tensor])}), as "
        "segmentation and depth networks do, which no app here answers"
    )


def why_measure(tensor: Any) -> str:
    """Explain that values are measures by their name; empty if they may be others."""
    name = "/".join(tensor.op.name.lower().split("/")[-2:])
    for pattern, what in ((_POINT_NAME, "keypoints"), (_MEASURE_NAME, "a measure")):
        if pattern.search(name):
            return f"{tensor.name} is by its name {what} and no class scores"
    return ""
