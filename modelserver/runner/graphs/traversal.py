"""Walk a graph along its edges, and write its names and shapes for sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.runner.graphs.constants import PLACEHOLDERS, constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DECODERS = ("DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "DecodeGif")

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
# Ops whose second input is the size to which they resize the first.
RESIZERS = frozenset(
    {
        "ResizeArea",
        "ResizeBicubic",
        "ResizeBilinear",
        "ResizeNearestNeighbor",
        "ScaleAndTranslate",
    }
)


def node_of(name: str) -> str:
    """Return the node's name in a tensor's: ``input`` of ``input:0`` and ``^input``."""
    return name.removeprefix("^").partition(":")[0]


def last_part(name: str) -> str:
    """Return a name without its scopes and output number: ``a/b:0`` is ``b``."""
    return node_of(name).rpartition("/")[2]


def ancestors(tensors: Iterable[Any], fed: Any = None) -> set[Any]:
    """Collect the ops that a run of these tensors needs, their own ops included.

    Args:
        tensors: the tensors that are fetched.
        fed: a tensor that is fed, behind which nothing is needed.
    """
    stop = None if fed is None else fed.op
    return _reach(
        (tensor.op for tensor in tensors),
        lambda op: (
            []
            if op is stop
            else [*(tensor.op for tensor in op.inputs), *op.control_inputs]
        ),
    )


def descendants(tensor: Any) -> set[Any]:
    """Collect the ops that this tensor's value reaches, its own not included."""
    return _reach(
        tensor.consumers(),
        lambda op: [user for output in op.outputs for user in output.consumers()],
    )


def _reach(starts: Iterable[Any], neighbours: Any) -> set[Any]:
    """Collect what can be reached; a graph may hold loops and be deep."""
    visited = set(starts)
    waiting = list(visited)
    while waiting:
        fresh = [op for op in neighbours(waiting.pop()) if op not in visited]
        visited.update(fresh)
        waiting.extend(fresh)
    return visited


def placeholders(graph: Any) -> Iterator[Any]:
    """Return the placeholder ops that someone has to feed, or may, in graph order.

    A default that is computed, such as the bottleneck that retraining puts between two
    halves of a network, makes a placeholder a mere joint: it is left out.
    """
    for op in graph.get_operations():
        if op.type not in PLACEHOLDERS:
            continue
        if op.type != "PlaceholderWithDefault" or constant(op.inputs[0]) is not None:
            yield op


def find_tensor(graph: Any, name: str) -> Any:
    """Return the tensor of that name, or a node's first one; ``None`` if none is."""
    full = name if ":" in name else f"{name}:0"
    try:
        return graph.get_tensor_by_name(full)
    except (KeyError, ValueError):
        return None


def shape_of(tensor: Any) -> tuple[int | None, ...] | None:
    """Return a static shape, ``None`` for an unknown side or rank."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def shape_text(tensor: Any) -> str:
    """Write a dtype and shape as people do: ``float32 [?, 224, 224, 3]``."""
    shape = shape_of(tensor)
    if shape is None:
        return f"{tensor.dtype.name} of unknown shape"
    sides = ", ".join("?" if side is None else str(side) for side in shape)
    return f"{tensor.dtype.name} [{sides}]"


def join_names(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a sentence, at most ``limit`` of them."""
    known = list(names)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more


def list_tensors(tensors: Iterable[Any]) -> str:
    """Join tensors' names with their shapes for a sentence, at most five; or "none"."""
    found = join_names(f"{tensor.op.name} ({shape_text(tensor)})" for tensor in tensors)
    return found or "none"


def leaves(ops: Iterable[Any]) -> list[Any]:
    """Return the floats that come out of those ops of which nobody uses any output."""
    return [
        output
        for op in ops
        if op.type != "Const" and not any(out.consumers() for out in op.outputs)
        for output in op.outputs
        if output.dtype.base_dtype.is_floating
    ]
