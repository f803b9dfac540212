"""The offset between a classifier's output indexes and its label ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelserver.labels.maps import LabelMap

# ImageNet's 1,000 classes and, first, a background class that label maps often omit.
IMAGENET_WITH_BACKGROUND = 1001


@dataclass(frozen=True)
class Alignment:
    """Where a classifier's outputs stand in its label map.

    Attributes:
        offset: label id = output index + offset.
        sentence: why, for the log.
        warning: it is a guess; the sentence asks for the sidecar's ``label_offset``.
    """

    offset: int
    sentence: str
    warning: bool


def align(labels: LabelMap, outputs: int, override: int | None = None) -> Alignment:
    """Choose the offset between a classifier's output indexes and its label ids.

    Args:
        labels: the model's label map.
        outputs: number of classes the graph gives out.
        override: the sidecar's ``label_offset``, which wins over everything.
    """
    ids = labels.names
    if override is not None:
        offset, why, sure = override, "label_offset in the sidecar", True
    elif not ids:
        offset, why, sure = 0, "there is no label map", True
    else:
        offset, why, sure = _offset(ids, outputs)
    sentence = f"{why}: label id = output index{f' {offset:+d}' if offset else ''}"
    named = sum(0 <= class_id - offset < outputs for class_id in ids)
    if ids and named < outputs:
        sentence += f"; {outputs - named} of the {outputs} outputs have no name"
    if not sure:
        sentence += "; this is a guess, set label_offset in the model's sidecar"
    return Alignment(offset, sentence, warning=not sure)


def _offset(ids: Mapping[int, str], outputs: int) -> tuple[int, str, bool]:
    """The offset, the reason for it, and whether it is more than a guess."""
    highest = max(ids)
    guess = (0, f"label ids up to {highest} do not fit {outputs} outputs", False)
    if 0 in ids:
        # One name too few, none left out: 1,000 names from 0 on 1,001 outputs, say,
        # are probably all names but the background's.
        one_short = highest == outputs - 2 == len(ids) - 1
        fits = highest < outputs and not one_short
        return (0, "the label map has an id 0", True) if fits else guess
    if highest == outputs:
        return 1, f"label ids count from 1 to the number of outputs, {outputs}", True
    if highest == outputs - 1 == IMAGENET_WITH_BACKGROUND - 1:
        return 0, "1001 outputs for label ids up to 1000, 0 is a background class", True
    if highest == outputs - 1:
        return 0, f"the highest label id, {highest}, is the last output's index", True
    return guess
