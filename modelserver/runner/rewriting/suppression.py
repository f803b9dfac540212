"""Make non-maximum suppression cheaper: fewer boxes, and on the device that suits it.

Exported detectors ask the suppression for every box above 1e-8, so it sorts and
compares thousands that no answer ever holds. A GPU has kernels for it, and is slower.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modelserver.runner.graphs.traversal import node_of
from modelserver.runner.rewriting.draft import (
    Draft,
    canonical,
    copy_node,
    is_float,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["scores", "rows", "number"]
"""The contents of a tensor behind a suppression: the scores as they were fed to it;
other values of each box; or how many boxes there are."""

_Kinds = dict[str, Kind]

_SINGLE = ("NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5")
_SIGMA = 5  # the input of NonMaxSuppressionV5 that makes it soft
# Ops that move, cut, fill up or join values but change none: those of their first
# input, or of all but the last for ConcatV2.
_MOVING = frozenset(
    {
        "ConcatV2",
        "ExpandDims",
        "Gather",
        "GatherV2",
        "Identity",
        "Pad",
        "PadV2",
        "Reshape",
        "Slice",
        "Squeeze",
        "StridedSlice",
    }
)
# Arithmetic that gives each box a value of its own; for all but the scores.
_EACH = frozenset(
    {"Add", "AddV2", "Cast", "Maximum", "Minimum", "Mul", "RealDiv", "Sub"}
)
# The last suppression of the Object Detection API, of its SSDs and of the second stage
# of its Faster R-CNNs (not the first stage's, behind which a network follows).
_OBJECT_DETECTION = re.compile(
    r"(^|/)(SecondStage)?Postprocessor/BatchMultiClassNonMaxSuppression/"
)
_FILTER = re.compile(r"/FilterGreaterThan(_\d+)?/Greater$")
_NETWORK = frozenset({"Conv2D", "CropAndResize", "DepthwiseConv2dNative", "MatMul"})


def raise_thresholds(draft: Draft, scores: str, floor: float) -> int:
    """Raise the score threshold of suppressions to just below a floor.

    Exact for every detection at or above the floor: in hard suppression a box is only
    suppressed by one with a higher score, so boxes below the floor cannot change those
    above it. They become padding. Only done if the scores that are answered are those
    that the suppression was given, and if the ops behind it treat each box by itself:
    read off the graph for ``CombinedNonMaxSuppression``, known for the exports of
    TensorFlow 1's Object Detection API, which filter, suppress each class, sort, cut
    and pad. Soft suppression is left alone.

    Args:
        draft: the graph to change.
        scores: the fetched tensor of scores.
        floor: the lowest score that is answered.

    Returns:
        How many thresholds were raised.
    """
    # Suppression keeps scores above its threshold; the floor itself must stay.
    below = np.nextafter(np.float32(floor), np.float32(-1))
    count = 0
    for node in draft:
        index = _threshold_input(draft, node)
        if index is None or not _is_last(draft, node, canonical(scores)):
            continue
        threshold = draft.value(node.input[index])
        if threshold is None or threshold.shape != () or threshold >= below:
            continue
        inputs = list(node.input)
        waits_for = draft.nodes[canonical(inputs[index])].input
        inputs[index] = draft.add_constant(
            f"{node.name}/score_floor", np.asarray(below), waits_for
        )
        draft.put(copy_node(node, input=inputs))
        count += 1
    return count


def _threshold_input(draft: Draft, node: Any) -> int | None:
    """Return which input of a node is the score threshold of a hard suppression."""
    if node.op == "CombinedNonMaxSuppression":
        return 5
    if not is_float(node) or not _OBJECT_DETECTION.search(node.name):
        return None
    if node.op == "Greater" and _FILTER.search(node.name):
        user = draft.only_user(node.name)
        return 1 if user is not None and user.op == "Where" else None
    if node.op == "NonMaxSuppressionV5":
        sigma = draft.value(node.input[_SIGMA])
        return 4 if sigma is not None and sigma == 0 else None
    return 4 if node.op in _SINGLE else None


def _is_last(draft: Draft, node: Any, scores: str) -> bool:
    """Return whether the answered scores are those that this suppression was given."""
    if node.op == "CombinedNonMaxSuppression":
        return _reaches_scores(draft, node, scores)
    behind = {node.name}
    waiting = [node.name]
    while waiting:
        users = {user.name for user in draft.users(waiting.pop())} - behind
        behind |= users
        waiting.extend(users)
    return node_of(scores) in behind and not any(
        draft.nodes[name].op in _NETWORK for name in behind
    )


def _reaches_scores(draft: Draft, node: Any, scores: str) -> bool:
    """Follow a combined suppression's outputs to the answered scores.

    Anything that is not known to treat each box by itself, or that computes with the
    scores, ends it.
    """
    kinds: tuple[Kind, ...] = ("rows", "scores", "rows", "number")
    known: _Kinds = {
        canonical(f"{node.name}:{index}"): kind for index, kind in enumerate(kinds)
    }
    waiting = list(known)
    while waiting:
        tensor = waiting.pop()
        for user, index in _uses(draft, tensor):
            kind = _kind_after(user, index, known[tensor])
            if kind is None or known.get(user.name, kind) != kind:
                return False
            if user.name not in known:
                known[user.name] = kind
                waiting.append(user.name)
    return known.get(scores) == "scores"


def _uses(draft: Draft, tensor: str) -> Iterator[tuple[Any, int]]:
    """Return the nodes that take a tensor, and as which of their inputs."""
    for user in draft.users(node_of(tensor)):
        for index, name in enumerate(user.input):
            if canonical(name) == tensor:
                yield user, index


def _kind_after(user: Any, index: int, kind: Kind) -> Kind | None:
    """Return the kind of a user's output, ``None`` if it is not known."""
    if user.op in {"Shape", "Size"}:
        return "number"
    if user.op in _MOVING:
        joined = user.op == "ConcatV2" and index < len(user.input) - 1
        return kind if index == 0 or joined else None
    return kind if user.op in _EACH and kind != "scores" else None


