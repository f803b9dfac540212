"""Confidences: numbers from 0 to 1; no other is ever answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

F = TypeVar("F", np.float32, np.float64)

ROUNDING = 1e-3
"""By how much a confidence of low precision, as float16 is, may be outside 0..1."""


def is_of_one_image(scores: NDArray[np.generic]) -> bool:
    """Return whether scores lie along one axis; others may have a length of 1."""
    return scores.size <= max(scores.shape, default=1)


def in_one_row(scores: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return one image's scores along one axis.

    Raises:
        ValueError: they have several, so they are those of several images, or not one
            a class or box.
    """
    if not is_of_one_image(scores):
        shape = " x ".join(map(str, scores.shape))
        raise ValueError(f"its scores for one image are {shape} numbers, not a row")
    return scores.reshape(-1)


def confidences(scores: NDArray[F]) -> NDArray[F]:
    """Return scores as confidences, clipped if rounding took them out of 0..1.

    Args:
        scores: of any shape.

    Raises:
        ValueError: one is a NaN, or more than 1e-3 outside.
    """
    if not scores.size:
        return scores
    # As float32, in which 1.001 is exactly 1e-3 outside; a NaN is both extremes.
    close = scores.astype(np.float32, copy=False)
    least, most = close.min(), close.max()
    if not (least >= -ROUNDING and most <= 1 + ROUNDING):
        which = "its one score" if scores.size == 1 else "one of its scores"
        within = (close >= -ROUNDING) & (close <= 1 + ROUNDING)
        raise ValueError(f"{which}, {scores[~within][0]:g}, is no probability")
    if least < 0 or most > 1:
        scores = np.clip(scores, 0, 1)
    # Zero has a sign, which an answer would show.
    return scores + scores.dtype.type(0)
