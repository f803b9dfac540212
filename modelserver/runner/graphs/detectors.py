"""Find a detector's boxes, scores, classes and count.

They are known by their names, or by the order of the outputs: a frozen TensorFlow 2
export calls them ``Identity``, ``Identity_1`` ... in the order of ``tf.nest``, which
sorts a dict by key. The Object Detection API's exporters write few sets of keys, whose
ranks tell them apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.other_tasks import other_task
from modelserver.runner.graphs.traversal import (
    find_tensor,
    join_names,
    last_part,
    leaves,
    list_tensors,
    shape_of,
    shape_text,
)
from modelserver.tasks import DETECTION

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from modelserver.core.signatures import BoxOrder, DetectionOutputs, Sidecar

_Export: TypeAlias = tuple[tuple[str, int], ...]

# Role to node name, as the TensorFlow Object Detection API's exporters write them.
NAMES = DETECTION.outputs
REQUIRED = tuple(role for role in NAMES if role not in DETECTION.optional)
_INDEX = re.compile(r"Identity(?:_(\d{1,3}))?")

# Keys of the API's exporters, in their order, with their ranks.
_EXPORTS: tuple[_Export, ...] = (
    (
        ("detection_anchor_indices", 2),
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_multiclass_scores", 3),
        ("detection_scores", 2),
        ("num_detections", 1),
        ("raw_detection_boxes", 3),
        ("raw_detection_scores", 3),
    ),
    (
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_multiclass_scores", 3),
        ("detection_scores", 2),
        ("num_detections", 1),
        ("raw_detection_boxes", 3),
        ("raw_detection_scores", 3),
    ),
    (
        ("detection_boxes", 3),
        ("detection_classes", 2),
        ("detection_scores", 2),
        ("num_detections", 1),
    ),
)


def index_of(node: str) -> int | None:
    """Return the index in a node's name; ``None`` if there is none."""
    match = _INDEX.fullmatch(node)
    return int(match[1] or 0) if match else None


def roles_by_index(
    ranks: Mapping[int, int | None], named: Collection[str] = ()
) -> dict[str, int]:
    """Match the outputs of an export without names to their roles.

    Args:
        ranks: index to the number of axes of the tensor there. If some outputs were
            dropped, or have a name of their own, their indexes are missing.
        named: roles whose outputs have names of their own.

    Returns:
        Role to index, which together with ``named`` has boxes, scores and classes at
        least; empty if no set of keys fits, or two fit that mean different things.
    """
    whole = [rank for _, rank in sorted(ranks.items())]
    for export in _EXPORTS:
        if whole == [rank for _, rank in export]:
            return _match_roles(dict(enumerate(sorted(ranks))), export, named)
    found: list[dict[str, int]] = []
    for export in _EXPORTS:
        if all(p < len(export) and export[p][1] == rank for p, rank in ranks.items()):
            roles = _match_roles({index: index for index in ranks}, export, named)
            if roles not in found and roles.keys() | set(named) >= set(REQUIRED):
                found.append(roles)
    return found[0] if len(found) == 1 else {}


def _match_roles(
    indexes: Mapping[int, int], export: _Export, named: Collection[str]
) -> dict[str, int]:
    """Return role to index, for an export whose keys have these indexes."""
    keys = {export[number][0]: index for number, index in indexes.items()}
    return {
        role: keys[key]
        for role, key in NAMES.items()
        if key in keys and role not in named
    }


# Ranks that a role may have; without the batch's axis one less.
_RANKS = {"boxes": (3, 2), "scores": (2, 1), "classes": (2, 1), "count": (1, 0, 2)}

# What Azure Custom Vision calls the outputs of its detectors with post-processing. Its
# README says that their boxes are x1 y1 x2 y2, and its code counts classes from 0.
_CUSTOM_VISION = {
    "boxes": "detected_boxes",
    "scores": "detected_scores",
    "classes": "detected_classes",
}
_SUPPRESSION = "CombinedNonMaxSuppression"
_ROLES = ("boxes", "scores", "classes", "count")

_Outputs = tuple[dict[str, Any], tuple[str, ...]]


def has_detections(graph: Any) -> bool:
    """Return whether the graph has all outputs of a detector, by name or order."""
    return _find_all(graph)[0].keys() >= set(REQUIRED)


