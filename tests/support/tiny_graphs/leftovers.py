"""Graphs with what freezing and other machines leave in them, named by it.

Each answers as ``classifier()`` does, once it is repaired.
"""

import numpy as np
import tensorflow as tf

from support.tiny_graphs.building import building, file_of, v1
from support.tiny_graphs.classifiers import classifier, colour_logits

LEFTOVERS = {}


def leftover(function):
    """Note a function that builds a graph to be repaired."""
    LEFTOVERS[function.__name__] = function
    return function


def _changed(change, data=None):
    """A graph's bytes after a function has changed its nodes."""
    graph_def = v1.GraphDef.FromString(data or classifier())
    change(graph_def)
    return graph_def.SerializeToString(deterministic=True)


def on_device(device, data=None):
    """A classifier, or another graph, with all nodes on a device."""

    def pin(graph_def):
        for node in graph_def.node:
            node.device = device
        for function in graph_def.library.function:
            for node in function.node_def:
                node.device = device

    return _changed(pin, data)


for number, name in enumerate(
    (
        "/device:GPU:0",
        "/gpu:1",
        "/device:CPU:0",
        "/job:ps/task:0/device:CPU:0",
        "/job:worker/replica:0/task:3/device:GPU:2",
        "/device:TPU:0",
        "/device:XLA_GPU:0",
        "/device:TPU_REPLICATED_CORE:0",
        "gpu0",
        "/device:",
        "\x1b[31mnot a device\n",
    )
):
    LEFTOVERS[f"device_{number}"] = lambda device=name: on_device(device)


@leftover
def pinned_in_a_function():
    """A classifier whose function's nodes, and whose call, are for another machine."""
    with building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        scored = tf.function(colour_logits).get_concrete_function(
            tf.TensorSpec((None, 8, 8, 3))
        )
        tf.nn.softmax(scored(image), name="softmax")
    config = tf.compat.v1.ConfigProto(device_filters=["/job:worker"])
    config.device_count["GPU"] = 8

    def pin(graph_def):
        for function in graph_def.library.function:
            function.attr["_XlaMustCompile"].b = True
            for node in function.node_def:
                node.device = "/device:GPU:7"
                node.attr["_class"].list.s.append(b"loc:@gone")
        for node in graph_def.node:
            if node.op.endswith("PartitionedCall"):
                node.attr["config_proto"].s = config.SerializeToString()
                node.attr["_tpu_replicate"].s = b"cluster"

    return _changed(pin, file_of(graph))


@leftover
def colocated_with_nothing():
    """A classifier whose nodes are to stand beside some that are gone, and one not."""

    def colocate(graph_def):
        for node in graph_def.node[1:]:
            beside = [b"loc:@stripped/weights", b"loc:@input", b"loc:@"]
            node.attr["_class"].list.s.extend(beside)

    return _changed(colocate)


@leftover
def waiting_for_nothing():
    """A classifier whose nodes wait for some that are gone."""

    def wait(graph_def):
        for node in graph_def.node:
            node.input.append("^gone/group_deps")

    return _changed(wait)


@leftover
def with_newer_attributes():
    """A classifier whose ops have an attribute that this TensorFlow's do not."""

    def know_more(graph_def):
        for node in graph_def.node:
            node.attr["newer_switch"].b = False
            node.attr["newer_list"].list.SetInParent()

    return _changed(know_more)


def _node(graph_def, name, op, *inputs, **types):
    """Add a node whose attributes are types."""
    node = graph_def.node.add(name=name, op=op, input=inputs)
    for key, value in types.items():
        node.attr[key].type = value
    return node


FLOAT, INT = tf.float32.as_datatype_enum, tf.int32.as_datatype_enum


def with_mean(change, default=False):
    """A classifier that subtracts a frozen mean, 0, by nodes that ``change`` adds.

    ``change(graph_def)`` gives the name of the mean's tensor. There are: ``mean``, the
    constant; ``half``, what training would add to it; ``phase`` and the switch of
    ``half`` by it, ``Switch``; ``by``, the constant number 2.
    """
    with building(old_loops=True) as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        mean = tf.constant(np.zeros(3, np.float32), name="mean")
        tf.constant(0, name="by")
        half = tf.constant(np.full(3, 0.5, np.float32), name="half")
        phase = v1.placeholder_with_default(default, (), "phase_train")
        tf.raw_ops.Switch(data=half, pred=phase, name="Switch")
        logits = colour_logits(image) - tf.identity(mean, name="mean/read")
        tf.nn.softmax(logits, name="softmax")
    graph_def = v1.GraphDef.FromString(file_of(graph))
    taken = change(graph_def)
    for node in graph_def.node:
        if node.name == "mean/read":
            node.input[0] = taken
    return graph_def.SerializeToString(deterministic=True)


