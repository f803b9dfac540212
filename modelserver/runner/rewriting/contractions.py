"""Fold arithmetic behind a convolution or matrix product into its kernel and bias.

TensorFlow runs a convolution, a ``BiasAdd`` and an activation as one fused op; it does
not fuse a multiplication by a constant, nor an ``Add`` instead of the ``BiasAdd``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.traversal import CONVOLUTIONS
from modelserver.runner.rewriting.draft import (
    Draft,
    as_channels,
    attribute,
    canonical,
    copy_node,
    is_float,
    is_nhwc,
    new_node,
    waits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

_SUMS = ("Add", "AddV2", "AddN")
# FusedBatchNorm's default, for a graph that leaves it out.
_EPSILON = 1e-4


@dataclass(frozen=True)
class Contraction:
    """A convolution or matrix product with a constant kernel.

    Attributes:
        rank: of its output, whose last axis are the channels.
        channels: how many it has.
    """

    node: Any
    kernel: Array
    rank: int
    channels: int


@dataclass(frozen=True)
class Affine:
    """``value * scale + offset``, float64 [channels] each."""

    scale: Array
    offset: Array


def find_contraction(draft: Draft, name: str) -> Contraction | None:
    """Return the contraction whose output this input is, ``None`` if it is none.

    It must be float32, channels last, and wait for nothing.
    """
    node = draft.producer(name, *CONVOLUTIONS, "MatMul")
    if node is None or not is_float(node) or not is_nhwc(node) or waits(node):
        return None
    kernel = draft.constant(node.input[1])
    if kernel is None or kernel.size == 0:
        return None
    if node.op == "MatMul":
        axis = 0 if attribute(node, "transpose_b").b else 1
        return Contraction(node, kernel, 2, kernel.shape[axis])
    if node.op == "Conv2D":
        return Contraction(node, kernel, 4, kernel.shape[3])
    return Contraction(node, kernel, 4, kernel.shape[2] * kernel.shape[3])


def _scale_kernel(found: Contraction, scale: Array) -> Array:
    """Scale each output channel of a kernel, rounding once."""
    kernel = found.kernel.astype(np.float64)
    if found.node.op == "MatMul" and attribute(found.node, "transpose_b").b:
        kernel = kernel * scale[:, None]
    elif found.node.op == "DepthwiseConv2dNative":
        # Output channel i * multiplier + j comes of input channel i and its filter j.
        kernel = kernel * scale.reshape(kernel.shape[2:])
    else:
        kernel = kernel * scale
    return kernel.astype(np.float32)


def fold_chains(draft: Draft) -> int:
    """Fold the arithmetic with constants behind each contraction into it.

    That is multiplying by, adding and subtracting one constant a channel, ``BiasAdd``,
    and batch norms that do not learn, in any order and number. Exact, but for the last
    bits, because a contraction is linear: ``(k * x) s + o = (k s) * x + o`` for each
    output channel. Only values that nobody else uses are folded away.

    Returns:
        How many chains were folded.
    """
    return sum(
        _fold_chain(draft, node)
        for node in draft
        if node.op in {*CONVOLUTIONS, "MatMul"}
    )


def _fold_chain(draft: Draft, node: Any) -> bool:
    found = find_contraction(draft, node.name)
    if found is None:
        return False
    scale, offset = np.ones(found.channels), np.zeros(found.channels)
    chain: list[Any] = []
    last = node
    while True:
        user = draft.only_user(last.name)
        step = None if user is None else read_affine(draft, user, last.name, found)
        if step is None:
            break
        scale, offset = scale * step.scale, offset * step.scale + step.offset
        chain.append(user)
        last = user
    if [step.op for step in chain] in ([], ["BiasAdd"]):
        return False
    with np.errstate(over="ignore"):
        kernel = _scale_kernel(found, scale)
        bias = offset.astype(np.float32)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        return False
    _put_fold(draft, found, kernel if (scale != 1).any() else None, bias, last)
    for folded in chain[:-1]:
        draft.drop(folded.name)
    return True


def _put_fold(
    draft: Draft, found: Contraction, kernel: Array | None, bias: Array, last: Any
) -> None:
    """Put the contraction with its new kernel, and a ``BiasAdd`` for the chain."""
    changed = copy_node(found.node)
    if kernel is not None:
        name = draft.add_constant(f"{found.node.name}/folded_kernel", kernel)
        changed.input[1] = name
        draft.put(changed)
    name = draft.add_constant(f"{found.node.name}/folded_bias", bias)
    added = new_node(last.name, "BiasAdd", [changed.name, name], like=last)
    added.attr["data_format"].s = b"NHWC"
    draft.put(added)


def read_affine(
    draft: Draft, node: Any, tensor: str, found: Contraction
) -> Affine | None:
    """Read the arithmetic of a node on each channel of the tensor that it takes.

    Args:
        draft: the graph of the node.
        node: a user of ``tensor``.
        tensor: the name of a tensor with the shape of the contraction's output.
        found: the contraction that the tensor is computed from.

    Returns:
        ``None`` if it does anything but multiply and add one constant a channel.
    """
    if not is_float(node) or waits(node) or not is_nhwc(node):
        return None
    index = [canonical(name) for name in node.input].index(tensor)
    read = _NORMS.get(node.op)
    if read is not None:
        return read(draft, node, found) if index == 0 else None
    if node.op not in {"Add", "AddV2", "BiasAdd", "Mul", "Sub"}:
        return None
    constant = draft.constant(node.input[1 - index])
    operand = as_channels(constant, found.rank, found.channels)
    if operand is None:
        return None
    return _read_arithmetic(node.op, operand, swapped=index == 1)


def _read_arithmetic(op: str, operand: Array, *, swapped: bool) -> Affine:
    """Read a multiplication, addition or subtraction of a constant."""
    ones = np.ones_like(operand)
    if op == "Mul":
        return Affine(operand, 0 * ones)
    if op == "Sub":
        return Affine(-ones, operand) if swapped else Affine(ones, -operand)
    return Affine(ones, operand)


def _read_fused_norm(draft: Draft, node: Any, found: Contraction) -> Affine | None:
    """Read a fused batch norm that does not learn, of which only ``y`` is used."""
    learns = "is_training" not in node.attr or attribute(node, "is_training").b
    if learns or not _only_first_used(draft, node):
        return None
    vectors = [_read_vector(draft, name, found) for name in node.input[1:5]]
    epsilon = attribute(node, "epsilon").f if "epsilon" in node.attr else _EPSILON
    return _norm_affine(vectors, epsilon)


def _only_first_used(draft: Draft, node: Any) -> bool:
    """Return whether a node's outputs but the first are neither fetched nor taken."""
    others = {f"{node.name}:{index}" for index in range(1, 6)}
    tensor = {name for user in draft.users(node.name) for name in user.input}
    return not others & (tensor | draft.fetched)


