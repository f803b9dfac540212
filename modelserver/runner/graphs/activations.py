"""Read from its last ops whether an output holds probabilities, logits or features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.traversal import last_part, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable

_Range = tuple[float, float]

# Ops that change the form of scores and not the scores.
FORMS = frozenset(
    {
        "Cast",
        "CheckNumerics",
        "Dequantize",
        "ExpandDims",
        "FakeQuantWithMinMaxArgs",
        "FakeQuantWithMinMaxVars",
        "Identity",
        "IdentityN",
        "PreventGradient",
        "Reshape",
        "Snapshot",
        "Squeeze",
        "StopGradient",
        "Transpose",
    }
)
# Ops whose results are logits. A pool's are if it is the last of a fully
# convolutional network; a softmax of log-softmax gives back the probabilities.
LOGITS = frozenset(
    {
        "Add",
        "AddV2",
        "AvgPool",
        "BiasAdd",
        "Conv2D",
        "LogSoftmax",
        "MatMul",
        "Mean",
        "_FusedConv2D",
        "_FusedMatMul",
    }
)
# Those that give one number that was learnt, a lone logit.
_LEARNT = frozenset({"BiasAdd", "Conv2D", "MatMul", "_FusedConv2D", "_FusedMatMul"})
_POOLS = frozenset({"AvgPool", "Mean"})
_SUMS = frozenset({"Add", "AddV2", "BiasAdd"})
_QUOTIENTS = frozenset({"Div", "RealDiv", "DivNoNan"})
# Range of an op's results, for all inputs. ``Exp`` has no least upper bound here: e to
# the power of a distance is no probability that was learnt.
_RANGES = {
    "Elu": (-1.0, math.inf),
    "Exp": (0.0, math.inf),
    "Relu": (0.0, math.inf),
    "Relu6": (0.0, 6.0),
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Softsign": (-1.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
_UNKNOWN = (-math.inf, math.inf)
# A hard sigmoid has four ops, a sigmoid written with tanh three.
_DEPTH = 8
# By how much a constant may be off, as float16 ones are: 1/6 in a hard sigmoid.
_SLACK = 1e-2
# Activations after which features come and no scores.
_FEATURES = frozenset(
    {"Elu", "LeakyRelu", "MaxPool", "Relu", "Relu6", "Selu", "Softplus", "Tanh"}
)
_MULTI_LABEL = ("multilabel", "multi_label", "multi-label", "sigmoid")
_EMBEDDING = ("embedding", "feature", "descriptor", "bottleneck")


class Meaning(NamedTuple):
    """How to read scores: fields of ``Signature``, and a sentence if one is due."""

    softmax: bool = False
    sigmoid: bool = False
    independent: bool = False
    guess: str = ""


def maker(tensor: Any) -> Any:
    """Return the op that made scores, behind those that only change their form."""
    while tensor.op.type in FORMS or _selects_only_value(tensor.op):
        tensor = tensor.op.inputs[_index_through(tensor.op, tensor.value_index)]
    return tensor.op


def output_through(tensor: Any, op: Any) -> Any:
    """Return the output of an op of ``FORMS`` that carries on one of its inputs."""
    names = [operand.name for operand in op.inputs]
    return op.outputs[_index_through(op, names.index(tensor.name))]


def _index_through(op: Any, index: int) -> int:
    """Return the index at the other end of an input or output of an op of ``FORMS``."""
    return index if op.type == "IdentityN" else 0


def _selects_only_value(op: Any) -> bool:
    """Return whether a slice takes the one value an image that there is."""
    if op.type != "StridedSlice":
        return False
    shape = shape_of(op.inputs[0])
    return bool(shape) and shape is not None and shape[-1] == 1


# Ops whose results are among their inputs' elements, or an average of them.
_WITHIN = frozenset(
    {
        *("AvgPool", "GatherV2", "Max", "MaxPool", "Mean", "Min", "Slice"),
        *("StridedSlice", "Tile"),
    }
)
# Ops that make an average of several softmaxes.
_MOST_MIXED = 32
_MIXTURES = frozenset({"Add", "AddN", "AddV2", "Div", "Mul", "Pack", "RealDiv"})


def bounds(tensor: Any, depth: int = _DEPTH) -> _Range:
    """Return the range of a tensor's elements, by the last few ops.

    A sigmoid is recognised in each spelling: as one op, as a clipped line, with a tanh,
    or as 1 / (1 + exp(-x)).
    """
    op = maker(tensor)
    fixed = constant(tensor)
    if fixed is not None and fixed.size and fixed.dtype.kind in "fiu":
        return float(fixed.min()), float(fixed.max())
    if op.type in _RANGES:
        return _RANGES[op.type]
    if not depth or not op.inputs:
        return _UNKNOWN
    # What is not asked is not looked at: a sum of hundreds, eight deep, never ends.
    if op.type not in _WITHIN | _UNARY.keys() | _BINARY.keys() | {"ClipByValue"}:
        return _UNKNOWN
    if op.type in _WITHIN:
        return bounds(op.inputs[0], depth - 1)
    first, *others = (bounds(operand, depth - 1) for operand in op.inputs)
    return _combine_ranges(op.type, first, others)


def _combine_ranges(kind: str, first: _Range, others: list[_Range]) -> _Range:
    """Compute the range of an op's results from those of its inputs."""
    if kind in _UNARY:
        return _UNARY[kind](first)
    if kind == "ClipByValue":
        return max(first[0], others[0][0]), min(first[1], others[1][1])
    return _BINARY[kind](first, others[0])


