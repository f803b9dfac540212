"""SSDLite MobileNetV2: a TensorFlow.js graph model in, an object detector out.

The graph model ends in decoded boxes and class scores for 1917 anchors. Non-maximum
suppression and the four ``detection_*`` outputs, which an exported object detector has
after that, are appended here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graphdefs, tfjs

if TYPE_CHECKING:
    from pathlib import Path

INPUT = "image_tensor"
BOXES = "Postprocessor/ExpandDims_1"  # float32 [N, 1917, 1, 4], ymin xmin ymax xmax
SCORES = "Postprocessor/Slice"  # float32 [N, 1917, 90], the background cut off

# As in the model's own training pipeline, so that its published accuracy holds.
MAX_DETECTIONS = 100
IOU_THRESHOLD = 0.6
SCORE_THRESHOLD = 1e-8

FLOAT = np.dtype(np.float32)


def convert(folder: Path) -> bytes:
    """Return the frozen detection graph of the graph model in ``folder``.

    The graph takes ``image_tensor`` uint8 [N, H, W, 3] of any size and gives
    ``detection_boxes`` float32 [N, 100, 4] (ymin xmin ymax xmax, 0..1),
    ``detection_scores`` and ``detection_classes`` float32 [N, 100], best first, and
    ``num_detections`` float32 [N].

    Raises:
        ConversionError: not a graph model, or one without SSDLite's nodes.
    """
    writer = graphdefs.GraphWriter(tfjs.read_graph(folder))
    missing = {INPUT, BOXES, SCORES} - {node.name for node in writer.graph.node}
    if missing:
        raise ConversionError(f"the graph model has no {', '.join(sorted(missing))}")
    append_suppression(writer, BOXES, SCORES)
    return writer.serialise()


def append_suppression(writer: graphdefs.GraphWriter, boxes: str, scores: str) -> None:
    """Append non-maximum suppression and the four outputs of a detector.

    Args:
        writer: holds the graph that has ``boxes`` and ``scores``.
        boxes: float32 [N, A, 1, 4], ymin xmin ymax xmax, 0..1.
        scores: float32 [N, A, C] for the classes 1 to C.
    """
    const = writer.const
    limit = const("Suppression/max_detections", np.array(MAX_DETECTIONS, np.int32))
    iou = const("Suppression/iou_threshold", np.array(IOU_THRESHOLD, FLOAT))
    score = const("Suppression/score_threshold", np.array(SCORE_THRESHOLD, FLOAT))
    first_id = const("Suppression/first_id", np.array(1, FLOAT))
    kept = writer.node(
        "CombinedNonMaxSuppression",
        "Suppression",
        [boxes, scores, limit, limit, iou, score],
        pad_per_class=False,
        clip_boxes=True,
    )
    writer.node("Identity", "detection_boxes", [kept], T=FLOAT)
    writer.node("Identity", "detection_scores", [f"{kept}:1"], T=FLOAT)
    writer.node("AddV2", "detection_classes", [f"{kept}:2", first_id], T=FLOAT)
    writer.node(
        "Cast", "num_detections", [f"{kept}:3"], SrcT=np.dtype(np.int32), DstT=FLOAT
    )
