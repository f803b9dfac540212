"""The offset between a classifier's output indexes and its label ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelserver.core.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelserver.core.signatures import Signature
    from modelserver.tasks.labels.maps import LabelMap

# ImageNet's 1,000 classes and, first, a background class that label maps often omit.
IMAGENET_WITH_BACKGROUND = 1001
_PAIR = 2


@dataclass(frozen=True)
class Alignment:
    """The alignment of a classifier's outputs with its label map.

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
        outputs: number of classes that the graph outputs.
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


def alignment_of(labels: LabelMap, signature: Signature) -> Alignment | None:
    """Choose the alignment of a loaded graph's outputs with its label map.

    Returns:
        ``None`` for a detector, or if the number of classes is not known.

    Raises:
        GraphError: as :func:`align_one_value`.
    """
    if signature.classes is None:
        return None
    if signature.classes == 1:
        return align_one_value(
            labels, signature.label_offset, guessed=signature.sigmoid
        )
    return align(labels, signature.classes, signature.label_offset)


def align_one_value(
    labels: LabelMap, override: int | None = None, *, guessed: bool = False
) -> Alignment:
    """Choose the labels of a classifier that outputs one probability.

    Args:
        labels: the model's label map.
        override: the sidecar's ``label_offset``: the first label's id.
        guessed: the output is only guessed to be a probability, of a logit, so the
            labels must confirm it.

    Returns:
        Its offset is the id of the first label; :func:`pair` returns both.

    Raises:
        GraphError: there are more than two labels, and no override that chooses; or
            there are not two, and the probability is a guess.
    """
    ids = sorted(labels.names)
    if guessed and override is None and len(ids) != _PAIR:
        raise GraphError(
            "the graph gives one value that is no probability as it stands: it is "
            "taken for one of two classes where the label map has two labels, but it "
            f"has {len(ids)}. Give it two if it tells two classes apart; an age, a "
            "distance or another measure is no classifier's"
        )
    if override is None and len(ids) > _PAIR:
        raise GraphError(
            f"the graph gives one probability, but the label map has {len(ids)} "
            "labels: such a graph needs two, the first for a probability up to .5, the "
            "second above it. Give it its own label map, or see that this is the right "
            "graph"
        )
    offset = override if override is not None else ids[0] if ids else 0
    names = [repr(labels.name(number)) for number in pair(labels, offset)]
    if len(names) == _PAIR:
        rule = f"up to .5 it is {names[0]}, above that {names[1]}"
    else:
        rule = f"from .5 on it is {names[0]}, below that nothing"
    return Alignment(offset, f"the graph gives one probability: {rule}", warning=False)


def pair(labels: LabelMap, first: int) -> Sequence[int]:
    """Return the label ids that a lone probability decides between.

    Args:
        labels: the model's label map.
        first: as :func:`align_one_value` chose it.

    Returns:
        Two ids, the first for a probability up to .5; or one id, whose probability it
        is, if the label map has just one label.
    """
    ids = sorted(labels.names)
    if len(ids) == 1 and ids[0] == first:
        return ids
    return ids if len(ids) == _PAIR and ids[0] == first else (first, first + 1)


def _offset(ids: Mapping[int, str], outputs: int) -> tuple[int, str, bool]:
    """Return the offset, the reason for it, and whether it is more than a guess."""
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
