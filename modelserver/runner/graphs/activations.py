"""Tell what a classifier's output means by the last ops that made it."""

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
# Ops whose results are logits. A pool's are where it is the last of a fully
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
# Of those, what gives one number that was learnt, a lone logit.
_LEARNT = frozenset({"BiasAdd", "Conv2D", "MatMul", "_FusedConv2D", "_FusedMatMul"})
_POOLS = frozenset({"AvgPool", "Mean"})
_SUMS = frozenset({"Add", "AddV2", "BiasAdd"})
_QUOTIENTS = frozenset({"Div", "RealDiv", "DivNoNan"})
# Between which values the results of an op are, whatever goes in. ``Exp`` has no least
# upper bound here: e to the power of a distance is no probability that was learnt.
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
    """What scores are: fields of ``Signature``, and a sentence where one is due."""

    softmax: bool = False
    sigmoid: bool = False
    independent: bool = False
    told: str = ""


def maker(tensor: Any) -> Any:
    """Give the op that made scores, behind those that only change their form."""
    while tensor.op.type in FORMS or _selects_only_value(tensor.op):
        tensor = tensor.op.inputs[_index_through(tensor.op, tensor.value_index)]
    return tensor.op


def output_through(tensor: Any, op: Any) -> Any:
    """Give what becomes of a tensor in an op of ``FORMS`` that uses it."""
    names = [one.name for one in op.inputs]
    return op.outputs[_index_through(op, names.index(tensor.name))]


def _index_through(op: Any, place: int) -> int:
    """Give where the other end of an input or output of an op of ``FORMS`` is."""
    return place if op.type == "IdentityN" else 0


def _selects_only_value(op: Any) -> bool:
    """Tell whether a slice takes the one value an image that there is."""
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
    """Tell between which values a tensor's elements are, by the last few ops.

    A sigmoid is told however it is written: as one op, as a clipped line, with a tanh,
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
    first, *others = (bounds(one, depth - 1) for one in op.inputs)
    return _combine_ranges(op.type, first, others)


def _combine_ranges(kind: str, first: _Range, others: list[_Range]) -> _Range:
    """Compute the range of an op's results from those of its inputs."""
    if kind in _UNARY:
        return _UNARY[kind](first)
    if kind == "ClipByValue":
        return max(first[0], others[0][0]), min(first[1], others[1][1])
    return _BINARY[kind](first, others[0])


def _multiply(one: _Range, other: _Range) -> _Range:
    """Multiply two ranges; nothing times infinity is nothing."""
    ends = [a * b if a and b else 0.0 for a in one for b in other]
    return min(ends), max(ends)


def _invert(divisor: _Range) -> _Range:
    """Give the range of 1 / x; unknown where x can be 0."""
    low, high = divisor
    return (1 / high, 1 / low) if low * high > 0 else _UNKNOWN


def _add(one: _Range, other: _Range) -> _Range:
    return one[0] + other[0], one[1] + other[1]


def _negate(one: _Range) -> _Range:
    return -one[1], -one[0]


_UNARY: dict[str, Callable[[_Range], _Range]] = {
    "Inv": _invert,
    "Neg": _negate,
    "Reciprocal": _invert,
}
_BINARY: dict[str, Callable[[_Range, _Range], _Range]] = {
    **dict.fromkeys(_SUMS, _add),
    **dict.fromkeys(_QUOTIENTS, lambda one, other: _multiply(one, _invert(other))),
    "Maximum": lambda one, other: (max(one[0], other[0]), max(one[1], other[1])),
    "Minimum": lambda one, other: (min(one[0], other[0]), min(one[1], other[1])),
    "Mul": _multiply,
    "Sub": lambda one, other: _add(one, _negate(other)),
}


