"""Whether a model sees in its golden image what it must, and what it sees instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.contract import Detection

CONFIDENCE_WITHIN = 0.02
BOX_WITHIN = 0.01
# float32 digits, read from text: what is exactly within counts as within.
_ROUNDING = 1e-6
_LONGEST_LABEL = 100


class ExpectedDetection(msgspec.Struct, frozen=True):
    """One element of what ``/detect`` answers; more fields are passed over."""

    label: str
    confidence: float
    bounding_box: tuple[float, float, float, float]


class ExpectedClass(msgspec.Struct, frozen=True):
    """What ``/classify`` answers; more fields are passed over."""

    label: str | None = msgspec.field(name="class")


def class_differs(wanted: str | None, found: str | None) -> str:
    """Say how a class, ``None`` for none, differs; empty where it does not."""
    if wanted == found:
        return ""
    names = ["no class" if name is None else _cut(name) for name in (wanted, found)]
    return f"{names[0]} is expected, the model says {names[1]}"


def detections_differ(
    wanted: Sequence[ExpectedDetection],
    found: Sequence[Detection],
    min_confidence: float,
) -> str:
    """Say how detections differ, in whatever order they are; empty where they do not.

    Args:
        wanted: what must be found, each by another detection.
        found: all that was found, however unsure.
        min_confidence: what is surer than this must be wanted.
    """
    taken: dict[int, int] = {}
    for place, one in enumerate(wanted):
        if not _give(place, wanted, found, taken, set()):
            what = _say(one.label, one.bounding_box, one.confidence)
            return f"{what} is expected, {_nearest(one, found)}"
    for place, more in enumerate(found):
        if place not in taken and more.confidence > min_confidence + CONFIDENCE_WITHIN:
            return f"{_say(more.label, more.box, more.confidence)} is not expected"
    return ""


def _give(
    place: int,
    wanted: Sequence[ExpectedDetection],
    found: Sequence[Detection],
    taken: dict[int, int],
    tried: set[int],
) -> bool:
    """Find a detection for a wanted one, giving others another where that helps."""
    fit = [other for other, one in enumerate(found) if _alike(wanted[place], one)]
    # One that nobody has, first: a row of equal ones would be handed down one by one.
    for other in fit:
        if other not in taken:
            taken[other] = place
            return True
    for other in fit:
        if other not in tried:
            tried.add(other)
            if _give(taken[other], wanted, found, taken, tried):
                taken[other] = place
                return True
    return False


def _alike(wanted: ExpectedDetection, found: Detection) -> bool:
    sides = zip(wanted.bounding_box, found.box, strict=True)
    return (
        wanted.label == found.label
        and abs(wanted.confidence - found.confidence) <= CONFIDENCE_WITHIN + _ROUNDING
        and all(abs(a - b) <= BOX_WITHIN + _ROUNDING for a, b in sides)
    )


def _nearest(wanted: ExpectedDetection, found: Sequence[Detection]) -> str:
    """Say what was found instead."""
    same = [one for one in found if one.label == wanted.label]
    if not same:
        labels = ", ".join(dict.fromkeys(_cut(one.label) for one in found[:3]))
        return f"the model finds {labels or 'nothing'}"

    def distance(one: Detection) -> float:
        return sum(
            abs(a - b) for a, b in zip(wanted.bounding_box, one.box, strict=True)
        )

    nearest = min(same, key=distance)
    return f"the nearest is {_say(nearest.label, nearest.box, nearest.confidence)}"


def _cut(label: str) -> str:
    return repr(label[:_LONGEST_LABEL])


def _say(label: str, box: Sequence[float], confidence: float) -> str:
    sides = ", ".join(f"{side:.3f}" for side in box)
    return f"{_cut(label)} at [{sides}] with confidence {confidence:.3f}"
