"""Recognise batch normalisations with stored statistics, fused or taken apart.

What a normalisation stored, the mean and the deviation of its input in training, tells
more than what it does with gamma and beta on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.constants import constant

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUSED = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_GLOBAL = "BatchNormWithGlobalNormalization"
# Ops that hand a statistic on to where it is used.
_PASSING = frozenset({"Cast", "ExpandDims", "Identity", "Mul", "Neg", "Reshape"})
# More nodes than any spelling has between a statistic and its use.
_NEAR = 24


@dataclass(frozen=True)
class Normalisation:
    """A normalisation's statistics, float64, one a channel or one for all.

    Attributes:
        mean, deviation: of its input, as it stored them.
        factor, shift: what it does, gamma and beta included: ``value * factor +
            shift``.
        order: which channels of the graph's input they belong to, in order; ``None``
            where all are as they came.
    """

    mean: Any
    deviation: Any
    factor: Any = 1.0
    shift: Any = 0.0
    order: tuple[int, ...] | None = None


def fused(op: Any) -> Normalisation | None:
    """Read a normalisation of one op; ``None`` where it is none, or is for training."""
    if op.type in _FUSED and not op.get_attr("is_training"):
        gamma, beta, mean, variance = (constant(one) for one in op.inputs[1:5])
        epsilon = op.get_attr("epsilon")
    elif op.type == _GLOBAL:
        mean, variance, beta, gamma = (constant(one) for one in op.inputs[1:5])
        epsilon = op.get_attr("variance_epsilon")
        if not op.get_attr("scale_after_normalization") and gamma is not None:
            gamma = np.ones_like(gamma)
    else:
        return None
    if any(one is None or not one.size for one in (gamma, beta, mean, variance)):
        return None
    mean, beta, gamma = (np.asarray(one, np.float64) for one in (mean, beta, gamma))
    deviation = np.sqrt(np.maximum(np.asarray(variance, np.float64) + epsilon, 1e-30))
    factor = gamma / deviation
    return Normalisation(mean, deviation, factor, beta - mean * factor)


def taken_apart(scale: Any, shift: Any) -> Normalisation | None:
    """Read ``x * k + (beta - mean * k)`` with ``k = gamma * Rsqrt(variance + eps)``.

    Args:
        scale: the tensor ``k``.
        shift: what is added.

    Returns:
        ``None`` where the tensors were folded, so that gamma and beta cannot be told
        from the statistics, or are of something else.
    """
    roots = [op for op in _near(scale) if op.type == "Rsqrt"]
    if len(roots) != 1:
        return None
    inverse = constant(roots[0].outputs[0])
    # mean * k, where k may stand before or behind gamma.
    factors = {op.outputs[0].ref() for op in [*_near(scale), scale.op]}
    means = [
        other
        for op in _near(shift)
        if op.type == "Mul"
        for one, other in (op.inputs, reversed(op.inputs))
        if one.ref() in factors and other.ref() not in factors
    ]
    mean = constant(means[0]) if len(means) == 1 else None
    if inverse is None or mean is None or not inverse.all():
        return None
    sign = -1.0 if _negated(means[0]) else 1.0
    return Normalisation(
        sign * np.asarray(mean, np.float64).reshape(-1),
        1 / np.abs(np.asarray(inverse, np.float64)).reshape(-1),
        np.asarray(constant(scale), np.float64).reshape(-1),
        np.asarray(constant(shift), np.float64).reshape(-1),
    )


def _negated(tensor: Any) -> bool:
    return bool(tensor.op.type == "Neg")


def _near(tensor: Any) -> Iterator[Any]:
    """Give the ops from which a constant is made, nearest first, some of them."""
    waiting = [tensor.op]
    seen: set[Any] = set()
    while waiting and len(seen) < _NEAR:
        op = waiting.pop(0)
        if op in seen:
            continue
        seen.add(op)
        yield op
        if op.type in _PASSING or op.type in {"Add", "AddV2", "Sub"}:
            waiting += [one.op for one in op.inputs]