def meaning(tensor: Any, *, lone: bool, independent: bool | None) -> Meaning:
    """Tell what the values of a classifier's output are.

    Args:
        tensor: the output.
        lone: it has one value an image.
        independent: the sidecar's word: whether the classes exclude each other.

    Raises:
        GraphError: they are no scores of classes; the sentence says what they are.
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
    """Tell whether a lone value is a probability, or a logit, else refuse it."""
    if op.type in {"Softmax", "LogSoftmax"} or _is_normalised(op):
        raise GraphError(
            f"the output {tensor.name} is a softmax over one value, which is 1 for "
            "every photo: train the network with a sigmoid there, or with two outputs"
        )
    if is_probability(tensor):
        return Meaning(independent=True)
    if _is_learnt(op):
        guess = f"{made} and has one value: taken for a logit, a sigmoid is applied"
        return Meaning(sigmoid=True, independent=True, told=guess)
    raise GraphError(
        f"{made} and has one value an image, which is no probability of a class but a "
        "distance, an age or another measure; a classifier of one value ends in a "
        'sigmoid. Name the right tensor as "output" in the sidecar, if there is one'
    )


def _read_values(tensor: Any, op: Any, made: str) -> Meaning:
    """Tell what several values are."""
    if is_of_softmax(tensor) or _is_normalised(op):
        return Meaning()
    if op.type == "LogSoftmax" or _is_log_of_softmax(op):
        return Meaning(softmax=True, told=f"{made}: the server takes its exponential")
    if is_probability(tensor):
        told = f"{made}: each class has a probability of its own, and none excludes"
        return Meaning(independent=True, told=f"{told} another")
    if _is_logit(op):
        name = tensor.name.lower()
        if any(one in name for one in _MULTI_LABEL):
            guess = f"{made}: by its name taken for logits of independent classes"
            return Meaning(sigmoid=True, independent=True, told=guess)
        guess = f"{made}: taken for logits, a softmax is applied"
        return Meaning(softmax=True, told=guess)
    return Meaning(told=f"{made}: taken for probabilities")


def _is_logit(op: Any) -> bool:
    """Tell logits, ones that a constant moves or scales included."""
    while op.type in {"Div", "Mul", "RealDiv", "Sub"}:
        moved = [one for one in op.inputs if constant(one) is None]
        if len(moved) != 1:
            return False
        op = maker(moved[0])
    return op.type in LOGITS


def is_probability(tensor: Any) -> bool:
    """Tell whether each value is within 0..1 whatever goes in."""
    low, high = bounds(tensor)
    return low >= -_SLACK and high <= 1 + _SLACK


def is_of_softmax(tensor: Any, depth: int = _DEPTH) -> bool:
    """Tell a softmax, a part of one, and an average of several or of many places."""
    op = maker(tensor)
    if op.type == "Softmax":
        return True
    if not depth or not op.inputs:
        return False
    if op.type in _WITHIN:
        return is_of_softmax(op.inputs[0], depth - 1)
    if op.type not in _MIXTURES or len(op.inputs) > _MOST_MIXED:
        return False
    mixed = {one.name: one for one in op.inputs if constant(one) is None}.values()
    return bool(mixed) and all(is_of_softmax(one, depth - 1) for one in mixed)


def _is_normalised(op: Any) -> bool:
    """Tell a softmax that is written out: values divided by their sum."""
    return bool(op.type in _QUOTIENTS and maker(op.inputs[1]).type == "Sum")


def _is_log_of_softmax(op: Any) -> bool:
    """Tell a logarithm of a softmax, one with a small number added included."""
    if op.type != "Log":
        return False
    inner = maker(op.inputs[0])
    inner = maker(inner.inputs[0]) if inner.type in {*_SUMS, "Maximum"} else inner
    return bool(inner.type == "Softmax")


def _is_learnt(op: Any) -> bool:
    """Tell the sum of learnt weights, from which a lone logit comes."""
    if op.type in {"_FusedConv2D", "_FusedMatMul"}:
        fused = {name.decode() for name in op.get_attr("fused_ops")}
        return fused <= {"BiasAdd", "FusedBatchNorm"}
    if op.type in _POOLS:
        return maker(op.inputs[0]).type in _LEARNT and _keeps_one_channel(op)
    if op.type in {"Add", "AddV2"}:
        moved = [maker(one).type for one in op.inputs if constant(one) is None]
        return len(moved) == 1 and moved[0] in _LEARNT
    return op.type in _LEARNT and not (
        op.type == "BiasAdd" and maker(op.inputs[0]).type not in _LEARNT
    )


def _keeps_one_channel(op: Any) -> bool:
    """Tell whether a pool is over the places of an image with one channel."""
    shape = shape_of(op.inputs[0])
    return bool(shape is not None and shape[-1] == 1)


def why_features(tensor: Any) -> str:
    """Say why values are a network's features and no scores; empty where they may be.

    Features are what a network without its last layer gives, and embeddings: vectors
    of length one, or those that are named so.
    """
    op = maker(tensor)
    if is_unit_vector(op):
        return f"{tensor.name} is an embedding, a vector of length one"
    name = last_part(tensor.name).lower()
    if any(one in name for one in _EMBEDDING) and op.type != "Softmax":
        return f"{tensor.name} is by its name an embedding"
    if op.type in _FEATURES and not is_probability(tensor):
        return f"{tensor.name} comes from {op.type}, as features within a network do"
    return ""


def is_unit_vector(op: Any) -> bool:
    """Tell values that are divided by the root of the sum of their squares."""
    if op.type not in {"Mul", *_QUOTIENTS}:
        return False
    roots = {"Rsqrt", "Sqrt"}
    for one in op.inputs:
        root = maker(one)
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
        return depth > 0 and any(_sums_squares(one, depth - 1) for one in op.inputs)
    squares = {"Square", "Mul", "Pow"}
    return bool(op.type == "Sum" and maker(op.inputs[0]).type in squares)


def values_per_image(tensor: Any, image: Any) -> int | None:
    """Tell how many values an image an output has; ``None`` where that is not known.

    A vector has one for each image of the batch where its length is the batch's, or
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
