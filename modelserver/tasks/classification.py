"""The classification task: a photo in, a class out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelserver.tasks.labels import pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature
    from modelserver.tasks.labels import LabelMap
    from modelserver.tasks.options import Options


# A class that excludes no other is an answer from here on.
LEAST = 0.5
# By how much a probability of low precision may be outside 0..1.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Classification:
    """One class with its score.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1.
        holds: it can be the answer. Of classes that exclude each other each can; of
            independent ones those with a confidence of at least .5.
    """

    class_id: int
    label: str
    confidence: float
    holds: bool = True


def parse(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    offset: int,
    *,
    softmax: bool = False,
    sigmoid: bool = False,
    independent: bool = False,
    top: int = 5,
) -> list[Classification]:
    """Turn one image's class scores into its best classes, best first.

    A lone value is the probability of the second of two labels, or of the one label
    where there is just one.

    Args:
        outputs: ``scores``, one value a class, of any rank.
        offset: label id = output index + offset.
        softmax: the scores are logits of classes that exclude each other.
        sigmoid: the scores are logits, each of a probability of its own.
        independent: the classes do not exclude each other.
        top: how many classes to return.

    Raises:
        ValueError: there is no score, or none that is a number, or a lone one that is
            no probability.
    """
    scores = np.asarray(outputs["scores"], np.float64).reshape(-1)
    scores = probabilities(scores, softmax=softmax, sigmoid=sigmoid)
    ids: Sequence[int] = range(offset, offset + len(scores))
    if len(scores) == 1:
        ids, scores = _of_one_value(labels, offset, scores)
        independent = len(scores) == 1
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [
        Classification(
            ids[index],
            labels.name(ids[index]),
            # A finding tells of scores that are a guess, and may be beyond.
            float(np.clip(scores[index], 0, 1)),
            holds=not independent or bool(scores[index] >= LEAST),
        )
        for index in best
        if np.isfinite(scores[index])
    ]


def probabilities(
    scores: NDArray[np.float64], *, softmax: bool, sigmoid: bool
) -> NDArray[np.float64]:
    """Make probabilities of one image's scores.

    Args:
        scores: of any shape; what is no number becomes minus infinity.
        softmax, sigmoid: as of ``parse``; without either they are probabilities.

    Raises:
        ValueError: none is a number.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        raise ValueError(f"none of its {scores.size} scores is a number")
    scores = np.where(finite, scores, -np.inf)
    if softmax:
        powers = np.exp(scores - scores.max())
        return np.asarray(powers / powers.sum())
    if not sigmoid:
        return scores
    # exp(-x) is infinite for logits below -709, whose probability is 0.
    with np.errstate(over="ignore"):
        each: NDArray[np.float64] = 1 / (1 + np.exp(-scores))
    return np.where(finite, each, scores)


def _of_one_value(
    labels: LabelMap, offset: int, scores: NDArray[np.float64]
) -> tuple[Sequence[int], NDArray[np.float64]]:
    """Give the ids and probabilities that a lone probability stands for."""
    value = float(np.clip(scores[0], 0, 1))
    if abs(value - scores[0]) > _ROUNDING:
        raise ValueError(f"its one score, {scores[0]:g}, is no probability")
    ids = pair(labels, offset)
    return ids, np.array([1 - value, value])[-len(ids) :]


def classes_of(
    signature: Signature,
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    offset: int,
    top: int = 5,
) -> list[Classification]:
    """Turn one image's outputs into the best classes as the signature says.

    The arguments and errors are those of ``parse``.
    """
    return parse(
        outputs,
        labels,
        offset,
        softmax=signature.softmax,
        sigmoid=signature.sigmoid,
        independent=signature.independent,
        top=top,
    )


def answered(classes: Sequence[Classification]) -> list[Classification]:
    """Give the class that is the answer, if there is one.

    Args:
        classes: best first.

    Returns:
        The best class, or nothing where no independent class has a confidence of .5.
    """
    return [one for one in classes[:1] if one.holds]


def answer_of(classes: Sequence[Classification]) -> str | None:
    """Give the answer's label, ``None`` where there is none; see ``answered``."""
    return next((one.label for one in answered(classes)), None)


def to_json(
    classes: Sequence[Classification], options: Options | None = None
) -> dict[str, object]:
    """Return the best class in the contract's shape; others only where asked for.

    The class is ``None`` where no independent one has a confidence of .5.

    Args:
        classes: best first, at least one.
        options: with ``top_k``, of the first so many those that they want are added.
    """
    best = answer_of(classes)
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
