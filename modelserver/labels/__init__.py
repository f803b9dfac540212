"""Label maps: which name belongs to which class id, and to which output.

A label map is protobuf text (``StringIntLabelMap``, see ``label_map.proto``) or, beside
a classifier, plain text with one name a line. Everything here is a function of a file's
bytes or an immutable value, so it is safe to use from any thread.
"""

from __future__ import annotations

from modelserver.labels.alignment import (
    Alignment,
    align,
    align_one_value,
    alignment_of,
    pair,
)
from modelserver.labels.maps import (
    LabelMap,
    numbered,
    read_label_map,
    read_labels,
    read_labels_txt,
)

__all__ = [
    "Alignment",
    "LabelMap",
    "align",
    "align_one_value",
    "alignment_of",
    "numbered",
    "pair",
    "read_label_map",
    "read_labels",
    "read_labels_txt",
]
