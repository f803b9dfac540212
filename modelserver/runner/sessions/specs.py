"""A graph's inputs and outputs as clients see them, who feed numbers as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.core.errors import GraphError
from modelserver.core.messages import Tensors, TensorSpec
from modelserver.runner.graphs.raw_signatures import dtype_of, find_raw_signature

if TYPE_CHECKING:
    from modelserver.core.signatures import Signature

# The rank of a graph's input that does not tell it.
_RANKS = {"HWC": 3, "CHW": 3, "NHW": 3, "HW": 2, "flat": 2, "flat_CHW": 2}
_USUAL_RANK = 4


def name_of(tensor: str) -> str:
    """Return a tensor's name without the ``:0`` of a node's first output."""
    return tensor.removesuffix(":0")


def inputs_of(graph: Any, signature: Signature) -> tuple[TensorSpec, ...]:
    """Return the input that the signature feeds; of strings if it takes files."""
    rank = _RANKS.get(signature.layout, _USUAL_RANK)
    if signature.layout.startswith("encoded"):
        rank = int(signature.layout == "encoded_batch")
    return (_spec(graph, signature.input, (-1,) * rank),)


def outputs_of(graph: Any, signature: Signature) -> tuple[TensorSpec, ...]:
    """Return all outputs of the signature."""
    return tuple(_spec(graph, one, (-1,)) for one in signature.outputs.values())


def raw_tensors(graph: Any) -> Tensors | None:
    """Return what a graph takes and gives that no task serves.

    Returns:
        ``None`` if it cannot be asked with one tensor of numbers.
    """
    try:
        signature = find_raw_signature(graph)
    except GraphError:
        return None
    return Tensors(inputs_of(graph, signature), outputs_of(graph, signature))


def _spec(graph: Any, name: str, unknown: tuple[int, ...]) -> TensorSpec:
    tensor = graph.get_tensor_by_name(name)
    shape = unknown
    if tensor.shape.rank is not None:
        shape = tuple(-1 if side is None else side for side in tensor.shape.as_list())
    return TensorSpec(name_of(name), dtype_of(tensor), shape)
