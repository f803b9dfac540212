"""Read a graph that nobody has vouched for, and refuse what it must not do.

The check comes before TensorFlow sees the graph: some graphs end a process when they
are imported, others write files when they run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.bodies import bodies_of, check_nodes
from modelserver.runner.graphs.calls import check_calls
from modelserver.runner.graphs.ops import ALLOWED, is_registered
from modelserver.runner.graphs.quotes import shown
from modelserver.runner.graphs.reader import read_graph_file
from modelserver.runner.graphs.repairs import repair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from modelserver.runner.graphs.bodies import Body

# Ops by which a training graph is known.
_TRAINING = ("Save", "Restore", "MergeV2Checkpoints", "Apply", "ResourceApply")


class RefusedOp(NamedTuple):
    """An op that is not let in.

    Attributes:
        op: its name.
        place: which node has it, for a sentence.
    """

    op: str
    place: str


class RepairedGraph(NamedTuple):
    """A graph that was repaired where that was due, and checked.

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

    What is checked is the repaired graph, which is what is run.

    Args:
        path: as for :func:`read_graph_def`.
        trusted: SHA-256 of files, in small hexadecimal letters, that may use any op.
            What is compared is the hash of the very bytes that were parsed. All else
            is checked in a trusted file too.

    Raises:
        GraphError: says what is wrong, in words of printable ASCII where they are the
            graph's, and what to do.
    """
    graph_def, data = read_graph_file(path)
    bodies_of(graph_def)  # Refuses too many nodes, before any work is done on them.
    repairs = repair(graph_def)
    refused = refused_op(check_structure(graph_def, len(data)))
    if refused is not None:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in trusted:
            raise GraphError(_sentence(refused, digest))
    return RepairedGraph(graph_def, repairs)


def check_structure(graph_def: Any, size: int) -> list[Body]:
    """Check all but the ops; see :mod:`modelserver.runner.graphs.bodies` and ``calls``.

    Args:
        graph_def: a ``tf.compat.v1.GraphDef``.
        size: of its file, in bytes.

    Returns:
        The graph's body, first, and those of its functions.

    Raises:
        GraphError: with the node's or the function's name.
    """
    bodies = bodies_of(graph_def)
    for body in bodies:
        check_nodes(body)
    check_calls(bodies, size)
    return bodies


def refused_op(bodies: Iterable[Body]) -> RefusedOp | None:
    """Find the first op that is not let in, in the graph or in any function.

    A function that nothing calls counts too. ``None`` where all ops are let in.
    """
    bodies = list(bodies)
    known = ALLOWED | {body.name for body in bodies if body.name}
    for body in bodies:
        for node in body.nodes:
            if node.op not in known:
                return RefusedOp(node.op, body.place(node))
    return None


def _sentence(refused: RefusedOp, digest: str) -> str:
    op = shown(refused.op)
    if not is_registered(refused.op):
        return (
            f"it uses the op {op}, which this TensorFlow does not have (a custom op?), "
            f"in {refused.place}; export it without"
        )
    if op.startswith(_TRAINING):
        return (
            f"it uses the op {op} in {refused.place}, so it was saved for training: "
            "freeze it first (convert_variables_to_constants); or, if you know that "
            f"this file does no harm, set TRUSTED_MODELS={digest}"
        )
    return (
        f"it uses the op {op} in {refused.place}, which no graph for images needs and "
        "which may reach out of the model; if you know that this file does no harm, "
        f"set TRUSTED_MODELS={digest}"
    )
