"""The detection task: a photo in, labelled boxes out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec
import numpy as np

from modelserver.core import contract
from modelserver.core.contract import Detection
from modelserver.core.messages import Mark
from modelserver.tasks import export_files, matching
from modelserver.tasks.confidences import (
    ROUNDING,
    confidences,
    in_one_row,
    is_of_one_image,
)
from modelserver.tasks.options import MOST, Options
from modelserver.tasks.task import WHOLE, Box, Finding, Metadata, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from modelserver.core.messages import Outputs
    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Signature
    from modelserver.tasks.export_files import Ranks
    from modelserver.tasks.labels import LabelMap


# Label ids are int32 in a label map; a class beyond is no number of any label.
_MAX_CLASS = 2**31
# A box's sides, a score and a class, each of 8 bytes, the widest type.
_ROW_BYTES = 6 * 8
# Boxes of 0..1 may stick out of the photo, but not so far, and not most of the sure.
_BEYOND = 4.0
_SURE = 0.3
_ALL = Options()
# Of a box that begins with its upper side; and numbers that NumPy need not convert.
_XYXY = np.array([1, 0, 3, 2])
_NOUGHT, _ONE = np.float32(0), np.float32(1)


def parse(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    least: float = 0.0,
    window: Box = WHOLE,
    options: Options = _ALL,
) -> list[Detection]:
    """Turn one image's arrays into its best 10,000 detections, best first.

    Args:
        outputs: ``boxes`` [N, 4] ymin xmin ymax xmax, ``scores`` [N], ``classes`` [N],
            perhaps ``count``; leading axes of 1 are taken too. Rows past ``count`` or
            whose box or class is no number are no detections.
        least: the lowest confidence of a detection, compared as float32.
        window: ymin xmin ymax xmax of the part that the graph saw, in the photo's
            normalised coordinates; other than all of it where the photo was cropped or
            padded for the graph.
        options: of these detections only those are made that they want.

    Raises:
        ValueError: the arrays' shapes do not fit together; or a row's score is a NaN,
            or at least ``least`` and more than 1e-3 outside 0..1.
    """
    rows = _wanted_rows(outputs, labels, least, window, options)
    sides = [shortest(column) for column in rows.boxes.T]
    return [
        Detection(class_id, labels.name(class_id), score, box)
        for class_id, score, box in zip(
            rows.ids.tolist(),
            shortest(rows.scores),
            zip(*sides, strict=True),
            strict=True,
        )
    ]


class _Rows(NamedTuple):
    """Rows of one image that are detections, best first.

    Attributes:
        ids: int64 [N], of the label map.
        scores: float32 [N], 0..1.
        boxes: float32 [N, 4], x1 y1 x2 y2 in the photo's normalised coordinates.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]

    def take(self, places: slice | NDArray[np.intp]) -> _Rows:
        """Return some of the rows."""
        return _Rows(self.ids[places], self.scores[places], self.boxes[places])


def _wanted_rows(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    least: float,
    window: Box,
    options: Options,
) -> _Rows:
    """Return the rows of ``parse``.

    For the thousands that a graph can give, objects would take the engine's time.
    """
    rows = _sound_rows(outputs, least, window)
    if options.labels is not None:
        known = np.unique(rows.ids).tolist()
        wanted = [one for one in known if options.wants(labels.name(one))]
        rows = rows.take(np.flatnonzero(np.isin(rows.ids, wanted)))
    return rows.take(slice(options.max_results))


def _sound_rows(
    outputs: Mapping[str, NDArray[np.generic]], least: float, window: Box
) -> _Rows:
    """Return the best 10,000 rows; arguments and errors are those of ``parse``."""
    scores = in_one_row(np.asarray(outputs["scores"])).astype(np.float32)
    boxes = _boxes(outputs["boxes"])
    classes = np.asarray(outputs["classes"], np.float64).reshape(-1)
    if not len(scores) == len(boxes) == len(classes):
        raise ValueError(
            f"{len(boxes)} boxes, {len(scores)} scores and {len(classes)} classes"
        )
    scores = scores[: counted(outputs)]
    # Below are padding and what nobody asked for; a NaN is neither.
    (rows,) = (~(scores < np.float32(least or -ROUNDING))).nonzero()
    scores, boxes, classes = confidences(scores[rows]), boxes[rows], classes[rows]
    sound = np.logical_and.reduce(np.isfinite(boxes), axis=1)
    sound &= np.abs(classes) < _MAX_CLASS
    best = np.argsort(-scores, kind="stable")
    best = best[sound[best]][:MOST]
    corners = _in_photo(boxes[best], window).take(_XYXY, axis=1)
    np.minimum(np.maximum(corners, _NOUGHT, out=corners), _ONE, out=corners)
    return _Rows(
        np.rint(classes[best]).astype(np.int64),
        scores[best],
        # Zero has a sign, which an answer would show.
        np.add(corners, _NOUGHT, out=corners),
    )


