"""Which function of a graph calls which, and how large that makes the graph."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.bodies import MAX_NODES, contents_of
from modelserver.runner.graphs.ops import is_registered
from modelserver.runner.graphs.quotes import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelserver.runner.graphs.bodies import Body, Contents

# Exports nest their loops and branches a few deep. TensorFlow follows calls on the
# stack of the loading thread.
MAX_DEPTH = 64
# A constant of one repeated value takes a few bytes in the file and all of its shape in
# memory, which is common and right for small ones. So a file may ask for this much
# whatever its own size, which is little beside what any model may use; beyond it for
# four times its size, as small whole numbers are written in a byte each.
MAX_FREE_BYTES = 256 << 20
MAX_TIMES = 4


def check_calls(bodies: Sequence[Body], size: int) -> None:
    """Check that calls end, and that what they unfold to is in proportion.

    TensorFlow puts a copy of a function into every place that calls it, so a few
    functions that call each other twice make millions of nodes.

    Args:
        bodies: of the graph, first, and of its functions.
        size: of the graph's file, in bytes.

    Raises:
        GraphError: a function calls itself, over others too; calls nest too deep; one
            that is called is missing; or there would be too many nodes, or too much
            memory in constants.
    """
    named = _by_name(bodies)
    functions = frozenset(named) - {""}
    contents = {body.name: contents_of(body, functions) for body in bodies}
    for body in bodies:
        for name in contents[body.name].calls:
            if name not in functions:
                where = f"the function '{shown(body.name)}'" if body.name else "it"
                raise GraphError(
                    f"the graph is not whole: {where} calls the function "
                    f"'{shown(name)}', which is not there; copy the file again"
                )
    _check_totals(_callees_first(contents), named, contents, size)


def _by_name(bodies: Sequence[Body]) -> dict[str, Body]:
    """Refuse functions without a name of their own."""
    named = {bodies[0].name: bodies[0]}
    for body in bodies[1:]:
        if body.name in named:
            raise GraphError(
                f"two functions are called '{shown(body.name)}', or have no name"
            )
        # A node's op could then mean either.
        if is_registered(body.name):
            raise GraphError(f"a function is called '{shown(body.name)}', as an op is")
        named[body.name] = body
    return named


def _callees_first(contents: Mapping[str, Contents]) -> list[str]:
    """Order the bodies so that each comes after those it calls."""
    sorter = TopologicalSorter({name: one.calls for name, one in contents.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(f"'{shown(name)[:40]}'" for name in error.args[1][:4])
        raise GraphError(
            f"the function '{shown(error.args[1][0])}' calls itself without an end "
            f"({circle}); no export makes such a graph"
        ) from None


def _check_totals(
    order: Sequence[str],
    named: Mapping[str, Body],
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
        nodes[name] = len(named[name].nodes) + sum(
            nodes[callee] * times for callee, times in calls.items()
        )
        constants[name] = contents[name].tensor_bytes + sum(
            constants[callee] * times for callee, times in calls.items()
        )
        where = f"the function '{shown(name)}'" if name else "the graph"
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