def _find_all(graph: Any) -> _Outputs:
    """Find the outputs by name, else by order, else by the names of other tools."""
    guesses: tuple[str, ...] = ()
    found = _find_by_name(graph)
    if not found.keys() >= set(REQUIRED):
        more, guesses = _find_by_order(graph, found)
        found |= more
    if found.keys() >= set(REQUIRED):
        return found, guesses
    theirs = _find_names(graph, _CUSTOM_VISION)
    if theirs.keys() >= set(REQUIRED):
        return theirs, ("the outputs are called as Azure Custom Vision calls them",)
    return _find_by_suppression(graph) or (found, guesses)


def _find_by_suppression(graph: Any) -> _Outputs | None:
    """Find the outputs of the one op that suppresses and gives all of them."""
    ops = [op for op in graph.get_operations() if op.type == _SUPPRESSION]
    if len(ops) != 1:
        return None
    guess = (
        f"the outputs are those of the suppression {ops[0].name}: its boxes are taken "
        "for ymin xmin ymax xmax, its classes for counted from 0"
    )
    return dict(zip(_ROLES, ops[0].outputs, strict=True)), (guess,)


def conventions(outputs: dict[str, Any]) -> tuple[BoxOrder, int | None]:
    """Return a detector's order of box sides and the id of its first class.

    Args:
        outputs: as ``find_outputs`` returned them.

    Returns:
        The order, and the first class if the graph shows it.
    """
    boxes = outputs["boxes"]
    if last_part(boxes.name) == _CUSTOM_VISION["boxes"]:
        return "xyxy", 0
    return "yxyx", 0 if boxes.op.type == _SUPPRESSION else None


def has_boxes(graph: Any) -> bool:
    """Return whether the graph names a detector's boxes."""
    return REQUIRED[0] in _find_by_name(graph)


def find_outputs(graph: Any, sidecar: Sidecar) -> _Outputs:
    """Find a detector's outputs.

    Args:
        graph: a ``tf.Graph``.
        sidecar: its ``output`` wins.

    Returns:
        Role (``boxes``, ``scores``, ``classes``, perhaps ``count``) to tensor, and a
        sentence for each guess.

    Raises:
        GraphError: a role has no tensor or one of a wrong shape.
    """
    guesses: tuple[str, ...] = ()
    if sidecar.output is not None:
        found = _find_by_sidecar(graph, sidecar.output)
    else:
        found, guesses = _find_all(graph)
    missing = [NAMES[role] for role in REQUIRED if role not in found]
    if missing:
        raise _incomplete_error(graph, missing)
    for role, tensor in found.items():
        _check(role, tensor)
    return found, guesses


def _find_by_sidecar(graph: Any, output: str | DetectionOutputs) -> dict[str, Any]:
    """Return the tensors that the sidecar names."""
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
        found[role] = find_tensor(graph, name)
        if found[role] is None:
            raise GraphError(
                f"the sidecar's output.{role} {name!r} is not in the graph"
            )
    return found


def _find_by_name(graph: Any) -> dict[str, Any]:
    """Find the outputs by name, at the top or else in the one scope that has it."""
    return _find_names(graph, NAMES)


def _find_names(graph: Any, names: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for role, name in names.items():
        top = find_tensor(graph, name)
        scoped = [op for op in graph.get_operations() if last_part(op.name) == name]
        if top is not None:
            found[role] = top
        elif len(scoped) == 1 and scoped[0].outputs:
            found[role] = scoped[0].outputs[0]
    return found


def _find_by_order(graph: Any, named: Collection[str] = ()) -> _Outputs:
    """Find the outputs of a TensorFlow 2 export by their order and ranks.

    Args:
        graph: a ``tf.Graph``.
        named: the roles whose outputs have names of their own.
    """
    ends = {
        index: op.outputs[0]
        for op in graph.get_operations()
        if (index := index_of(op.name)) is not None
        and op.outputs
        and not op.outputs[0].consumers()
    }
    ranks = {index: tensor.shape.rank for index, tensor in ends.items()}
    roles = roles_by_index(ranks, named)
    if not roles:
        return {}, ()
    found = {role: ends[index] for role, index in roles.items()}
    names = join_names(f"{role} {tensor.name}" for role, tensor in found.items())
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


def _incomplete_error(graph: Any, missing: list[str]) -> GraphError:
    """Make the error for missing outputs, with those that are there and a remedy."""
    ends = leaves(graph.get_operations())
    task = other_task(graph)
    return GraphError(
        f"the graph has no {', '.join(missing)}{f': {task}' if task else ''}; its "
        f"outputs are: {list_tensors(ends)}. A detector must hold its post-processing "
        "(decoded boxes, "
        "non-maximum suppression): export it with that, as the Object Detection API "
        'does, or, where it has it under other names, give them as "output" in the '
        "sidecar"
    )
