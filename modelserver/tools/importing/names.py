"""The words that an import knows. Needs no TensorFlow, so the command line has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserver.core.signatures import Kind

# Role to the name that its output gets, which is where the server looks for it.
OUTPUT_NAMES: dict[Kind, dict[str, str]] = {
    "detection": {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "classes": "detection_classes",
        "count": "num_detections",
    },
    "classification": {"scores": "scores"},
}
ROLES = tuple(OUTPUT_NAMES["detection"])
SCALING_NAMES = ("0..255", "0..1", "-1..1", "caffe", "torch")
# Of a model's graph and label map.
ENDINGS: dict[Kind, tuple[str, str]] = {
    "detection": (".frozen.pb", ".label_map.pbtxt"),
    "classification": (".pb", ".pbtxt"),
}