def _multiply(left: _Range, right: _Range) -> _Range:
    """Multiply two ranges; nothing times infinity is nothing."""
    ends = [a * b if a and b else 0.0 for a in left for b in right]
    return min(ends), max(ends)


def _invert(divisor: _Range) -> _Range:
    """Return the range of 1 / x; unknown if x can be 0."""
    low, high = divisor
    return (1 / high, 1 / low) if low * high > 0 else _UNKNOWN


def _add(left: _Range, right: _Range) -> _Range:
    return left[0] + right[0], left[1] + right[1]


def _negate(operand: _Range) -> _Range:
    return -operand[1], -operand[0]


_UNARY: dict[str, Callable[[_Range], _Range]] = {
    "Inv": _invert,
    "Neg": _negate,
    "Reciprocal": _invert,
}
_BINARY: dict[str, Callable[[_Range, _Range], _Range]] = {
    **dict.fromkeys(_SUMS, _add),
    **dict.fromkeys(_QUOTIENTS, lambda left, right: _multiply(left, _invert(right))),
    "Maximum": lambda left, right: (max(left[0], right[0]), max(left[1], right[1])),
    "Minimum": lambda left, right: (min(left[0], right[0]), min(left[1], right[1])),
    "Mul": _multiply,
    "Sub": lambda left, right: _add(left, _negate(right)),
}


def meaning(tensor: Any, *, lone: bool, independent: bool | None) -> Meaning:
    """Determine how to read the values of a classifier's output.

    Args:
        tensor: the output.
        lone: it has one value an image.
        independent: the sidecar's word: whether the classes exclude each other.

    Raises:
        GraphError: they are no class scores; the sentence says why.
    """
    op = maker(tensor)
    made = f"the output {tensor.name} comes from {op.type}"
    if lone:
        return _read_lone_value(tensor, op, made)
    found = _read_values(tensor, op, made)
    if independent is None or independent == found.independent:
        return found
    logits = found.softmax or found.sigmoid
    return Meaning(
        softmax=logits and not independent,
        sigmoid=logits and independent,
        independent=independent,
    )


def _read_lone_value(tensor: Any, op: Any, made: str) -> Meaning:
    """Read a lone value as a probability or a logit, else refuse it."""
    if op.type in {"Softmax", "LogSoftmax"} or _is_normalised(op):
        raise GraphError(
            f"the output {tensor.name} is a softmax over one value, which is 1 for "
            "every photo: train the network with a sigmoid there, or with two outputs"
        )
    if is_probability(tensor):
        return Meaning(independent=True)
    if _is_learnt(op):
        guess = f"{made} and has one value: taken for a logit, a sigmoid is applied"
        return Meaning(sigmoid=True, independent=True, guess=guess)
    raise GraphError(
        f"{made} and has one value an image, which is no probability of a class but a "
        "distance, an age or another measure; a classifier of one value ends in a "
        'sigmoid. Name the right tensor as "output" in the sidecar, if there is one'
    )


def _read_values(tensor: Any, op: Any, made: str) -> Meaning:
    """Read several values as probabilities or logits."""
    if is_of_softmax(tensor) or _is_normalised(op):
        return Meaning()
    if op.type == "LogSoftmax" or _is_log_of_softmax(op):
        return Meaning(softmax=True, guess=f"{made}: the server takes its exponential")
    if is_probability(tensor):
        guess = f"{made}: each class has a probability of its own, and none excludes"
        return Meaning(independent=True, guess=f"{guess} another")
    if _is_logit(op):
        name = tensor.name.lower()
        if any(word in name for word in _MULTI_LABEL):
            guess = f"{made}: by its name taken for logits of independent classes"
            return Meaning(sigmoid=True, independent=True, guess=guess)
        guess = f"{made}: taken for logits, a softmax is applied"
        return Meaning(softmax=True, guess=guess)
    return Meaning(guess=f"{made}: taken for probabilities")


def _varying(op: Any) -> list[Any]:
    """Return an op's inputs that are not constant."""
    return [operand for operand in op.inputs if constant(operand) is None]


