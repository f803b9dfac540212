"""Open the batch of a graph that was exported for a fixed number of images a run.

The placeholder holds that number, and so do the shapes that the graph reshapes and
slices to. Whether the graph computes the same afterwards, only running it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.traversal import descendants, shape_of
from modelserver.runner.rewriting.draft import Draft, copy_node

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shape = NDArray[np.integer[Any]]

# Ops that take a shape of constants, and by which input.
_SHAPED = {"Reshape": 1, "Slice": 2, "StridedSlice": 2}
_SHAPE_ATTR = {"EnsureShape", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault"}


def open_batch(graph_def: Any, graph: Any, image: str) -> Any:
    """Write a graph anew whose input takes any number of images.

    Args:
        graph_def: the ``tf.compat.v1.GraphDef``, which is not changed.
        graph: the same as a ``tf.Graph``, for its static shapes.
        image: name of the tensor that takes the images, whose first axis is the batch.

    Returns:
        A ``tf.compat.v1.GraphDef``; it may be none that TensorFlow takes.
    """
    tensor = graph.get_tensor_by_name(image)
    count = (shape_of(tensor) or (None,))[0] or 1
    behind = {op.name: op for op in descendants(tensor)}
    draft = Draft(graph_def)
    for node in draft:
        op = behind.get(node.name)
        if node.name == tensor.op.name or (op and node.op in _SHAPE_ATTR):
            draft.put(_open_attribute(node, count))
        elif op is not None and node.op in _SHAPED:
            index = _SHAPED[node.op]
            value = constant(op.inputs[index])
            shape = None if value is None else _open_shape(op, value, count)
            if shape is not None:
                changed = copy_node(node)
                changed.input[index] = draft.add_constant(
                    f"{node.name}/any_batch", shape
                )
                draft.put(changed)
    return draft.graph_def()


def _open_attribute(node: Any, count: int) -> Any:
    """Copy a node and open the first side of its shape."""
    changed = copy_node(node)
    if "shape" in node.attr:
        for dim in changed.attr["shape"].shape.dim[:1]:
            dim.size = -1 if dim.size == count else dim.size
    return changed


def _open_shape(op: Any, value: Shape, count: int) -> Shape | None:
    """Return a shape without the batch's number, ``None`` if it does not hold it."""
    if value.ndim != 1 or not value.size or value[0] < count or value[0] % count:
        return None
    open_shape = np.array(value)
    if op.type == "StridedSlice":
        # All there are: an end beyond the last is cut off.
        open_shape[0] = np.iinfo(open_shape.dtype).max
        return open_shape if _begins_first(op) else None
    open_shape[0] = -1
    if op.type == "Reshape" and (value[1:] < 0).any():
        sides = [side or -1 for side in (shape_of(op.outputs[0]) or ())[1:]]
        if len(sides) != len(value) - 1 or min(sides) < 0:
            return None
        open_shape[1:] = sides
    return open_shape


def _begins_first(op: Any) -> bool:
    """Return whether a slice takes its first axis from the start on."""
    begin = constant(op.inputs[1])
    starts = op.get_attr("begin_mask") & 1 or (
        begin is not None and not begin[:1].any()
    )
    masks = ("shrink_axis_mask", "new_axis_mask", "ellipsis_mask")
    return bool(starts) and not any(op.get_attr(mask) & 1 for mask in masks)