def _read_global_norm(draft: Draft, node: Any, found: Contraction) -> Affine | None:
    """Read a batch norm of the first TensorFlow, as Inception of 2015 has it."""
    mean, variance, beta, gamma = (
        _read_vector(draft, name, found) for name in node.input[1:5]
    )
    if not attribute(node, "scale_after_normalization").b:
        gamma = np.ones(found.channels)
    return _norm_affine(
        [gamma, beta, mean, variance], attribute(node, "variance_epsilon").f
    )


_NORMS: dict[str, Callable[[Draft, Any, Contraction], Affine | None]] = {
    "BatchNormWithGlobalNormalization": _read_global_norm,
    "FusedBatchNorm": _read_fused_norm,
    "FusedBatchNormV2": _read_fused_norm,
    "FusedBatchNormV3": _read_fused_norm,
}


def _norm_affine(vectors: list[Array | None], epsilon: float) -> Affine | None:
    """Turn gamma, beta, mean and variance into a scale and an offset."""
    gamma, beta, mean, variance = vectors
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    if not (variance + epsilon > 0).all():
        return None
    scale = gamma / np.sqrt(variance + epsilon)
    return Affine(scale, beta - mean * scale)


def _read_vector(draft: Draft, name: str, found: Contraction) -> Array | None:
    """Read one number a channel; a lone one for all is not allowed here."""
    array = draft.constant(name)
    if array is None or array.shape != (found.channels,):
        return None
    return as_channels(array, 1, found.channels)


def move_biases(draft: Draft) -> int:
    """Add a bias to a contraction before another tensor is added, not afterwards.

    ``(k * x + y) + c`` becomes ``(k * x + c) + y``: equal but for the order in which
    three numbers are added, so for the last bits. The bias can then be fused.

    Returns:
        How many biases were moved.
    """
    return sum(
        _move_bias(draft, node)
        for node in draft
        if node.op in {"Add", "AddV2", "BiasAdd"} and is_float(node) and is_nhwc(node)
    )


def _move_bias(draft: Draft, node: Any) -> bool:
    if waits(node):
        return False
    for index in (0, 1):
        total = draft.producer(node.input[index], *_SUMS)
        constant = draft.constant(node.input[1 - index])
        if total is None or constant is None or draft.only_user(total.name) is None:
            continue
        if not is_float(total) or waits(total) or len(total.input) != 2:  # noqa: PLR2004 - a sum of two
            continue
        for side, name in enumerate(total.input):
            found = find_contraction(draft, name)
            if (
                found is not None
                and draft.only_user(found.node.name) is not None
                and as_channels(constant, found.rank, found.channels) is not None
            ):
                _put_move(draft, node, total, side, node.input[1 - index])
                return True
    return False


def _put_move(draft: Draft, node: Any, total: Any, side: int, bias: str) -> None:
    """Make the sum of the biased contraction and the other, under the node's name."""
    inputs = list(total.input)
    added = new_node(
        draft.fresh_name(f"{node.name}/moved_bias"), "AddV2", [inputs[side], bias], node
    )
    inputs[side] = added.name
    draft.put(added)
    draft.put(copy_node(total, name=node.name, input=inputs))
    draft.drop(total.name)