def _is_logit(op: Any) -> bool:
    """Return whether an op makes logits, also if a constant moves or scales them."""
    while op.type in {"Div", "Mul", "RealDiv", "Sub"}:
        moved = _varying(op)
        if len(moved) != 1:
            return False
        op = maker(moved[0])
    return op.type in LOGITS


def is_probability(tensor: Any) -> bool:
    """Return whether each value is within 0..1 for every input."""
    low, high = bounds(tensor)
    return low >= -_SLACK and high <= 1 + _SLACK


def is_of_softmax(tensor: Any, depth: int = _DEPTH) -> bool:
    """Return whether values are a softmax, a part of one, or an average of several."""
    op = maker(tensor)
    if op.type == "Softmax":
        return True
    if not depth or not op.inputs:
        return False
    if op.type in _WITHIN:
        return is_of_softmax(op.inputs[0], depth - 1)
    if op.type not in _MIXTURES or len(op.inputs) > _MOST_MIXED:
        return False
    mixed = {tensor.name: tensor for tensor in _varying(op)}.values()
    return bool(mixed) and all(is_of_softmax(each, depth - 1) for each in mixed)


def _is_normalised(op: Any) -> bool:
    """Return whether an op is a softmax written out: values divided by their sum."""
    return bool(op.type in _QUOTIENTS and maker(op.inputs[1]).type == "Sum")


def _is_log_of_softmax(op: Any) -> bool:
    """Return whether an op is the logarithm of a softmax, or of one plus a constant."""
    if op.type != "Log":
        return False
    inner = maker(op.inputs[0])
    inner = maker(inner.inputs[0]) if inner.type in {*_SUMS, "Maximum"} else inner
    return bool(inner.type == "Softmax")


def _is_learnt(op: Any) -> bool:
    """Return whether an op sums learnt weights, as for a lone logit."""
    if op.type in {"_FusedConv2D", "_FusedMatMul"}:
        fused = {name.decode() for name in op.get_attr("fused_ops")}
        return fused <= {"BiasAdd", "FusedBatchNorm"}
    if op.type in _POOLS:
        return maker(op.inputs[0]).type in _LEARNT and _keeps_one_channel(op)
    if op.type in {"Add", "AddV2"}:
        moved = [maker(operand).type for operand in _varying(op)]
        return len(moved) == 1 and moved[0] in _LEARNT
    return op.type in _LEARNT and not (
        op.type == "BiasAdd" and maker(op.inputs[0]).type not in _LEARNT
    )


def _keeps_one_channel(op: Any) -> bool:
    """Return whether a pool averages an image with one channel."""
    shape = shape_of(op.inputs[0])
    return bool(shape is not None and shape[-1] == 1)


def why_features(tensor: Any) -> str:
    """Explain why values are a network's features and no scores; empty if they may be.

    Features are the output of a network without its last layer, and embeddings: vectors
    of length one, or tensors that are named so.
    """
    op = maker(tensor)
    if is_unit_vector(op):
        return f"{tensor.name} is an embedding, a vector of length one"
    name = last_part(tensor.name).lower()
    if any(word in name for word in _EMBEDDING) and op.type != "Softmax":
        return f"{tensor.name} is by its name an embedding"
    if op.type in _FEATURES and not is_probability(tensor):
        return f"{tensor.name} comes from {op.type}, as features within a network do"
    return ""


def is_unit_vector(op: Any) -> bool:
    """Return whether values are divided by the root of the sum of their squares."""
    if op.type not in {"Mul", *_QUOTIENTS}:
        return False
    roots = {"Rsqrt", "Sqrt"}
    for operand in op.inputs:
        root = maker(operand)
        if root.type in {"Maximum", *_SUMS} and any(
            maker(each).type in roots for each in root.inputs
        ):
            root = next(
                maker(each) for each in root.inputs if maker(each).type in roots
            )
        if root.type in roots and _sums_squares(root.inputs[0]):
            return True
    return False


def _sums_squares(tensor: Any, depth: int = _DEPTH) -> bool:
    op = maker(tensor)
    if op.type in {"Maximum", *_SUMS}:
        return depth > 0 and any(_sums_squares(each, depth - 1) for each in op.inputs)
    squares = {"Square", "Mul", "Pow"}
    return bool(op.type == "Sum" and maker(op.inputs[0]).type in squares)


def values_per_image(tensor: Any, image: Any) -> int | None:
    """Return how many values an image an output has; ``None`` if that is not known.

    A vector has one for each image of the batch if its length is the batch's, or if
    neither is known; else it is one image's.

    Args:
        tensor: the output.
        image: the tensor that takes the images.
    """
    shape, batch = shape_of(tensor), (shape_of(image) or (None,))[:1]
    if shape is None:
        return None
    if len(shape) <= 1:
        lone = not shape or shape[0] is None or (shape[0],) == batch
        return 1 if lone else shape[0]
    sides = shape[1:]
    return None if None in sides else math.prod(side or 0 for side in sides)
