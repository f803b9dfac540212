"""Resize a whole batch at once if TensorFlow 1 loops over its images.

The Object Detection API of TensorFlow 1 gives its resizer to ``tf.map_fn``: a loop of
some thirty nodes that cuts the batch into images, copies each, resizes it and copies
the results together. ``ResizeBilinear`` takes a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver.runner.rewriting.draft import (
    Draft,
    attribute,
    canonical,
    copy_node,
    make_node,
    waits,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class _NoMatchError(Exception):
    """The graph is built in another way than the one that is looked for."""


@dataclass(frozen=True)
class _Result:
    """A tensor that a loop collects from its steps.

    Attributes:
        gather: the node that puts the steps' results together.
        leave: the name of the ``Exit`` that it takes them from.
        condition: the name of the loop's ``LoopCond``.
        batch: the tensor whose images the loop runs over.
        count: the tensor that holds how many they are.
        resizer: the ``ResizeBilinear`` in the loop, if its output is collected.
        value: a constant that every step gives, otherwise.
    """

    gather: Any
    leave: str
    condition: str
    batch: str
    count: str
    resizer: Any
    value: Array | None


def batch_resizers(draft: Draft) -> int:
    """Replace a ``tf.map_fn`` that only resizes each image by one op on the batch.

    Exact because ``ResizeBilinear`` treats each image of a batch by itself. Matched
    node by node: the counters run from 0 by 1 to the batch's size; each step reads the
    image of its number, adds an axis, resizes to a constant size, takes the axis off
    and writes the result under its number. A second result that is a constant, such as
    the shape after resizing, is repeated. A loop with any other result in use stays.

    Returns:
        How many loops are gone.
    """
    loops: dict[str, list[_Result]] = {}
    for node in draft:
        if node.op == "TensorArrayGatherV3":
            try:
                found = _read_result(draft, node)
            except _NoMatchError:
                continue
            loops.setdefault(found.condition, []).append(found)
    count = 0
    for condition, results in loops.items():
        if _used_exits(draft, condition) == {result.leave for result in results}:
            for result in results:
                _put_batch_op(draft, result)
            count += 1
    return count


def _read_result(draft: Draft, gather: Any) -> _Result:
    """Read the loop backwards from the node that puts its results together."""
    array = canonical(gather.input[0])
    leave = _node(draft, gather.input[2], "Exit")
    switch = _node(draft, leave.input[0], "Switch")
    condition = canonical(switch.input[1])
    merge = _node(draft, switch.input[0], "Merge")
    _check(_loop_input(draft, merge.input[0]) == f"{array}:1")
    again = _node(draft, merge.input[1], "NextIteration")
    write = _node(draft, again.input[0], "TensorArrayWriteV3")
    _check(_loop_input(draft, write.input[0]) == array)
    _check(_source(draft, write.input[3]) == f"{switch.name}:1")
    _check_counter(draft, write.input[1], condition)
    batch, count = _find_batch(draft, condition)
    _check_array(draft, array, batch)
    _check_all(draft, gather.input[1], batch, array, leave.name)
    value = _constant(draft, write.input[2])
    resizer = None
    if value is None:
        resizer = _read_step(draft, write.input[2], condition, batch)
    return _Result(gather, leave.name, condition, batch, count, resizer, value)


def _read_step(draft: Draft, name: str, condition: str, batch: str) -> Any:
    """Read a step: the batch's image of this number, resized to a constant size."""
    squeeze = _node(draft, name, "Squeeze")
    _check(list(attribute(squeeze, "squeeze_dims").list.i) == [0])
    resizer = _node(draft, squeeze.input[0], "ResizeBilinear")
    _check(_constant(draft, resizer.input[1]) is not None)
    expand = _node(draft, resizer.input[0], "ExpandDims")
    _check(_is_number(_constant(draft, expand.input[1]), 0))
    read = _node(draft, expand.input[0], "TensorArrayReadV3")
    _check_counter(draft, read.input[1], condition)
    array = _loop_input(draft, read.input[0])
    scatter = _node(draft, _loop_input(draft, read.input[2]), "TensorArrayScatterV3")
    _check(canonical(scatter.input[0]) == array)
    _check(_source(draft, scatter.input[2]) == batch)
    _check(canonical(scatter.input[3]) == f"{array}:1")
    _check_array(draft, array, batch)
    _check_all(draft, scatter.input[1], batch)
    return resizer


def _find_batch(draft: Draft, condition: str) -> tuple[str, str]:
    """Return the tensor over whose first axis a loop runs, and its count."""
    test = _node(
        draft, _node(draft, condition, "LoopCond").input[0], "Less", "LogicalAnd"
    )
    tests = [test]
    if test.op == "LogicalAnd":
        tests = [_node(draft, name, "Less") for name in test.input[:2]]
    counts = []
    for less in tests:
        _check_merge(draft, less.input[0], condition)
        counts.append(_loop_input(draft, less.input[1]))
    batches = {_counted_tensor(draft, count) for count in counts}
    _check(len(batches) == 1)
    return batches.pop(), counts[0]


