"""The classification task: a photo in, a class out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.labels import LabelMap
    from modelserver.options import Options


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


def to_json(
    classes: Sequence[Classification], options: Options | None = None
) -> dict[str, object]:
    """Return the best class in the contract's shape; others only where asked for.

    Args:
        classes: best first, at least one.
        options: with ``top_k``, of the first so many those that they want are added.
    """
    best = classes[0].label
    if options is None or options.top_k is None:
        return {"class": best}
    least = options.min_confidence or 0.0
    return {
        "class": best,
        "classes": [
            {
                "class": one.class_id,
                "label": one.label,
                # The fewest digits that read back as the same float32.
                "confidence": float(str(np.float32(one.confidence))),
            }
            for one in classes[: options.top_k]
            if one.confidence >= least and options.wants(one.label)
        ][: options.max_results],
    }
