"""Find how release 0.1 would have fed a graph, to name a scaling that changed.

It read plain constants only, ignored batch normalisations, mean images and the order of
channels, and fed [-1, 1] to a graph without evidence. This module goes once release 0.2
has been out for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.scaling import (
    RAW,
    SQUEEZE_NODE,
    SYMMETRIC,
    UNIT,
    Scaling,
    known_architecture,
)

if TYPE_CHECKING:
    from modelserver.runner.graphs.pixels import Pixels

_TO_BYTES, _OF_UNIT, _OF_UNIT_SHIFT, _BELOW_UNIT = 100.0, 0.1, 10.0, -0.5


def former_detector_scaling(ends: list[Pixels], *, raw: bool) -> Scaling:
    """Return the scaling that release 0.1 chose for a detector, without a sidecar.

    Args:
        ends: of the walk by ``follow_pixels``.
        raw: the input has a name of the Object Detection API.
    """
    return RAW if raw else _from_arithmetic(ends) or RAW


def former_classifier_scaling(graph: Any, ends: list[Pixels]) -> Scaling:
    """Return the scaling that release 0.1 chose for a classifier, without a sidecar.

    Args:
        graph: a ``tf.Graph``.
        ends: of the walk by ``follow_pixels``.
    """
    known = known_architecture(graph)
    if known is not None and SQUEEZE_NODE in known.why:
        known = None
    return _from_arithmetic(ends) or known or SYMMETRIC


def _from_arithmetic(ends: list[Pixels]) -> Scaling | None:
    """Read the range off the arithmetic that release 0.1 understood."""
    for pixels in ends:
        numbers = pixels.formerly or (pixels.factor, pixels.shift)
        factor, shift = (float(np.max(np.abs(number))) for number in numbers)
        if (factor, shift) == (1.0, 0.0) or not np.isfinite(factor + shift):
            continue
        if factor >= _TO_BYTES:
            lowest = -float(np.mean(numbers[1] / numbers[0]))
            return SYMMETRIC if lowest <= _BELOW_UNIT else UNIT
        return UNIT if factor >= _OF_UNIT and shift <= _OF_UNIT_SHIFT else RAW
    return None
