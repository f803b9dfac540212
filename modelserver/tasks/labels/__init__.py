"""Label maps: the names of class ids, and of a classifier's outputs.

A label map is protobuf text (``StringIntLabelMap``, see ``label_map.proto``), plain
text with one name a line, numbered or not, or JSON; ``read_labels`` reads them all.
Everything here is a function of a file's bytes or an immutable value, so it is safe to
use from any thread.
"""

from __future__ import annotations

from modelserver.tasks.labels.alignment import (
    Alignment,
    align,
    align_one_value,
    alignment_of,
    pair,
)
from modelserver.tasks.labels.maps import LabelMap, numbered, read_labels

__all__ = [
    "Alignment",
    "LabelMap",
    "align",
    "align_one_value",
    "alignment_of",
    "numbered",
    "pair",
    "read_labels",
]
