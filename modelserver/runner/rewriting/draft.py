"""A graph that is being rewritten."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver.runner.graphs.traversal import node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature

    Array = NDArray[Any]

v1 = tf.compat.v1


def canonical(name: str) -> str:
    """Return an input's name as GraphDefs write it: the first output without ``:0``."""
    return name.removesuffix(":0")


class Draft:
    """A ``GraphDef``'s nodes by name, with who uses whom. For one thread.

    Nodes are replaced, never changed in place, so the graph that it was made from stays
    as it is, and its weights are not copied.

    Args:
        graph_def: a valid ``tf.compat.v1.GraphDef``.
        fed, fetched: names of the tensors that a run feeds and fetches. Their nodes
            keep their names; a tensor that is fed is no constant, even if its node is
            one.

    Attributes:
        nodes: by name, in the graph's order. Change them by ``put`` and ``drop`` only.
    """

    def __init__(
        self, graph_def: Any, fed: Iterable[str] = (), fetched: Iterable[str] = ()
    ) -> None:
        self._graph_def = graph_def
        self._fed = {node_of(name) for name in fed}
        self._fetched = {canonical(name) for name in fetched}
        self._kept = self._fed | {node_of(name) for name in fetched}
        self.nodes: dict[str, Any] = {node.name: node for node in graph_def.node}
        self._users: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for node in graph_def.node:
            self._count(node, 1)

    @classmethod
    def of(cls, graph_def: Any, signature: Signature) -> Draft:
        """Make a draft of a graph that is run by a signature."""
        fed = (signature.input, *signature.feeds)
        return cls(graph_def, fed, signature.outputs.values())

    @property
    def fetched(self) -> frozenset[str]:
        """Names of the fetched tensors, the first output without ``:0``."""
        return frozenset(self._fetched)

    def _count(self, node: Any, sign: int) -> None:
        for name in node.input:
            self._users[node_of(name)][node.name] += sign

    def put(self, node: Any) -> None:
        """Add a node, or replace the one of its name."""
        old = self.nodes.get(node.name)
        if old is not None:
            self._count(old, -1)
        self.nodes[node.name] = node
        self._count(node, 1)

    def drop(self, name: str) -> None:
        """Remove a node that nobody uses any more."""
        self._count(self.nodes.pop(name), -1)

    def users(self, name: str) -> list[Any]:
        """Return the nodes that take an output of this node, or wait for it."""
        return [self.nodes[user] for user, uses in self._users[name].items() if uses]

    def is_kept(self, name: str) -> bool:
        """Return whether the node is fed or fetched, so that it must keep its name."""
        return name in self._kept

    def only_user(self, name: str) -> Any | None:
        """Return the only node that takes the first output of this one.

        ``None`` if it is fed or fetched, used twice, waited for, or if another of its
        outputs is used: then its value must stay as it is.
        """
        uses = +self._users[name]
        if self.is_kept(name) or sum(uses.values()) != 1:
            return None
        user = self.nodes[next(iter(uses))]
        takes_first = any(canonical(taken) == name for taken in user.input)
        return user if takes_first else None

    def producer(self, name: str, *ops: str) -> Any | None:
        """Return the node whose first output this input is, if it is one of ``ops``."""
        node = self.nodes.get(canonical(name))
        return node if node is not None and node.op in ops else None

    def constant(self, name: str) -> Array | None:
        """Return the value of an input that is a ``Const``'s, ``None`` if it is not.

        A value that is fed, or that waits for another node, is no constant.
        """
        node = self.producer(name, "Const")
        if node is None or node.name in self._fed or node.input:
            return None
        return self.value(name)

    def value(self, name: str) -> Array | None:
        """Return a ``Const``'s value, even if it waits for another node."""
        node = self.producer(name, "Const")
        if node is None or node.name in self._fed:
            return None
        array: Array = tf.make_ndarray(attribute(node, "value").tensor)
        return array

    def fresh_name(self, base: str) -> str:
        """Return a name that no node has yet."""
        number = 0
        name = base
        while name in self.nodes:
            number += 1
            name = f"{base}_{number}"
        return name

    def add_constant(
        self, base: str, array: Array, waits_for: Iterable[str] = ()
    ) -> str:
        """Add a ``Const`` and give its name.

        Args:
            base: its name, if that is free.
            array: its value.
            waits_for: its control inputs; inside a loop it must have one.
        """
        node = make_node(self.fresh_name(base), "Const", waits_for, dtype=array.dtype)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        self.put(node)
        return str(node.name)

    def rewire(self, old: str, new: str) -> None:
        """Replace a node's first output by another tensor in all its users."""
        for user in self.users(old):
            changed = copy_node(user)
            for index, name in enumerate(user.input):
                if canonical(name) == old:
                    changed.input[index] = new
            self.put(changed)

    def drop_unused(self) -> int:
        """Remove the nodes that no fetched tensor needs; return how many.

        Fed nodes stay. A node needs those that it waits for (control edges), too.
        """
        needed = set(self._kept & self.nodes.keys())
        waiting = list(needed)
        while waiting:
            inputs = {node_of(name) for name in self.nodes[waiting.pop()].input}
            waiting.extend(inputs - needed)
            needed |= inputs
        unused = self.nodes.keys() - needed
        for name in unused:
            self.drop(name)
        return len(unused)

    def graph_def(self) -> Any:
        """Return the graph as a new ``GraphDef`` with the functions it had."""
        made = v1.GraphDef(
            versions=self._graph_def.versions, library=self._graph_def.library
        )
        made.node.extend(self._placeable(node) for node in self.nodes.values())
        return made

    def _placeable(self, node: Any) -> Any:
        """Drop a colocation with a node that is gone."""
        colocations = (
            [name.decode() for name in attribute(node, "_class").list.s]
            if ("_class" in node.attr)
            else []
        )
        if all(name.removeprefix("loc:@") in self.nodes for name in colocations):
            return node
        free = copy_node(node)
        del free.attr["_class"]
        return free

    def __iter__(self) -> Iterator[Any]:
        """Return the nodes that are there now; some may be gone by their turn."""
        for name in list(self.nodes):
            if name in self.nodes:
                yield self.nodes[name]


