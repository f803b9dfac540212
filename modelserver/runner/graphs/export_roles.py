"""Tell a detector's outputs by their places, where they have no names of their own.

A frozen TensorFlow 2 export calls its outputs ``Identity``, ``Identity_1`` ... in the
order of ``tf.nest``, which sorts a dict by key. The Object Detection API's exporters
write few sets of keys, whose ranks tell them apart. Needs no TensorFlow.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_Export: TypeAlias = tuple[tuple[str, int], ...]

# Role to node name, as the TensorFlow Object Detection API's exporters write them.
NAMES = {
    "boxes": "detection_boxes",
    "scores": "detection_scores",
    "classes": "detection_classes",
    "count": "num_detections",
}
REQUIRED = ("boxes", "scores", "classes")
_PLACE = re.compile(r"Identity(?:_(\d{1,3}))?")

# Keys of the API's exporters, in their order, with their ranks.
_EXPORTS: tuple[_Export, ...] = (
    (
        ("detection_anchor_indices", 2),
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_multiclass_scores", 3),
        ("detection_scores", 2),
        ("num_detections", 1),
        ("raw_detection_boxes", 3),
        ("raw_detection_scores", 3),
    ),
    (
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_multiclass_scores", 3),
        ("detection_scores", 2),
        ("num_detections", 1),
        ("raw_detection_boxes", 3),
        ("raw_detection_scores", 3),
    ),
    (
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_scores", 2),
        ("num_detections", 1),
    ),
)


def place_of(node: str) -> int | None:
    """Return the place that a node's name tells; ``None`` where it tells none."""
    match = _PLACE.fullmatch(node)
    return int(match[1] or 0) if match else None


def roles_by_place(
    ranks: Mapping[int, int | None], named: Collection[str] = ()
) -> dict[str, int]:
    """Tell which place has which role.

    Args:
        ranks: place to the number of axes of the tensor there. Where some outputs were
            dropped, or have a name of their own, their places are not there.
        named: roles whose outputs have names of their own.

    Returns:
        Role to place, which together with ``named`` has boxes, scores and classes at
        least; empty where no set of keys fits, or two fit that mean different things.
    """
    whole = [rank for _, rank in sorted(ranks.items())]
    for export in _EXPORTS:
        if whole == [rank for _, rank in export]:
            return _told(dict(enumerate(sorted(ranks))), export, named)
    found: list[dict[str, int]] = []
    for export in _EXPORTS:
        if all(p < len(export) and export[p][1] == rank for p, rank in ranks.items()):
            told = _told({place: place for place in ranks}, export, named)
            if told not in found and told.keys() | set(named) >= set(REQUIRED):
                found.append(told)
    return found[0] if len(found) == 1 else {}


def _told(
    places: Mapping[int, int], export: _Export, named: Collection[str]
) -> dict[str, int]:
    """Give role to place, for an export whose keys have these places."""
    keys = {export[number][0]: place for number, place in places.items()}
    return {
        role: keys[key]
        for role, key in NAMES.items()
        if key in keys and role not in named
    }