# The Object Detection API of TensorFlow 1 suppresses each class by itself, with
# nodes below this scope.
_SUPPRESSION = re.compile(r"(?P<scope>.*?(Batch)?MultiClassNonMaxSuppression(_\d+)?)/")
_FOR_ONE_CLASS = frozenset(
    {
        "NonMaxSuppression",
        "NonMaxSuppressionV2",
        "NonMaxSuppressionV3",
        "NonMaxSuppressionV4",
        "NonMaxSuppressionV5",
    }
)
_CPU = "/device:CPU:0"


def keep_suppression_on_cpu(graph_def: Any) -> int:
    """Put the suppression of each class by itself on the CPU, with all that it needs.

    On a GPU it is some ten tiny kernels a class, and a wait for the GPU before the next
    class can start, as how many boxes are left is known on the CPU only. Those for one
    class, such as a Faster R-CNN's first stage, stay where TensorFlow puts them.

    Args:
        graph_def: a ``tf.compat.v1.GraphDef``; its nodes are changed in place.

    Returns:
        How many suppressions are kept there.
    """
    counts = Counter(
        scope
        for node in graph_def.node
        if node.op in _FOR_ONE_CLASS and (scope := _scope(node.name))
    )
    kept = {scope for scope, count in counts.items() if count > 1}
    if kept:
        for node in graph_def.node:
            if _scope(node.name) in kept:
                node.device = _CPU
                # A wish to be beside another node could ask for the GPU again.
                node.attr.pop("_class", None)
    return sum(counts[scope] for scope in kept)


def _scope(name: str) -> str:
    """Return the scope of the suppression that a node belongs to, empty for none."""
    found = _SUPPRESSION.match(name)
    return found["scope"] if found else ""
