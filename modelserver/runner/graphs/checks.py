"""Check a graph from anyone before TensorFlow sees it, and refuse a harmful one.

Some graphs end a process when they are imported, others fill its memory or write files
when they run. Checked are the nodes of the graph and of its functions, which function
calls which and how large that makes the graph, and the ops.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.ops import ALLOWED, is_registered
from modelserver.runner.graphs.reader import quote, read_graph_file
from modelserver.runner.graphs.repairs import repair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

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

    def locate(self, node: Any) -> str:
        """Describe the position of a node, for a sentence."""
        where = f" of the function '{quote(self.name)}'" if self.name else ""
        return f"the node '{quote(node.name)}'{where}"


def list_bodies(graph_def: Any) -> list[Body]:
    """Return the graph's body, which comes first, and those of its functions.

    Raises:
        GraphError: there are too many nodes.
    """
    library = graph_def.library
    functions = library.function
    count = len(graph_def.node) + sum(len(function.node_def) for function in functions)
    if count + len(functions) > MAX_NODES:
        raise GraphError(
            f"the graph has {count} nodes in {len(functions)} functions and itself; at "
            f"most {MAX_NODES} are read"
        )
    gradients = {entry.function_name: entry.gradient_func for entry in library.gradient}
    bodies = [Body("", graph_def.node)]
    for function in functions:
        signature = function.signature
        arguments = [argument.attr.values() for argument in function.arg_attr.values()]
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
                f"{body.locate(node)} has no proper name: it must have 1 to {MAX_NAME} "
                "printable characters"
            )
        if name in names:
            raise GraphError(
                f"two nodes are called '{quote(name)}'; the file is damaged, or was "
                "put together from two"
            )
        names.add(name)
    for node in body.nodes:
        for text in node.input:
            if text.removeprefix("^").partition(":")[0] not in names:
                raise GraphError(
                    f"{body.locate(node)} needs '{quote(text)}', which is not there; "
                    "a node's input is missing, so the file is probably cut off; "
                    "copy it again"
                )


@dataclass(frozen=True)
class Contents:
    """The contents of the attributes of a body's nodes.

    Attributes:
        tensor_bytes: memory that the constants declare to need.
        calls: the functions that are called, and how often each.
    """

    tensor_bytes: int
    calls: Counter[str]


def read_contents(body: Body, functions: frozenset[str]) -> Contents:
    """Add up the contents of a body.

    Args:
        body: the nodes and attributes to read.
        functions: names of the library's functions, which nodes may have as their op.

    Raises:
        GraphError: a constant or a shape cannot be.
    """
    total = 0
    calls: Counter[str] = Counter()
    owners = [(node.op, node.attr.values(), body.locate, node) for node in body.nodes]
    for op, values, locate, node in owners:
        if op in functions:
            calls[op] += 1
        for value in values:
            try:
                total += _count_attribute(value, calls)
            except ValueError as error:
                raise GraphError(f"{locate(node)} holds {error}") from None
    for value in body.attrs:
        try:
            total += _count_attribute(value, calls)
        except ValueError as error:
            raise GraphError(
                f"the function '{quote(body.name)}' holds {error}"
            ) from None
    if body.gradient:
        calls[body.gradient] += 1
    return Contents(total, calls)


def _count_attribute(value: Any, calls: Counter[str]) -> int:
    """Note an attribute's calls and return the bytes of its tensors.

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
    return sum(_count_attribute(value, calls) for value in function.attr.values())


def _check_shape(shape: Any) -> None:
    """Refuse sizes below -1, which stands for unknown."""
    if any(dim.size < -1 for dim in shape.dim):
        raise ValueError("a shape with a negative size")


def _tensor_bytes(tensor: Any) -> int:
    """Return the bytes that a tensor takes once it is made, by its declaration."""
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
    """Yield each value type and its elements' size; not resources and variants."""
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


# Exports nest their loops and branches a few deep. TensorFlow follows calls on the
# stack of the loading thread.
MAX_DEPTH = 64
# A constant of one repeated value takes a few bytes in the file and all of its shape in
# memory, which is common and right for small ones. So a file of any size may ask for
# this much, which is little of the memory of any model; beyond it for four times its
# size, as small whole numbers are written in a byte each.
MAX_FREE_BYTES = 256 << 20
MAX_TIMES = 4


def check_calls(bodies: Sequence[Body], size: int) -> None:
    """Check that calls end, and that unfolding them stays in proportion.

    TensorFlow puts a copy of a function into every node that calls it, so a few
    functions that call each other twice make millions of nodes.

    Args:
        bodies: of the graph, first, and of its functions.
        size: of the graph's file, in bytes.

    Raises:
        GraphError: a function calls itself, over others too; calls nest too deep; one
            that is called is missing; or there would be too many nodes, or too much
            memory in constants.
    """
    by_name = _index_by_name(bodies)
    functions = frozenset(by_name) - {""}
    contents = {body.name: read_contents(body, functions) for body in bodies}
    for body in bodies:
        for name in contents[body.name].calls:
            if name not in functions:
                where = f"the function '{quote(body.name)}'" if body.name else "it"
                raise GraphError(
                    f"the graph is not whole: {where} calls the function "
                    f"'{quote(name)}', which is not there; copy the file again"
                )
    _check_totals(_sort_callees_first(contents), by_name, contents, size)


def _index_by_name(bodies: Sequence[Body]) -> dict[str, Body]:
    """Refuse functions without a name of their own."""
    by_name = {bodies[0].name: bodies[0]}
    for body in bodies[1:]:
        if body.name in by_name:
            raise GraphError(
                f"two functions are called '{quote(body.name)}', or have no name"
            )
        # A node's op could then mean either.
        if is_registered(body.name):
            raise GraphError(f"a function is called '{quote(body.name)}', as an op is")
        by_name[body.name] = body
    return by_name


