"""Take assignments out of a frozen graph: inference assigns nothing.

Batch normalisation's moving averages, counters of steps and initializers stay behind
where training code was frozen. Their variables are constants by then, and TensorFlow
refuses to assign to a constant.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tensorflow.core.framework import types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ops that give a variable a new value, which is their last input, and the attribute
# that holds the value's type. Those on resources give nothing that could be read.
_ON_REFERENCES = {
    "Assign",
    "AssignAdd",
    "AssignSub",
    *(f"Scatter{how}" for how in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Update")),
    *(f"ScatterNd{how}" for how in ("Add", "Max", "Min", "Sub", "Update")),
}
_ON_RESOURCES = {
    "AssignVariableOp": "dtype",
    "AssignAddVariableOp": "dtype",
    "AssignSubVariableOp": "dtype",
    **{
        f"ResourceScatter{how}": "dtype"
        for how in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Update")
    },
    **{
        f"ResourceScatterNd{how}": "T" for how in ("Add", "Max", "Min", "Sub", "Update")
    },
}
_TYPES = dict.fromkeys(_ON_REFERENCES, "T") | _ON_RESOURCES
# What the value read from an assignment is, where its variable is a constant.
_READ = {"Assign": "Identity", "AssignAdd": "Add", "AssignSub": "Sub"}
_READERS = {"ReadVariableOp"}
_ASKED = {"IsVariableInitialized", "VarIsInitializedOp"}
_VARIABLES = {
    *("Variable", "VariableV2", "TemporaryVariable"),
    *("VarHandleOp", "AutoReloadVariable"),
}
# What hands a variable on by its first input.
_HANDS_ON = {
    *("Identity", "Enter", "Exit", "NextIteration", "Switch", "Merge"),
    *_ON_REFERENCES,
}


def drop_assignments(graph_def: Any) -> Iterator[tuple[str, str]]:
    """Take assignments out, in place, and what else only a variable could do.

    One that nobody reads becomes its value's rank, so that whoever waits for it still
    waits for its value, and a branch that is not taken stays so. One that is read
    becomes what is read, the sum or the value, where its variable is a constant; where
    that cannot be told, as for a scatter, it stays, and is refused with its name.

    Args:
        graph_def: any ``tf.compat.v1.GraphDef`` of a bounded number of nodes.

    Yields:
        What was done, and to which op.
    """
    nodes = {node.name: node for node in graph_def.node}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for node in graph_def.node:
        for name in node.input:
            if not name.startswith("^"):
                users[name.partition(":")[0]].append(node.op)
    for node in graph_def.node:
        op = node.op
        if op in _TYPES and not users[node.name] and _rank_only(node):
            yield "assignments that nobody reads dropped", op
        elif op in _READ and not _is_variable(node, nodes) and _as_read(node):
            yield "assignments replaced by what they give", op
        elif op in _READERS and not _is_variable(node, nodes) and _as_identity(node):
            yield "reading a variable replaced by its value", op
        elif op in _ASKED and not _is_variable(node, nodes):
            _as_true(node)
            yield "reading a variable replaced by its value", op


def _is_variable(node: Any, nodes: dict[str, Any]) -> bool:
    """Tell whether a node's first input comes from a variable that was not frozen."""
    seen: set[str] = set()
    while node is not None and node.input and node.name not in seen:
        seen.add(node.name)
        node = nodes.get(node.input[0].partition(":")[0])
        if node is not None and node.op in _VARIABLES:
            return True
        if node is None or node.op not in _HANDS_ON:
            return False
    return False


def _split(node: Any) -> tuple[list[str], list[str]]:
    """Give what a node computes with, and what it only waits for."""
    waits = [name for name in node.input if name.startswith("^")]
    return [name for name in node.input if not name.startswith("^")], waits


def _become(node: Any, op: str, inputs: list[str], **attrs: int) -> None:
    """Turn a node into another op; ``attrs`` are types."""
    node.op = op
    del node.input[:]
    node.input.extend(inputs)
    for name in [name for name in node.attr if not name.startswith("_")]:
        del node.attr[name]
    for name, value in attrs.items():
        node.attr[name].type = value


def _type(node: Any, name: str) -> int:
    """Give a type attribute; 0, which is none, where there is none."""
    return int(node.attr[name].type) if name in node.attr else 0


def _rank_only(node: Any) -> bool:
    """Turn an assignment into the rank of what it assigned."""
    data, waits = _split(node)
    dtype = _type(node, _TYPES[node.op])
    if len(data) > 1 and dtype:
        _become(node, "Rank", [data[-1], *waits], T=dtype)
    return bool(node.op == "Rank")


def _as_read(node: Any) -> bool:
    """Turn an assignment to a constant into what reading it gives."""
    data, waits = _split(node)
    dtype = _type(node, "T")
    if len(data) != 2 or not dtype:  # noqa: PLR2004 - the variable and the value
        return False
    kept = data if node.op != "Assign" else data[1:]
    _become(node, _READ[node.op], [*kept, *waits], T=dtype)
    return True


def _as_identity(node: Any) -> bool:
    """Turn the reading of a variable into its value."""
    data, waits = _split(node)
    dtype = _type(node, "dtype")
    if len(data) != 1 or not dtype:
        return False
    _become(node, "Identity", [*data, *waits], T=dtype)
    return True


def _as_true(node: Any) -> None:
    """Say that a constant is an initialized variable."""
    _, waits = _split(node)
    _become(node, "Const", waits, dtype=types_pb2.DT_BOOL)
    value = node.attr["value"].tensor
    value.dtype = types_pb2.DT_BOOL
    value.tensor_shape.SetInParent()
    value.bool_val.append(True)
