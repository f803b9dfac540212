"""Repair leftovers of training and of other machines in a graph, by kind.

A frozen graph was written on one machine for another: it may name devices that are not
here, stand next to nodes that freezing took away, or refer to variables that freezing
turned into constants. None of that changes the network's results, and TensorFlow
refuses all of it. The server alone decides where a model runs, and runs it for
inference, where nothing is assigned.

A repaired graph is checked like any other, so a repair never lets in anything that is
refused otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2

# tf.raw_ops is public but leaves many ops out; only this knows them all.
from tensorflow.python.framework import op_def_registry

from modelserver.runner.graphs.reader import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Ops that hand on a reference to a variable, and those that hand on its value. Where
# freezing made a constant of the variable, there is no reference left to hand on.
_VALUE_FORMS = {
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefIdentity": "Identity",
    "RefMerge": "Merge",
    "RefNextIteration": "NextIteration",
    "RefSwitch": "Switch",
}
# A call's attributes that hold a ConfigProto, with the devices of the machine that
# wrote it; and marks of nodes and functions for a compiler or a TPU.
_CONFIGS = {"config", "config_proto"}
_MARKS = ("_Xla", "_xla", "_tpu", "_replication_info")
_COLOCATED = "loc:@"
_COLOCATION = "_class"
_SHOWN_OPS = 4


def repair(graph_def: Any) -> tuple[str, ...]:
    """Repair a graph in place, before it is checked and TensorFlow sees it.

    Args:
        graph_def: any ``tf.compat.v1.GraphDef`` of a bounded number of nodes; nobody
            need have vouched for it.

    Returns:
        A few words for each kind of repair that was due.
    """
    repairs = Counter(_drop_waits(graph_def.node))
    repairs.update(_replace_references(graph_def))
    repairs.update(drop_assignments(graph_def))
    for nodes in _all_nodes(graph_def):
        repairs.update(_clear_devices(nodes))
        repairs.update(_drop_colocations(nodes))
        repairs.update(_drop_unknown_attributes(nodes))
    for function in graph_def.library.function:
        repairs.update(_drop_device_attributes(function))
    return _describe(repairs)


def _describe(repairs: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """Describe the repairs, each kind with its number and its ops."""
    kinds: dict[str, Counter[str]] = {}
    for (kind, what), count in repairs.items():
        kinds.setdefault(kind, Counter())[what] += count
    return tuple(
        f"{kind} ({_describe_counts(things)})" for kind, things in sorted(kinds.items())
    )


def _describe_counts(things: Counter[str]) -> str:
    """List the most common things with their numbers, for a sentence."""
    common = [
        f"{count} {quote(thing)[:60]}"
        for thing, count in things.most_common(_SHOWN_OPS)
    ]
    left = len(things) - _SHOWN_OPS
    return ", ".join(common) + (f" and {left} more kinds" if left > 0 else "")


def _all_nodes(graph_def: Any) -> Iterator[Any]:
    """Return the graph's nodes and each function's."""
    yield graph_def.node
    for function in graph_def.library.function:
        yield function.node_def


def _drop_waits(nodes: Any) -> Iterator[tuple[str, str]]:
    """Drop waits for nodes that are gone.

    A ``NoOp`` that nobody waits for is left alone: it is there to wait, and the nodes
    that it waits for were cut off.
    """
    names = {node.name for node in nodes}
    used = {name.removeprefix("^") for node in nodes for name in node.input}
    for node in nodes:
        if node.op == "NoOp" and node.name not in used:
            continue
        kept = [
            name for name in node.input if not name.startswith("^") or name[1:] in names
        ]
        if len(kept) != len(node.input):
            del node.input[:]
            node.input.extend(kept)
            yield "waits for nodes that are gone dropped", node.op


def _replace_references(graph_def: Any) -> Iterator[tuple[str, str]]:
    """Turn the ops that hand on a reference into those that hand on a value."""
    for node in graph_def.node:
        if node.op in _VALUE_FORMS:
            yield "reference ops made value ops", node.op
            node.op = _VALUE_FORMS[node.op]
    taken = {node.name for node in graph_def.node}
    for node in list(graph_def.node):
        if node.op == "RefSelect" and _replace_ref_select(graph_def, node, taken):
            yield "reference ops made value ops", "RefSelect"


def _replace_ref_select(graph_def: Any, node: Any, taken: set[str]) -> bool:
    """Turn a ``RefSelect`` into stacking its values and gathering one of them."""
    stack, axis = f"{node.name}/values", f"{node.name}/axis"
    index, *values = [name for name in node.input if not name.startswith("^")] or [""]
    if not values or {stack, axis} & taken or "T" not in node.attr:
        return False
    packed = graph_def.node.add(name=stack, op="Pack", input=values)
    packed.attr["T"].CopyFrom(node.attr["T"])
    packed.attr["N"].i = len(values)
    packed.attr["axis"].i = 0
    first = graph_def.node.add(name=axis, op="Const")
    first.attr["dtype"].type = types_pb2.DT_INT32
    first.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tf.int32))
    node.op = "GatherV2"
    waits = [name for name in node.input if name.startswith("^")]
    del node.input[:]
    node.input.extend([stack, index, axis, *waits])
    node.attr["Tparams"].CopyFrom(node.attr["T"])
    node.attr["Tindices"].type = types_pb2.DT_INT32
    node.attr["Taxis"].type = types_pb2.DT_INT32
    del node.attr["T"], node.attr["N"]
    return True


def _clear_devices(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Take every node off the device that it names, parsable or not."""
    for node in nodes:
        if node.device:
            yield "devices cleared", f"of {node.device}"
            node.device = ""
        yield from _drop_device_attributes(node)


