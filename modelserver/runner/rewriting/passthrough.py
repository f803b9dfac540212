"""Remove nodes that return their input, and compute constant nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver.runner.graphs.traversal import node_of
from modelserver.runner.rewriting.draft import (
    Draft,
    attribute,
    canonical,
    copy_node,
    is_float,
    waits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

# Without a gradient these are the identity. A default that nobody feeds over is too.
# CheckNumerics is, if no value overflowed; the tasks leave out NaN.
_PASSING = frozenset(
    {
        "CheckNumerics",
        "Identity",
        "PlaceholderWithDefault",
        "PreventGradient",
        "Snapshot",
        "StopGradient",
    }
)
_MAX_FOLDED = 4_000_000  # numbers in a computed constant: no graph grows by much


def strip_passthrough(draft: Draft) -> int:
    """Connect the users of a node that only hands its input on to that input.

    Exact because such a node's output is its input. A node that waits for another, or
    that another waits for, stays: an ``Assert`` may hang on it, or a loop's frame.

    Returns:
        How many nodes this was done to.
    """
    _untie_checks(draft)
    count = 0
    for node in draft:
        if node.op not in _PASSING or draft.is_kept(node.name) or waits(node):
            continue
        users = draft.users(node.name)
        if users and not any(f"^{node.name}" in user.input for user in users):
            draft.rewire(node.name, node.input[0])
            draft.drop(node.name)
            count += 1
    return count


def _untie_checks(draft: Draft) -> None:
    """Make nodes that wait for a ``CheckNumerics`` wait for its input instead.

    Exact because it returns its input; a node that takes a value waits for it anyway.
    """
    for check in [node for node in draft if node.op == "CheckNumerics"]:
        source = draft.nodes[node_of(check.input[0])]
        if source.op in {"Switch", "RefSwitch"} or draft.is_kept(check.name):
            continue  # which of its two sides is alive a control edge does not tell
        for user in draft.users(check.name):
            taken = {node_of(name) for name in user.input if name[0] != "^"}
            inputs = [
                f"^{source.name}" if name == f"^{check.name}" else name
                for name in user.input
            ]
            draft.put(
                copy_node(
                    user,
                    input=[n for n in inputs if n[0] != "^" or n[1:] not in taken],
                )
            )


def _squeeze(node: Any, array: Array) -> Array:
    axes = tuple(attribute(node, "squeeze_dims").list.i)
    return np.squeeze(array, axes or None)


# What a node computes of its constant inputs; the first argument is the node.
_FOLDS: dict[str, Callable[..., Array]] = {
    "Add": lambda _, a, b: a + b,
    "AddV2": lambda _, a, b: a + b,
    "ExpandDims": lambda _, a, axis: np.expand_dims(a, int(axis)),
    "Identity": lambda _, a: a,
    "Mul": lambda _, a, b: a * b,
    "Neg": lambda _, a: -a,
    "RealDiv": lambda _, a, b: a / b,
    "Reshape": lambda _, a, shape: np.reshape(a, shape),
    "Rsqrt": lambda _, a: (1 / np.sqrt(a)).astype(a.dtype),
    "Sqrt": lambda _, a: np.sqrt(a),
    "Square": lambda _, a: a * a,
    "Squeeze": _squeeze,
    "Sub": lambda _, a, b: a - b,
}


def fold_constants(draft: Draft) -> int:
    """Compute the float32 arithmetic and reshaping of constants once.

    Exact because the same float32 operations are done on the same numbers, by NumPy.
    Meant for the small vectors of a batch norm that was written out; TensorFlow itself
    folds the rest when the graph is run first.

    Returns:
        How many nodes have become constants.
    """
    count, before = 0, -1
    while before != count:  # a graph need not be in the order of its computation
        before = count
        for node in draft:
            if node.op in _FOLDS and is_float(node) and not draft.is_kept(node.name):
                count += _fold(draft, node)
    return count


def _fold(draft: Draft, node: Any) -> bool:
    """Replace a node by its value, if its inputs are constants."""
    inputs = [draft.constant(name) for name in node.input]
    if any(array is None for array in inputs):
        return False
    arrays = [array for array in inputs if array is not None]
    if sum(array.size for array in arrays) > _MAX_FOLDED:
        return False
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(_FOLDS[node.op](node, *arrays))
    except (ValueError, TypeError):
        return False  # TensorFlow refuses it in its own words when it is run
    if value.dtype != np.float32 or value.size > _MAX_FOLDED:
        return False
    constant = copy_node(node, op="Const", input=[])
    constant.attr.clear()
    constant.attr["dtype"].type = tf.float32.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    draft.put(constant)
    return True


def resize_bytes(draft: Draft) -> int:
    """Return a bilinear resizer the bytes of a photo, not their copy as floats.

    ``ResizeBilinear`` turns each pixel that it needs into a float32 itself, so its
    output is the same to the bit; the copy is four times the photo.

    Returns:
        How many casts this saved.
    """
    count = 0
    for node in draft:
        if node.op != "ResizeBilinear" or not is_float(node):
            continue
        cast = draft.producer(node.input[0], "Cast")
        if (
            cast is None
            or waits(cast)
            or attribute(cast, "SrcT").type != tf.uint8.as_datatype_enum
        ):
            continue
        changed = copy_node(node, input=[canonical(cast.input[0]), *node.input[1:]])
        changed.attr["T"].type = tf.uint8.as_datatype_enum
        draft.put(changed)
        count += 1
    return count
