"""Repair what freezing and other machines left in a graph, by kind.

A frozen graph was written on one machine for another: it may name devices that are not
here, stand beside nodes that freezing took away, or refer to variables that freezing
turned into constants. None of that changes what the network computes, and TensorFlow
refuses all of it. The server alone decides where a model runs, and runs it for
inference, where nothing is assigned.

What a repair leaves is checked afterwards like any other graph, so a repair never lets
in what is refused otherwise.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tensorflow.core.framework import types_pb2

# tf.raw_ops is public but leaves many ops out; only this knows them all.
from tensorflow.python.framework import op_def_registry

from modelserver.runner.graphs.assignments import drop_assignments
from modelserver.runner.graphs.quotes import shown

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
    repairs = Counter(_waits_dropped(graph_def.node))
    repairs.update(_values_taken(graph_def))
    repairs.update(drop_assignments(graph_def))
    for nodes in _all_nodes(graph_def):
        repairs.update(_freed(nodes))
        repairs.update(_colocations_dropped(nodes))
        repairs.update(_attributes_dropped(nodes))
    for function in graph_def.library.function:
        repairs.update(_places_dropped(function))
    return _in_words(repairs)


def _in_words(repairs: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """Write the repairs, each kind with how often and on what it was done."""
    kinds: dict[str, Counter[str]] = {}
    for (kind, what), count in repairs.items():
        kinds.setdefault(kind, Counter())[what] += count
    return tuple(
        f"{kind} ({_counted(things)})" for kind, things in sorted(kinds.items())
    )


def _counted(things: Counter[str]) -> str:
    """List the most common things with their numbers, for a sentence."""
    most = [
        f"{count} {shown(thing)[:60]}"
        for thing, count in things.most_common(_SHOWN_OPS)
    ]
    left = len(things) - _SHOWN_OPS
    return ", ".join(most) + (f" and {left} more kinds" if left > 0 else "")


def _all_nodes(graph_def: Any) -> Iterator[Any]:
    """Give the graph's nodes and each function's."""
    yield graph_def.node
    for function in graph_def.library.function:
        yield function.node_def


def _waits_dropped(nodes: Any) -> Iterator[tuple[str, str]]:
    """Let no node wait for one that is gone.

    Not a ``NoOp`` that nobody waits for: it is there to wait, and what it waits for was
    cut off.
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


def _values_taken(graph_def: Any) -> Iterator[tuple[str, str]]:
    """Turn the ops that hand on a reference into those that hand on a value."""
    for node in graph_def.node:
        if node.op in _VALUE_FORMS:
            yield "reference ops made value ops", node.op
            node.op = _VALUE_FORMS[node.op]
    taken = {node.name for node in graph_def.node}
    for node in list(graph_def.node):
        if node.op == "RefSelect" and _selects_by_value(graph_def, node, taken):
            yield "reference ops made value ops", "RefSelect"


def _selects_by_value(graph_def: Any, node: Any, taken: set[str]) -> bool:
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
    first.attr["value"].tensor.dtype = types_pb2.DT_INT32
    first.attr["value"].tensor.tensor_shape.SetInParent()
    first.attr["value"].tensor.int_val.append(0)
    node.op = "GatherV2"
    waits = [name for name in node.input if name.startswith("^")]
    del node.input[:]
    node.input.extend([stack, index, axis, *waits])
    node.attr["Tparams"].CopyFrom(node.attr["T"])
    node.attr["Tindices"].type = types_pb2.DT_INT32
    node.attr["Taxis"].type = types_pb2.DT_INT32
    del node.attr["T"], node.attr["N"]
    return True


def _freed(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Take every node off the device that it names, parsable or not."""
    for node in nodes:
        if node.device:
            yield "devices cleared", f"of {node.device}"
            node.device = ""
        yield from _places_dropped(node)


def _places_dropped(owner: Any) -> Iterator[tuple[str, str]]:
    """Drop a node's or a function's attributes that pin it to a device or compiler."""
    for name in list(owner.attr):
        if name.startswith(_MARKS) or (name in _CONFIGS and owner.attr[name].s):
            del owner.attr[name]
            yield "devices cleared", f"of {name}"


def _colocations_dropped(nodes: Any) -> Iterator[tuple[str, str]]:
    """Drop the wish to be placed beside a node that is gone."""
    names = {node.name for node in nodes}
    for node in nodes:
        if _COLOCATION not in node.attr:
            continue
        beside = node.attr[_COLOCATION].list.s
        kept = [name for name in beside if _is_there(name, names)]
        if len(kept) == len(beside):
            continue
        yield "lost colocations dropped", node.op
        del beside[:]
        beside.extend(kept)
        if not kept:
            del node.attr[_COLOCATION]


def _is_there(colocation: bytes, names: set[str]) -> bool:
    """Tell whether an entry of ``_class`` names a node that is there, or none."""
    text = colocation.decode("utf-8", "replace")
    return not text.startswith(_COLOCATED) or text.removeprefix(_COLOCATED) in names


def _attributes_dropped(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Drop attributes that this TensorFlow's op has not, which it would pass over.

    A newer TensorFlow's op may have one more, whose default leaves the op as it was:
    such defaults are false, zero or empty. One that says more is told apart.
    """
    known: dict[str, set[str] | None] = {}
    for node in nodes:
        if node.op not in known:
            op_def = op_def_registry.get(node.op)
            known[node.op] = op_def and {one.name for one in op_def.attr}
        names = known[node.op]
        if names is None:
            continue
        for name in [name for name in node.attr if name not in names]:
            if not name.startswith("_"):
                how = "" if _says_nothing(node.attr[name]) else ", which may matter,"
                del node.attr[name]
                yield f"unknown attributes{how} dropped", f"{name} of {node.op}"


def _says_nothing(value: Any) -> bool:
    """Tell whether an attribute is false, zero or empty."""
    kind = value.WhichOneof("value")
    if kind == "list":
        return not value.list.ListFields()
    return kind is None or (kind in {"b", "i", "f", "s"} and not getattr(value, kind))