def _drop_device_attributes(owner: Any) -> Iterator[tuple[str, str]]:
    """Drop a node's or a function's attributes that pin it to a device or compiler."""
    for name in list(owner.attr):
        if name.startswith(_MARKS) or (name in _CONFIGS and owner.attr[name].s):
            del owner.attr[name]
            yield "devices cleared", f"of {name}"


def _drop_colocations(nodes: Any) -> Iterator[tuple[str, str]]:
    """Drop a colocation with a node that is gone."""
    names = {node.name for node in nodes}
    for node in nodes:
        if _COLOCATION not in node.attr:
            continue
        colocations = node.attr[_COLOCATION].list.s
        kept = [name for name in colocations if _is_there(name, names)]
        if len(kept) == len(colocations):
            continue
        yield "lost colocations dropped", node.op
        del colocations[:]
        colocations.extend(kept)
        if not kept:
            del node.attr[_COLOCATION]


def _is_there(colocation: bytes, names: set[str]) -> bool:
    """Return whether an entry of ``_class`` names a node that is there, or none."""
    text = colocation.decode("utf-8", "replace")
    return not text.startswith(_COLOCATED) or text.removeprefix(_COLOCATED) in names


def _drop_unknown_attributes(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Drop attributes that this TensorFlow's op lacks, which it would ignore.

    A newer TensorFlow's op may have one more, whose default leaves the op as it was:
    such defaults are false, zero or empty. Another value is reported apart.
    """
    known: dict[str, set[str] | None] = {}
    for node in nodes:
        if node.op not in known:
            op_def = op_def_registry.get(node.op)
            known[node.op] = op_def and {attribute.name for attribute in op_def.attr}
        names = known[node.op]
        if names is None:
            continue
        for name in [name for name in node.attr if name not in names]:
            if not name.startswith("_"):
                how = "" if _is_empty(node.attr[name]) else ", which may matter,"
                del node.attr[name]
                yield f"unknown attributes{how} dropped", f"{name} of {node.op}"


def _is_empty(value: Any) -> bool:
    """Return whether an attribute is false, zero or empty."""
    kind = value.WhichOneof("value")
    if kind == "list":
        return not value.list.ListFields()
    return kind is None or (kind in {"b", "i", "f", "s"} and not getattr(value, kind))


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
# The op that gives an assignment's value, if its variable is a constant.
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
    """Take out assignments, in place, and other ops that need a variable.

    One that nobody reads becomes its value's rank, so that a node that waits for it
    still waits for its value, and a branch that is not taken stays so. One that is read
    becomes the result of the reading, the sum or the value, if its variable is a
    constant; if the result is unknown, as for a scatter, it stays, and is refused with
    its name.

    Args:
        graph_def: any ``tf.compat.v1.GraphDef`` of a bounded number of nodes.

    Yields:
        The kind of repair, and the op that it was done to.
    """
    nodes = {node.name: node for node in graph_def.node}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for node in graph_def.node:
        for name in node.input:
            if not name.startswith("^"):
                users[name.partition(":")[0]].append(node.op)
    for node in graph_def.node:
        op = node.op
        if op in _TYPES and not users[node.name] and _to_rank(node):
            yield "assignments that nobody reads dropped", op
        elif op in _READ and not _is_variable(node, nodes) and _to_value(node):
            yield "assignments replaced by what they give", op
        elif op in _READERS and not _is_variable(node, nodes) and _to_identity(node):
            yield "reading a variable replaced by its value", op
        elif op in _ASKED and not _is_variable(node, nodes):
            _to_true(node)
            yield "reading a variable replaced by its value", op


def _is_variable(node: Any, nodes: dict[str, Any]) -> bool:
    """Return whether a node's first input comes from a variable that was not frozen."""
    visited: set[str] = set()
    while node is not None and node.input and node.name not in visited:
        visited.add(node.name)
        node = nodes.get(node.input[0].partition(":")[0])
        if node is not None and node.op in _VARIABLES:
            return True
        if node is None or node.op not in _HANDS_ON:
            return False
    return False


def _split_inputs(node: Any) -> tuple[list[str], list[str]]:
    """Return a node's data inputs and its control inputs."""
    waits = [name for name in node.input if name.startswith("^")]
    return [name for name in node.input if not name.startswith("^")], waits


def _turn_into(node: Any, op: str, inputs: list[str], **attrs: int) -> None:
    """Turn a node into another op; ``attrs`` are types."""
    node.op = op
    del node.input[:]
    node.input.extend(inputs)
    for name in [name for name in node.attr if not name.startswith("_")]:
        del node.attr[name]
    for name, value in attrs.items():
        node.attr[name].type = value


def _type_attribute(node: Any, name: str) -> int:
    """Return a type attribute; 0, which is none, if there is none."""
    return int(node.attr[name].type) if name in node.attr else 0


def _to_rank(node: Any) -> bool:
    """Turn an assignment into the rank of its value."""
    data, waits = _split_inputs(node)
    dtype = _type_attribute(node, _TYPES[node.op])
    if len(data) > 1 and dtype:
        _turn_into(node, "Rank", [data[-1], *waits], T=dtype)
    return bool(node.op == "Rank")


def _to_value(node: Any) -> bool:
    """Turn an assignment to a constant into the result of reading it."""
    data, waits = _split_inputs(node)
    dtype = _type_attribute(node, "T")
    if len(data) != 2 or not dtype:  # noqa: PLR2004 - the variable and the value
        return False
    kept = data if node.op != "Assign" else data[1:]
    _turn_into(node, _READ[node.op], [*kept, *waits], T=dtype)
    return True


def _to_identity(node: Any) -> bool:
    """Turn the reading of a variable into its value."""
    data, waits = _split_inputs(node)
    dtype = _type_attribute(node, "dtype")
    if len(data) != 1 or not dtype:
        return False
    _turn_into(node, "Identity", [*data, *waits], T=dtype)
    return True


def _to_true(node: Any) -> None:
    """Turn a question whether a constant is initialized into ``True``."""
    _, waits = _split_inputs(node)
    _turn_into(node, "Const", waits, dtype=types_pb2.DT_BOOL)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values=True))