def _boxes(output: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return boxes as float32 [N, 4].

    Raises:
        ValueError: they have no four sides.
    """
    boxes = np.asarray(output, np.float32)
    if boxes.size % 4:
        raise ValueError(f"boxes of four sides cannot be {boxes.size} numbers")
    return boxes.reshape(-1, 4)


def counted(outputs: Mapping[str, NDArray[np.generic]]) -> int | None:
    """Return how many of an image's rows count, by ``num_detections``.

    Returns:
        ``None`` for all: there is no such number, or a NaN.

    Raises:
        ValueError: it is empty.
    """
    if "count" not in outputs:
        return None
    values = np.asarray(outputs["count"], np.float64).reshape(-1)
    if not values.size:
        raise ValueError("num_detections is empty")
    value = float(values[0])
    return max(0, int(value)) if np.isfinite(value) else None


def best_rows(
    outputs: Mapping[str, NDArray[np.generic]],
) -> Mapping[str, NDArray[np.generic]]:
    """Cut one image's arrays to the rows that ``parse`` takes at most, 10,000.

    They stay in their order; those with a NaN for a score come before others, as
    ``parse`` refuses them. Arrays that do not fit together are left for it, too.
    """
    scores, boxes, classes = (
        np.asarray(outputs[role]).reshape(-1) for role in ("scores", "boxes", "classes")
    )
    rows = len(scores)
    if not is_of_one_image(np.asarray(outputs["scores"])):
        return outputs
    if rows <= MOST or boxes.size != 4 * rows or classes.size != rows:
        return outputs
    try:
        scores = scores[: counted(outputs)]
    except ValueError:
        return outputs
    first = np.where(np.isnan(scores), -np.inf, -scores.astype(np.float64))
    best = np.sort(np.argsort(first, kind="stable")[:MOST])
    cut = {
        "scores": scores[best],
        "boxes": boxes.reshape(-1, 4)[best],
        "classes": classes[best],
    }
    if "count" in outputs:
        cut["count"] = np.array([len(best)], np.float32)
    return cut


def detections_of(
    signature: Signature,
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    least: float = 0.0,
    *,
    window: Box = WHOLE,
    options: Options = _ALL,
) -> list[Detection]:
    """Turn one image's arrays into detections as the signature says.

    The arguments are those of ``parse``.

    Raises:
        ValueError: as ``parse``; or the boxes are in pixels.
    """
    arrays = _plain_arrays(signature, outputs, labels)
    return parse(arrays, labels, least, window, options)


def _plain_arrays(
    signature: Signature,
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
) -> dict[str, NDArray[np.generic]]:
    """Return arrays as ``parse`` takes them.

    Raises:
        ValueError: the boxes are in pixels, or no boxes.
    """
    arrays = dict(outputs)
    boxes = _boxes(outputs["boxes"])
    if signature.box_order == "xyxy":
        boxes = boxes[:, [1, 0, 3, 2]]
    arrays["boxes"] = boxes
    offset = _offset(signature, labels)
    if offset:
        arrays["classes"] = np.asarray(outputs["classes"], np.float64) + offset
    _refuse_pixels(boxes, outputs["scores"])
    return arrays


def _offset(signature: Signature, labels: LabelMap) -> int:
    """Return the difference between a label's id and the detector's class."""
    if signature.label_offset is not None:
        return signature.label_offset
    # The graph counts from 0, the label map from 1.
    counts = signature.first_class == 0 and labels.names and 0 not in labels.names
    return 1 if counts else 0


def _refuse_pixels(boxes: NDArray[np.float32], scores: NDArray[np.generic]) -> None:
    """Refuse boxes in pixels, which would be clipped to the photo's last corner.

    A row whose box is no number is no detection, and hides no other.
    """
    if not (boxes > _BEYOND).any():
        return
    sure = np.asarray(scores, np.float32).reshape(-1) >= _SURE
    if len(sure) != len(boxes):
        return
    far = boxes[sure & np.isfinite(boxes).all(axis=1)].max(axis=1)
    if far.size and np.median(far) > _BEYOND:
        raise ValueError(
            f"its boxes reach to {np.median(far):g}: they are in pixels, and must be "
            "0..1 of the photo's height and width"
        )


def _in_photo(boxes: NDArray[np.float32], window: Box) -> NDArray[np.float32]:
    """Move boxes [N, 4] from the part that the graph saw to the whole photo."""
    ymin, xmin, ymax, xmax = window
    if window == WHOLE:
        return boxes
    scale = np.array([ymax - ymin, xmax - xmin] * 2, np.float32)
    return boxes * scale + np.array([ymin, xmin] * 2, np.float32)


def shortest(values: NDArray[np.float32]) -> list[float]:
    """Return float32 values as floats with the fewest digits that read back as them."""
    return [float(str(value)) for value in values]


def _least(options: Options, settings: Settings) -> float:
    """Return the lowest confidence of a detection in the answer to a request."""
    if options.min_confidence is None:
        return settings.min_confidence
    return max(
        options.min_confidence, min(settings.score_floor, settings.min_confidence)
    )


def in_pixels(one: Detection, size: tuple[int, int]) -> Detection:
    """Return a detection with its box in pixels, to the thousandth.

    Args:
        size: the upright photo's width and height.
    """
    x1, y1, x2, y2 = (
        round(side * whole, 3) for side, whole in zip(one.box, size * 2, strict=True)
    )
    return Detection(one.class_id, one.label, one.confidence, (x1, y1, x2, y2))


# The Object Detection API's exporter writes the first; *.frozen.pb is the contract's.
_EXPORTED: tuple[str, ...] = ("frozen_inference_graph.pb",)
_GRAPHS: Ranks = (_EXPORTED, ("*.frozen.pb",))


class DetectionTask(Task[list[Detection]]):
    """A photo in, labelled boxes out."""

    kind = "detection"
    endpoint = contract.DETECT
    app = "app.py"
    summary = "Find objects in photos"
    heading = "What is in the photo, and where?"
    slides = True
    graph_ending, labels_ending = ".frozen.pb", ".label_map.pbtxt"
    exported = _EXPORTED
    exported_by = "a detector as the Object Detection API exports it"
    outputs: ClassVar[Mapping[str, str]] = {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "classes": "detection_classes",
        "count": "num_detections",
    }
    optional = frozenset({"count"})
    finds = "boxes"
    options = frozenset({"min_confidence", "labels", "max_results", "coordinates"})
    # Its 0 is the background.
    first_id = 1
    answer_type = list[Detection]
    result_type = contract.DetectResult
    results_type = contract.DetectResults

    def parse(
        self,
        outputs: Outputs,
        metadata: Metadata,
        window: Box,
        options: Options,
        settings: Settings,
    ) -> list[Detection]:
        """Make the detections that the options want; see ``Task``.

        Nothing below ``SCORE_FLOOR`` is found, or below ``MIN_CONFIDENCE`` where that
        is lower: a graph may have been loaded to give no more than that.
        """
        least = _least(options, settings)
        signature, labels, _ = metadata
        return detections_of(
            signature, outputs, labels, least, window=window, options=options
        )

    def below(
        self,
        outputs: Outputs,
        metadata: Metadata,
        window: Box,
        options: Options,
        settings: Settings,
    ) -> tuple[int, float]:
        """Count the detections of wanted labels that are too unsure; see ``Task``."""
        floor = min(settings.score_floor, settings.min_confidence)
        every = replace(options, max_results=None)
        signature, labels, _ = metadata
        arrays = _plain_arrays(signature, outputs, labels)
        rows = _wanted_rows(arrays, labels, floor, window, every)
        return len(rows.ids), _least(options, settings)

    def shorten(self, outputs: Outputs) -> Outputs:
        """Return the best 10,000 rows; see ``Task``."""
        return best_rows(outputs)

    def output_bytes(self, signature: Signature) -> int:
        """Return the bytes of 10,000 rows; see ``Task``."""
        del signature
        return MOST * _ROW_BYTES

    def everything(
        self, outputs: Outputs, metadata: Metadata, window: Box = WHOLE
    ) -> list[Detection]:
        """Make the best 10,000 detections; see ``Task``."""
        return detections_of(
            metadata.signature, outputs, metadata.labels, window=window
        )

    def answer(
        self, found: list[Detection], size: tuple[int, int], options: Options
    ) -> list[Detection]:
        """Return detections as the contract has them; in pixels, if asked for."""
        return [in_pixels(one, size) for one in found] if options.pixel else found

    def result(
        self, file: str, model: str, answer: list[Detection]
    ) -> contract.DetectResult:
        """Return an answer as one result among several."""
        return contract.DetectResult(file=file, model=model, detections=answer)

    def findings(self, answer: list[Detection]) -> list[Finding]:
        """Return each detection; see ``Task``."""
        return [
            Finding(one.class_id, one.label, one.confidence, one.box) for one in answer
        ]

    def scores(self, found: list[Detection]) -> list[tuple[str, float]]:
        """Return each detection's label and confidence."""
        return [(one.label, one.confidence) for one in found]

    def marks(self, found: list[Detection]) -> Iterator[Mark]:
        """Give each detection's box; see ``Task``."""
        for one in found:
            yield Mark(one.label, f"{one.label} {one.confidence:.2f}", one.box)

    def lines(self, found: list[Detection]) -> Iterator[str]:
        """Give a line for each detection."""
        for one in found:
            yield f"{one.label} {one.confidence} {list(one.box)}"

    def difference(
        self, expected: bytes, found: list[Detection], min_confidence: float
    ) -> str:
        """Tell how detections differ, in any order; see ``Task``."""
        wanted = msgspec.json.decode(expected, type=list[matching.ExpectedDetection])
        return matching.detections_differ(wanted, found, min_confidence)

    def graph_files(self, told: str | None) -> Ranks:
        """Return a detector's graphs; the manifest says whose ``model.pb`` is."""
        return (("model.pb",), *_GRAPHS) if told == self.kind else _GRAPHS

    def label_files(self, graph: str, told: str | None, named: str | None) -> Ranks:
        """Return a detector's label maps; see ``Task``."""
        if told != self.kind:
            return super().label_files(graph, told, named)
        return export_files.label_files(graph, named)


DETECTION = DetectionTask()