def _switched(graph_def, name="by_ref"):
    """Add the ``RefSwitch`` of the mean by the phase; its first output is not taken."""
    _node(graph_def, name, "RefSwitch", "mean", "phase_train", T=FLOAT)
    return name


@leftover
def ref_switch():
    """The mean by ``RefSwitch`` and ``RefMerge``; training would add a half to it."""

    def change(graph_def):
        by_ref = _switched(graph_def)
        _node(graph_def, "add", "AssignAdd", f"{by_ref}:1", "Switch:1", T=FLOAT)
        merge = _node(graph_def, "merge", "RefMerge", by_ref, "add", T=FLOAT)
        merge.attr["N"].i = 2
        return "merge"

    return with_mean(change)


@leftover
def ref_loop():
    """The mean through the reference ops of a loop, one round of it."""

    def change(graph_def):
        enter = _node(graph_def, "enter", "RefEnter", "mean", T=FLOAT)
        enter.attr["frame_name"].s = b"loop"
        merge = _node(graph_def, "merge", "RefMerge", "enter", "next", T=FLOAT)
        merge.attr["N"].i = 2
        more = _node(
            graph_def, "more", "Const", "^enter", dtype=tf.bool.as_datatype_enum
        )
        more.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(False))
        _node(graph_def, "loop", "LoopCond", "more")
        _node(graph_def, "by_ref", "RefSwitch", "merge", "loop", T=FLOAT)
        _node(graph_def, "next", "RefNextIteration", "by_ref:1", T=FLOAT)
        _node(graph_def, "exit", "RefExit", "by_ref", T=FLOAT)
        _node(graph_def, "same", "RefIdentity", "exit", T=FLOAT)
        return "same"

    return with_mean(change)


@leftover
def ref_select():
    """The mean chosen from two by ``RefSelect``."""

    def change(graph_def):
        select = _node(graph_def, "select", "RefSelect", "by", "mean", "half", T=FLOAT)
        select.attr["N"].i = 2
        return "select"

    return with_mean(change)


def _unread(op, *inputs, **types):
    """The mean read by a node that waits for an assignment that nobody reads."""

    def change(graph_def):
        _node(graph_def, "update", op, *inputs, **types)
        _node(graph_def, "group", "NoOp", "^update")
        _node(graph_def, "waits", "Identity", "mean", "^group", "^update", T=FLOAT)
        return "waits"

    return with_mean(change)


for one in ("Assign", "AssignAdd", "AssignSub"):
    LEFTOVERS[f"unread_{one}"] = lambda op=one: _unread(op, "mean", "half", T=FLOAT)
for one in ("ScatterSub", "ScatterUpdate"):
    LEFTOVERS[f"unread_{one}"] = lambda op=one: _unread(
        op, "mean", "by", "half", T=FLOAT, Tindices=INT
    )
for one in ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"):
    LEFTOVERS[f"unread_{one}"] = lambda op=one: _unread(op, "mean", "half", dtype=FLOAT)


@leftover
def assigned_before_it_is_read():
    """The mean set to what it is, and that value read."""

    def change(graph_def):
        _node(graph_def, "set", "Assign", "half", "mean", T=FLOAT)
        return "set"

    return with_mean(change)


@leftover
def asked_whether_it_is_there():
    """The mean read as a variable is, after asking whether it is initialized."""

    def change(graph_def):
        _node(graph_def, "asked", "IsVariableInitialized", "mean", dtype=FLOAT)
        _node(graph_def, "asked_2", "VarIsInitializedOp", "mean")
        wait = ("^asked", "^asked_2")
        _node(graph_def, "read", "ReadVariableOp", "mean", *wait, dtype=FLOAT)
        return "read"

    return with_mean(change)