def _sort_callees_first(contents: Mapping[str, Contents]) -> list[str]:
    """Order the bodies so that each comes after those it calls."""
    sorter = TopologicalSorter({name: body.calls for name, body in contents.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(f"'{quote(name)[:40]}'" for name in error.args[1][:4])
        raise GraphError(
            f"the function '{quote(error.args[1][0])}' calls itself without an end "
            f"({circle}); no export makes such a graph"
        ) from None


def _check_totals(
    order: Sequence[str],
    by_name: Mapping[str, Body],
    contents: Mapping[str, Contents],
    size: int,
) -> None:
    """Add up depths, nodes and constants with every call unfolded."""
    depth: dict[str, int] = {}
    nodes: dict[str, int] = {}
    constants: dict[str, int] = {}
    allowed = max(MAX_TIMES * size, MAX_FREE_BYTES)
    for name in order:
        calls = contents[name].calls
        depth[name] = 1 + max((depth[callee] for callee in calls), default=0)
        nodes[name] = len(by_name[name].nodes) + sum(
            nodes[callee] * times for callee, times in calls.items()
        )
        constants[name] = contents[name].tensor_bytes + sum(
            constants[callee] * times for callee, times in calls.items()
        )
        where = f"the function '{quote(name)}'" if name else "the graph"
        if depth[name] > MAX_DEPTH:
            raise GraphError(f"{where} nests calls more than {MAX_DEPTH} deep")
        if nodes[name] > MAX_NODES:
            raise GraphError(
                f"{where} has more than {MAX_NODES} nodes once every call is unfolded"
            )
        if constants[name] > allowed:
            raise GraphError(
                f"{where} has constants of more than {allowed} bytes by their shapes, "
                f"in a file of {size}; a graph holds its weights, so the file is "
                "damaged or made to fill the memory"
            )


# Ops by which a training graph is known.
_TRAINING = ("Save", "Restore", "MergeV2Checkpoints", "Apply", "ResourceApply")


class RefusedOp(NamedTuple):
    """An op that is not let in.

    Attributes:
        op: its name.
        location: which node has it, for a sentence.
    """

    op: str
    location: str


class RepairedGraph(NamedTuple):
    """A graph that was repaired if that was due, and checked.

    Attributes:
        graph_def: the ``tf.compat.v1.GraphDef``, as it is run.
        repairs: a few words for each kind of repair.
    """

    graph_def: Any
    repairs: tuple[str, ...]


def read_checked_graph(path: Path, trusted: Collection[str] = ()) -> Any:
    """Read, repair and check a graph; see :func:`read_repaired_graph`.

    Returns:
        The ``tf.compat.v1.GraphDef``.
    """
    return read_repaired_graph(path, trusted).graph_def


def read_repaired_graph(path: Path, trusted: Collection[str] = ()) -> RepairedGraph:
    """Read a frozen graph's file, repair and check it before TensorFlow sees it.

    The repaired graph is checked, and it is the one that is run.

    Args:
        path: as for :func:`read_graph_def`.
        trusted: SHA-256 of files, in small hexadecimal letters, that may use any op.
            The hash is of the very bytes that were parsed. A trusted file is checked
            for all else, too.

    Raises:
        GraphError: names the fault and a remedy; words of the graph's are quoted in
            printable ASCII.
    """
    graph_def, data = read_graph_file(path)
    list_bodies(graph_def)  # Refuses too many nodes, before any work is done on them.
    repairs = repair(graph_def)
    refused = find_refused_op(check_structure(graph_def, len(data)))
    if refused is not None:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in trusted:
            raise GraphError(_refusal(refused, digest))
    return RepairedGraph(graph_def, repairs)


def check_structure(graph_def: Any, size: int) -> list[Body]:
    """Check all but the ops; see :mod:`modelserver.runner.graphs.checks` and ``calls``.

    Args:
        graph_def: a ``tf.compat.v1.GraphDef``.
        size: of its file, in bytes.

    Returns:
        The graph's body, first, and those of its functions.

    Raises:
        GraphError: with the node's or the function's name.
    """
    bodies = list_bodies(graph_def)
    for body in bodies:
        check_nodes(body)
    check_calls(bodies, size)
    return bodies


def find_refused_op(bodies: Iterable[Body]) -> RefusedOp | None:
    """Find the first op that is not let in, in the graph or in any function.

    A function that nothing calls counts too. ``None`` if all ops are let in.
    """
    bodies = list(bodies)
    known = ALLOWED | {body.name for body in bodies if body.name}
    for body in bodies:
        for node in body.nodes:
            if node.op not in known:
                return RefusedOp(node.op, body.locate(node))
    return None


def _refusal(refused: RefusedOp, digest: str) -> str:
    op = quote(refused.op)
    if not is_registered(refused.op):
        return (
            f"it uses the op {op}, which this TensorFlow does not have (a custom op?), "
            f"in {refused.location}; export it without"
        )
    if op.startswith(_TRAINING):
        return (
            f"it uses the op {op} in {refused.location}, so it was saved for training: "
            "freeze it first (convert_variables_to_constants); or, if you know that "
            f"this file does no harm, set TRUSTED_MODELS={digest}"
        )
    return (
        f"it uses the op {op} in {refused.location}, which no graph for images needs "
        "and which may reach out of the model; if you know that this file does no "
        f"harm, set TRUSTED_MODELS={digest}"
    )