def copy_node(node: Any, **changed: Any) -> Any:
    """Copy a node; ``changed`` are its fields other than ``attr``."""
    copy = v1.NodeDef()
    copy.CopyFrom(node)
    for field, value in changed.items():
        if field == "input":
            del copy.input[:]
            copy.input.extend(value)
        else:
            setattr(copy, field, value)
    return copy


def make_node(name: str, op: str, inputs: Iterable[str], **types: Any) -> Any:
    """Make a node; ``types`` are its attributes that hold a dtype."""
    node = v1.NodeDef(name=name, op=op, input=inputs)
    for attr, dtype in types.items():
        node.attr[attr].type = tf.as_dtype(dtype).as_datatype_enum
    return node


def new_node(name: str, op: str, inputs: Iterable[str], like: Any) -> Any:
    """Make a float32 node on the device of another."""
    return copy_node(make_node(name, op, inputs, T=tf.float32), device=like.device)


def attribute(node: Any, name: str) -> Any:
    """Return a node's attribute, empty if it has none.

    Looking into ``node.attr`` for one that is missing would add it to the node.
    """
    return node.attr[name] if name in node.attr else v1.AttrValue()


def is_float(node: Any) -> bool:
    """Return whether a node computes in float32."""
    return bool(attribute(node, "T").type == tf.float32.as_datatype_enum)


def is_nhwc(node: Any) -> bool:
    """Return whether a node has the channels last, which is the default."""
    return "data_format" not in node.attr or attribute(node, "data_format").s == b"NHWC"


def waits(node: Any) -> bool:
    """Return whether a node waits for another (has a control edge)."""
    return any(name.startswith("^") for name in node.input)


def as_channels(array: Array | None, rank: int, count: int) -> Array | None:
    """Return a constant operand as one float64 a channel, ``None`` if it is none.

    Args:
        array: the operand, of any shape.
        rank: of the tensor that it is added to or multiplied with.
        count: of that tensor's channels, its last axis.
    """
    if array is None or array.dtype != np.float32 or array.ndim > rank:
        return None
    if any(side != 1 for side in array.shape[:-1]) or array.size not in {1, count}:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (count,))
