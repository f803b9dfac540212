"""Compare a model's answer to its golden image with the expected one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modelserver.core.contract import Detection

CONFIDENCE_WITHIN = 0.02
BOX_WITHIN = 0.01
# float32 digits, read from text: what is exactly within counts as within.
_ROUNDING = 1e-6
# How far label, confidence and the box's sides may be apart.
_WITHIN = np.array([0, CONFIDENCE_WITHIN, *[BOX_WITHIN] * 4]) + _ROUNDING
# Each is half a millisecond if 10,000 are found, the most of an answer.
_MOST_LOOKS = 20_000
_LONGEST_LABEL = 100


class ExpectedDetection(msgspec.Struct, frozen=True):
    """One element of an answer of ``/detect``; other fields are ignored."""

    label: str
    confidence: float
    bounding_box: tuple[float, float, float, float]


class ExpectedClass(msgspec.Struct, frozen=True):
    """An answer of ``/classify``; other fields are ignored."""

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
    """Describe how detections differ, in any order; empty if they do not.

    Args:
        wanted: the expected detections, each to be found by another one.
        found: all that was found, however unsure.
        min_confidence: a surer detection must be an expected one.
    """
    pairs = _Pairs(wanted, found)
    for index, one in enumerate(wanted):
        if not pairs.give(index, np.zeros(len(found), bool)):
            what = _say(one.label, one.bounding_box, one.confidence)
            return f"{what} is expected, {_nearest(one, found)}"
    for more in (found[index] for index in np.flatnonzero(pairs.owners < 0).tolist()):
        if more.confidence > min_confidence + CONFIDENCE_WITHIN:
            return f"{_say(more.label, more.box, more.confidence)} is not expected"
    return ""


class _Pairs:
    """Which wanted detection has which that was found.

    Attributes:
        owners: int [found]: the wanted one that each is given to; -1 for none.
    """

    def __init__(
        self, wanted: Sequence[ExpectedDetection], found: Sequence[Detection]
    ) -> None:
        self.owners = np.full(len(found), -1)
        self._looks = _MOST_LOOKS
        codes: dict[str, int] = {}
        rows = [
            (codes.setdefault(one.label, len(codes)), one.confidence, *one.box)
            for one in found
        ]
        self._found = np.array(rows, np.float64).reshape(-1, 6)
        self._wanted = [
            np.array((codes.get(one.label, -1), one.confidence, *one.bounding_box))
            for one in wanted
        ]

    def give(self, index: int, tried: NDArray[np.bool_]) -> bool:
        """Find a detection for a wanted one, giving others another if that helps.

        Args:
            tried: bool [found]: those that need not be looked at again.

        Raises:
            ValueError: so many are alike that it would take long.
        """
        self._looks -= 1
        if self._looks < 0:
            raise ValueError("too many detections that are alike")
        gaps = np.abs(self._found - self._wanted[index])
        fit = (gaps <= _WITHIN).all(axis=1)
        # The nearest that nobody has: a row of near ones would be handed down.
        free = np.flatnonzero(fit & (self.owners < 0))
        if free.size:
            self.owners[free[gaps[free].sum(axis=1).argmin()]] = index
            return True
        for other in np.flatnonzero(fit):
            if not tried[other]:
                tried[other] = True
                if self.give(int(self.owners[other]), tried):
                    self.owners[other] = index
                    return True
        return False


def _nearest(wanted: ExpectedDetection, found: Sequence[Detection]) -> str:
    """Describe the nearest detection that was found instead."""
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
