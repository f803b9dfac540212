"""A graph and the functions it holds, and whether they are sound.

Whatever is refused here would end the process that loads it, or fill its memory, or
make TensorFlow say so in words that help nobody. Nothing is given to TensorFlow.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.quotes import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Detectors have some thousand nodes, the largest published ones some ten thousand.
MAX_NODES = 250_000
# Names are paths of scopes; TensorFlow sets no limit.
MAX_NAME = 2_000
# Largest number of dimensions that TensorFlow allows.
_MAX_RANK = 254
# What each element of a string tensor takes beside its characters.
_STRING_BYTES = 24


@dataclass(frozen=True)
class Body:
    """The nodes of the graph itself, or of a function in its library.

    Attributes:
        name: of the function; empty for the graph.
        nodes: ``NodeDef`` each.
        inputs: names of the function's arguments.
        attrs: ``AttrValue`` by name, of the function as a whole.
        gradient: the function that the library says is its gradient, or empty.
    """

    name: str
    nodes: Sequence[Any]
    inputs: tuple[str, ...] = ()
    attrs: tuple[Any, ...] = ()
    gradient: str = ""

    def place(self, node: Any) -> str:
        """Say where a node is, for a sentence."""
        where = f" of the function '{shown(self.name)}'" if self.name else ""
        return f"the node '{shown(node.name)}'{where}"


def bodies_of(graph_def: Any) -> list[Body]:
    """Give the graph's body, which comes first, and those of its functions.

    Raises:
        GraphError: there are too many nodes.
    """
    library = graph_def.library
    functions = library.function
    count = len(graph_def.node) + sum(len(one.node_def) for one in functions)
    if count + len(functions) > MAX_NODES:
        raise GraphError(
            f"the graph has {count} nodes in {len(functions)} functions and itself; at "
            f"most {MAX_NODES} are read"
        )
    gradients = {one.function_name: one.gradient_func for one in library.gradient}
    bodies = [Body("", graph_def.node)]
    for function in functions:
        signature = function.signature
        arguments = [one.attr.values() for one in function.arg_attr.values()]
        bodies.append(
            Body(
                signature.name,
                function.node_def,
                tuple(argument.name for argument in signature.input_arg),
                tuple(value for values in arguments for value in values)
                + tuple(function.attr.values()),
                gradients.get(signature.name, ""),
            )
        )
    return bodies


def check_nodes(body: Body) -> None:
    """Check the names of nodes, and that each has the inputs it names.

    Raises:
        GraphError: a name is too long, not printable or taken; or an input is missing.
    """
    names = set(body.inputs)
    for node in body.nodes:
        name = node.name
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise GraphError(
                f"{body.place(node)} has no proper name: it must have 1 to {MAX_NAME} "
                "printable characters"
            )
        if name in names:
            raise GraphError(
                f"two nodes are called '{shown(name)}'; the file is damaged, or was "
                "put together from two"
            )
        names.add(name)
    for node in body.nodes:
        for text in node.input:
            if text.removeprefix("^").partition(":")[0] not in names:
                raise GraphError(
                    f"{body.place(node)} needs '{shown(text)}', which is not there; "
                    "a node's input is missing, so the file is probably cut off; "
                    "copy it again"
                )


@dataclass(frozen=True)
class Contents:
    """What the attributes of a body's nodes hold.

    Attributes:
        tensor_bytes: memory that the constants declare to need.
        calls: the functions that are called, and how often each.
    """

    tensor_bytes: int
    calls: Counter[str]


def contents_of(body: Body, functions: frozenset[str]) -> Contents:
    """Add up what a body holds.

    Args:
        body: whose nodes and attributes are looked at.
        functions: names of the library's functions, which nodes may have as their op.

    Raises:
        GraphError: a constant or a shape cannot be.
    """
    total = 0
    calls: Counter[str] = Counter()
    owners = [(node.op, node.attr.values(), body.place, node) for node in body.nodes]
    for op, values, place, node in owners:
        if op in functions:
            calls[op] += 1
        for value in values:
            try:
                total += _add(value, calls)
            except ValueError as error:
                raise GraphError(f"{place(node)} holds {error}") from None
    for value in body.attrs:
        try:
            total += _add(value, calls)
        except ValueError as error:
            raise GraphError(
                f"the function '{shown(body.name)}' holds {error}"
            ) from None
    if body.gradient:
        calls[body.gradient] += 1
    return Contents(total, calls)


def _add(value: Any, calls: Counter[str]) -> int:
    """Note an attribute's calls and give the bytes of its tensors.

    Protocol buffers nest at most a hundred deep, so this does not go deeper.
    """
    kind = value.WhichOneof("value")
    if kind == "tensor":
        return _tensor_bytes(value.tensor)
    if kind == "shape":
        _check_shape(value.shape)
    elif kind == "func":
        return _note_call(value.func, calls)
    elif kind == "list":
        for shape in value.list.shape:
            _check_shape(shape)
        total = sum(map(_tensor_bytes, value.list.tensor))
        return total + sum(_note_call(function, calls) for function in value.list.func)
    return 0


def _note_call(function: Any, calls: Counter[str]) -> int:
    if function.name:
        calls[function.name] += 1
    return sum(_add(value, calls) for value in function.attr.values())


def _check_shape(shape: Any) -> None:
    """Refuse sizes below -1, which stands for unknown."""
    if any(dim.size < -1 for dim in shape.dim):
        raise ValueError("a shape with a negative size")


def _tensor_bytes(tensor: Any) -> int:
    """Give the bytes that a tensor takes once it is made, by what it declares."""
    each = _ELEMENT_BYTES.get(tensor.dtype)
    if each is None:
        kind = tensor.dtype
        name = DataType.Name(kind) if kind in DataType.values() else str(kind)
        raise ValueError(f"a constant of the type {name}, which is no value")
    shape = tensor.tensor_shape
    sizes: list[int] = [dim.size for dim in shape.dim]
    if shape.unknown_rank or len(sizes) > _MAX_RANK or min(sizes, default=0) < 0:
        raise ValueError("a constant whose shape is unknown or negative")
    return each * prod(sizes)


def _element_bytes() -> Iterator[tuple[int, int]]:
    """Give each value type and its elements' size; resources and variants have none."""
    for number in DataType.values():
        try:
            dtype = tf.dtypes.as_dtype(number)
        except TypeError:
            continue
        if dtype == tf.string:
            yield number, _STRING_BYTES
        elif dtype not in {tf.resource, tf.variant}:
            yield number, dtype.size


_ELEMENT_BYTES = dict(_element_bytes())
