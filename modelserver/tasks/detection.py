"""The detection task: a photo in, labelled boxes out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from modelserver.tasks.options import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature
    from modelserver.tasks.labels import LabelMap
    from modelserver.tasks.options import Options


# Label ids are int32 in a label map; a class beyond is no number of any label.
_MAX_CLASS = 2**31
# Boxes of 0..1 may stick out of the photo, but not so far, and not most of the sure.
_BEYOND = 4.0
_SURE = 0.3


@dataclass(frozen=True)
class Detection:
    """One object that was found.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1, a float32 value, the shortest decimal that reads back as it.
        box: x1, y1, x2, y2 in [0, 1], of the upright photo's width and height.
    """

    class_id: int
    label: str
    confidence: float
    box: tuple[float, float, float, float]


def parse(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    least: float = 0.0,
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> list[Detection]:
    """Turn one image's arrays into its best 10,000 detections, best first.

    Args:
        outputs: ``boxes`` [N, 4] ymin xmin ymax xmax, ``scores`` [N], ``classes`` [N],
            perhaps ``count``; leading axes of 1 are taken too. Rows past ``count`` and
            rows that hold a NaN or an infinity are no detections.
        least: what confidence a detection must have at least, compared as float32.
        window: ymin xmin ymax xmax of what the graph was shown, in the photo's
            normalised coordinates; other than all of it where the photo was cropped or
            padded for the graph.

    Raises:
        ValueError: the arrays' shapes do not fit together.
    """
    scores = np.asarray(outputs["scores"], np.float32).reshape(-1)
    boxes = np.asarray(outputs["boxes"], np.float32).reshape(-1, 4)
    classes = np.asarray(outputs["classes"], np.float64).reshape(-1)
    if not len(scores) == len(boxes) == len(classes):
        raise ValueError(
            f"{len(boxes)} boxes, {len(scores)} scores and {len(classes)} classes"
        )
    rows = np.flatnonzero(scores >= np.float32(least))
    if "count" in outputs:
        rows = rows[rows < _whole(outputs["count"])]
    sound = np.isfinite(scores[rows]) & (np.abs(classes[rows]) < _MAX_CLASS)
    rows = rows[sound & np.isfinite(boxes[rows]).all(axis=1)]
    # Rows become Python objects one by one, which for the millions that a graph can
    # give would take the front's time from everybody.
    rows = rows[np.argsort(-scores[rows], kind="stable")[:MOST]]
    corners = np.clip(_in_photo(boxes[rows], window)[:, [1, 0, 3, 2]], 0.0, 1.0)
    sides = [shortest(column) for column in corners.T]
    ids = np.rint(classes[rows]).astype(np.int64).tolist()
    return [
        Detection(class_id, labels.name(class_id), score, box)
        for class_id, score, box in zip(
            ids, shortest(scores[rows]), zip(*sides, strict=True), strict=True
        )
    ]


def detections_of(
    signature: Signature,
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    least: float = 0.0,
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> list[Detection]:
    """Turn one image's arrays into detections as the signature says.

    The arguments are those of ``parse``.

    Raises:
        ValueError: as ``parse``; or the boxes are in pixels.
    """
    arrays = dict(outputs)
    boxes = np.asarray(outputs["boxes"], np.float32).reshape(-1, 4)
    if signature.box_order == "xyxy":
        boxes = boxes[:, [1, 0, 3, 2]]
    arrays["boxes"] = boxes
    offset = _offset(signature, labels)
    if offset:
        arrays["classes"] = np.asarray(outputs["classes"], np.float64) + offset
    _refuse_pixels(boxes, outputs["scores"])
    return parse(arrays, labels, least, window)


def _offset(signature: Signature, labels: LabelMap) -> int:
    """Give what leads from a detector's class to the label's id."""
    if signature.label_offset is not None:
        return signature.label_offset
    # The graph counts from 0, the label map from 1.
    counts = signature.first_class == 0 and labels.names and 0 not in labels.names
    return 1 if counts else 0


def _refuse_pixels(boxes: NDArray[np.float32], scores: NDArray[np.generic]) -> None:
    """Refuse boxes in pixels, which would be clipped to the photo's last corner."""
    if not boxes.size or not boxes.max() > _BEYOND:
        return
    sure = np.asarray(scores, np.float32).reshape(-1) >= _SURE
    if len(sure) != len(boxes):
        return
    far = boxes[sure].max(axis=1)
    if far.size and np.median(far) > _BEYOND:
        raise ValueError(
            f"its boxes reach to {np.median(far):g}: they are in pixels, and must be "
            "0..1 of the photo's height and width"
        )


def _in_photo(
    boxes: NDArray[np.float32], window: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Move boxes [N, 4] from what the graph was shown to the whole photo."""
    ymin, xmin, ymax, xmax = window
    if window == (0.0, 0.0, 1.0, 1.0):
        return boxes
    scale = np.array([ymax - ymin, xmax - xmin] * 2, np.float32)
    return boxes * scale + np.array([ymin, xmin] * 2, np.float32)


def shortest(values: NDArray[np.float32]) -> list[float]:
    """Return float32 values as floats with the fewest digits that read back as them."""
    return [float(str(value)) for value in values]


def select(detections: Sequence[Detection], options: Options) -> list[Detection]:
    """Return those whose labels are wanted, the first so many."""
    if options.labels is None:
        return list(detections[: options.max_results])
    wanted = (one for one in detections if options.wants(one.label))
    return list(islice(wanted, options.max_results))


def to_json(
    detections: Sequence[Detection], size: tuple[int, int] | None = None
) -> list[dict[str, object]]:
    """Return detections in the contract's shape.

    Args:
        size: width and height in pixels, for boxes in pixels, to the thousandth.
    """
    return [
        {
            "class": one.class_id,
            "label": one.label,
            "confidence": one.confidence,
            "bounding_box": list(one.box) if size is None else _pixels(one.box, size),
        }
        for one in detections
    ]


def _pixels(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> list[float]:
    return [round(side * whole, 3) for side, whole in zip(box, size * 2, strict=True)]


def _whole(count: NDArray[np.generic]) -> int:
    """Return ``num_detections`` as a count of rows; a NaN cuts nothing."""
    values = np.asarray(count, np.float64).reshape(-1)
    if not values.size:
        raise ValueError("num_detections is empty")
    value = float(values[0])
    return max(0, int(value)) if np.isfinite(value) else np.iinfo(np.int64).max
