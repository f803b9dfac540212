"""Find a detector's boxes, scores, classes and count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.errors import GraphError
from modelserver.graphs.places import NAMES, REQUIRED, place_of, roles_by_place
from modelserver.graphs.tasks import other_task
from modelserver.graphs.walking import (
    last_part,
    leaves,
    listed,
    shape_of,
    shape_text,
    tensor_named,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from modelserver.signatures import DetectionOutputs, Sidecar

# Ranks that a role may have; without the batch's axis one less.
_RANKS = {"boxes": (3, 2), "scores": (2, 1), "classes": (2, 1), "count": (1, 0, 2)}

_Found = tuple[dict[str, Any], tuple[str, ...]]


def has_detections(graph: Any) -> bool:
    """Tell whether the graph has all outputs of a detector, by name or order."""
    found = _by_name(graph)
    if not found.keys() >= set(REQUIRED):
        found |= _by_order(graph, found)[0]
    return found.keys() >= set(REQUIRED)


def has_boxes(graph: Any) -> bool:
    """Tell whether the graph names a detector's boxes, whatever else it lacks."""
    return REQUIRED[0] in _by_name(graph)


def find_outputs(graph: Any, sidecar: Sidecar) -> _Found:
    """Find a detector's outputs.

    Args:
        graph: a ``tf.Graph``.
        sidecar: its ``output`` wins.

    Returns:
        Role (``boxes``, ``scores``, ``classes``, perhaps ``count``) to tensor, and a
        sentence for what was guessed.

    Raises:
        GraphError: a role has no tensor or one of a wrong shape.
    """
    guesses: tuple[str, ...] = ()
    if sidecar.output is not None:
        found = _by_sidecar(graph, sidecar.output)
    else:
        found = _by_name(graph)
        if not found.keys() >= set(REQUIRED):
            more, guesses = _by_order(graph, found)
            found |= more
    missing = [NAMES[role] for role in REQUIRED if role not in found]
    if missing:
        raise _incomplete(graph, missing)
    for role, tensor in found.items():
        _check(role, tensor)
    return found, guesses


def _by_sidecar(graph: Any, output: str | DetectionOutputs) -> dict[str, Any]:
    """Give the tensors that the sidecar names."""
    if isinstance(output, str):
        raise GraphError(
            "the sidecar's output is one name, but the file's name is a detector's: "
            'give {"boxes": ..., "scores": ..., "classes": ...}, or rename the graph '
            "to <prefix>.pb"
        )
    found = {}
    for role in NAMES:
        name = getattr(output, role)
        if name is None:
            continue
        found[role] = tensor_named(graph, name)
        if found[role] is None:
            raise GraphError(
                f"the sidecar's output.{role} {name!r} is not in the graph"
            )
    return found


def _by_name(graph: Any) -> dict[str, Any]:
    """Find the outputs by name, at the top or else in the one scope that has it."""
    found = {}
    for role, name in NAMES.items():
        top = tensor_named(graph, name)
        scoped = [op for op in graph.get_operations() if last_part(op.name) == name]
        if top is not None:
            found[role] = top
        elif len(scoped) == 1 and scoped[0].outputs:
            found[role] = scoped[0].outputs[0]
    return found


def _by_order(graph: Any, named: Collection[str] = ()) -> _Found:
    """Find the outputs of a TensorFlow 2 export by their order and ranks.

    Args:
        graph: a ``tf.Graph``.
        named: the roles whose outputs have names of their own.
    """
    ends = {
        place: op.outputs[0]
        for op in graph.get_operations()
        if (place := place_of(op.name)) is not None
        and op.outputs
        and not op.outputs[0].consumers()
    }
    ranks = {place: one.shape.rank for place, one in ends.items()}
    told = roles_by_place(ranks, named)
    if not told:
        return {}, ()
    found = {role: ends[place] for role, place in told.items()}
    names = listed(f"{role} {tensor.name}" for role, tensor in found.items())
    return found, (f"the outputs have no names of their own: taken {names}",)


def _check(role: str, tensor: Any) -> None:
    """Refuse a tensor that cannot play its role by dtype or static shape."""
    shape = shape_of(tensor)
    number = tensor.dtype.base_dtype.is_floating or tensor.dtype.base_dtype.is_integer
    fits = shape is None or len(shape) in _RANKS[role]
    if role == "boxes" and shape:
        fits = fits and shape[-1] in {4, None}
    if not number or not fits:
        what = "float32 [N, boxes, 4]" if role == "boxes" else "one number a box"
        what = "one number an image" if role == "count" else what
        raise GraphError(
            f"the output {tensor.name} is {shape_text(tensor)}, but {role} must be "
            f"{what}"
        )


def _incomplete(graph: Any, missing: list[str]) -> GraphError:
    """Say which outputs are missing, what is there, and what to do."""
    ends = leaves(graph.get_operations())
    task = other_task(graph)
    there = listed(f"{tensor.op.name} ({shape_text(tensor)})" for tensor in ends)
    return GraphError(
        f"the graph has no {', '.join(missing)}{f': {task}' if task else ''}; its "
        f"outputs are: {there or 'none'}. A detector must hold its post-processing "
        "(decoded boxes, "
        "non-maximum suppression): export it with that, as the Object Detection API "
        'does, or, where it has it under other names, give them as "output" in the '
        "sidecar"
    )