def _counted_tensor(draft: Draft, name: str) -> str:
    """Return the tensor the length of whose first axis this is."""
    part = _node(draft, name, "StridedSlice")
    bounds = [_constant(draft, bound) for bound in part.input[1:4]]
    _check(all(_is_number(b, n) for b, n in zip(bounds, (0, 1, 1), strict=True)))
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask")
    _check(attribute(part, "shrink_axis_mask").i == 1)
    _check(not any(attribute(part, mask).i for mask in masks))
    return _source(draft, _node(draft, part.input[0], "Shape").input[0])


def _check_counter(draft: Draft, name: str, condition: str) -> None:
    """Check that this is the number of the step that runs."""
    output = _source(draft, name)
    _check(output.endswith(":1"))
    switch = _node(draft, output.removesuffix(":1"), "Switch")
    _check_merge(draft, switch.input[0], condition)


def _check_merge(draft: Draft, name: str, condition: str) -> None:
    """Check that this is a loop's variable that runs 0, 1, 2 ..."""
    merge = _node(draft, name, "Merge")
    _check(_is_number(_constant(draft, _loop_input(draft, merge.input[0])), 0))
    again = _node(draft, merge.input[1], "NextIteration")
    add = _node(draft, again.input[0], "Add", "AddV2")
    _check(_is_number(_constant(draft, add.input[1]), 1))
    output = _source(draft, add.input[0])
    _check(output.endswith(":1"))
    switch = _node(draft, output.removesuffix(":1"), "Switch")
    _check(canonical(switch.input[0]) == merge.name)
    _check(canonical(switch.input[1]) == condition)


def _check_array(draft: Draft, name: str, batch: str) -> None:
    """Check that a tensor array has one element for each image and no more."""
    array = _node(draft, name, "TensorArrayV3")
    _check(not attribute(array, "dynamic_size").b)
    _check(_counted_tensor(draft, array.input[0]) == batch)


def _check_all(
    draft: Draft, name: str, batch: str, array: str = "", leave: str = ""
) -> None:
    """Check that these are the numbers of all images, 0, 1, 2 ..."""
    numbers = _node(draft, name, "Range")
    _check(_is_number(_constant(draft, numbers.input[0]), 0))
    _check(_is_number(_constant(draft, numbers.input[2]), 1))
    size = draft.producer(numbers.input[1], "TensorArraySizeV3")
    if size is None:
        _check(_counted_tensor(draft, numbers.input[1]) == batch)
    else:
        _check([canonical(name) for name in size.input] == [array, leave])


def _check(holds: bool) -> None:  # noqa: FBT001 - the condition is the argument
    if not holds:
        raise _NoMatchError


def _node(draft: Draft, name: str, *ops: str) -> Any:
    """Return the node that an input comes from, which must be of these ops."""
    node = draft.producer(_source(draft, name), *ops)
    if node is None or waits(node) or draft.is_kept(node.name):
        raise _NoMatchError
    return node


def _loop_input(draft: Draft, name: str) -> str:
    """Return the tensor outside of a loop that an input inside is."""
    return _source(draft, _node(draft, name, "Enter").input[0])


def _source(draft: Draft, name: str) -> str:
    """Follow ``Identity`` nodes back to their source."""
    node = draft.producer(name, "Identity")
    while node is not None and not waits(node) and not draft.is_kept(node.name):
        name = node.input[0]
        node = draft.producer(name, "Identity")
    return canonical(name)


def _constant(draft: Draft, name: str) -> Array | None:
    """Return a constant, or constant numbers that are packed, also inside a loop."""
    pack = draft.producer(name, "Pack")
    if pack is None:
        return draft.value(_source(draft, name))
    parts = [draft.value(part) for part in pack.input if part[0] != "^"]
    if any(part is None or part.shape != () for part in parts):
        return None
    return np.array(parts)


def _is_number(array: Array | None, number: int) -> bool:
    """Return whether a constant is this one number."""
    return array is not None and array.size == 1 and int(array.reshape(())) == number


def _used_exits(draft: Draft, condition: str) -> set[str]:
    """Return the names of a loop's exits that are used."""
    return {
        node.name
        for node in draft
        if node.op == "Exit"
        and draft.users(node.name)
        and any(
            canonical(name) == condition
            for name in draft.nodes[canonical(node.input[0])].input
        )
    }


def _put_batch_op(draft: Draft, result: _Result) -> None:
    """Put an op on the whole batch in place of the node that gathered its parts."""
    name = result.gather.name
    if result.value is None:
        size = _constant(draft, result.resizer.input[1])
        constant = draft.add_constant(f"{name}/size", np.asarray(size, np.int32))
        draft.put(copy_node(result.resizer, name=name, input=[result.batch, constant]))
        return
    value, int32 = result.value[None], tf.int32
    ones = draft.add_constant(f"{name}/ones", np.ones(result.value.ndim, np.int32))
    axis = draft.add_constant(f"{name}/axis", np.array(0, np.int32))
    first = draft.fresh_name(f"{name}/first")
    draft.put(make_node(first, "ExpandDims", [result.count, axis], T=int32, Tdim=int32))
    times = draft.fresh_name(f"{name}/times")
    concat = make_node(times, "ConcatV2", [first, ones, axis], T=int32, Tidx=int32)
    concat.attr["N"].i = 2
    draft.put(concat)
    constant = draft.add_constant(f"{name}/value", value)
    inputs = [constant, times]
    draft.put(make_node(name, "Tile", inputs, T=value.dtype, Tmultiples=int32))
