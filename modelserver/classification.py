"""The classification task: a photo in, a class out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from modelserver.labels import LabelMap


@dataclass(frozen=True)
class Classification:
    """One class with its score.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1.
    """

    class_id: int
    label: str
    confidence: float


def parse(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    offset: int,
    *,
    softmax: bool = False,
    top: int = 5,
) -> list[Classification]:
    """Turn one image's class scores into its best classes, best first.

    Args:
        outputs: ``scores``, one value a class, of any rank.
        offset: label id = output index + offset.
        softmax: the scores are logits.
        top: how many classes to return.

    Raises:
        ValueError: there is no score, or none that is a number.
    """
    scores = np.asarray(outputs["scores"], np.float64).reshape(-1)
    finite = np.isfinite(scores)
    if not finite.any():
        raise ValueError(f"none of its {len(scores)} scores is a number")
    scores = np.where(finite, scores, -np.inf)
    if softmax:
        powers = np.exp(scores - scores.max())
        scores = powers / powers.sum()
    best = np.argsort(-scores, kind="stable")[:top]
    return [
        Classification(index + offset, labels.name(index + offset), score)
        for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        if np.isfinite(score)
    ]
