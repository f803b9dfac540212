"""Find a classifier's class scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import GraphError
from modelserver.core.signatures import DetectionOutputs
from modelserver.runner.graphs.activations import (
    FORMS,
    LOGITS,
    Meaning,
    is_of_softmax,
    is_probability,
    maker,
    meaning,
    output_through,
    values_per_image,
    why_features,
)
from modelserver.runner.graphs.other_tasks import other_task, why_measure
from modelserver.runner.graphs.traversal import (
    descendants,
    find_tensor,
    join_names,
    last_part,
    leaves,
    list_tensors,
    shape_of,
    shape_text,
)

if TYPE_CHECKING:
    from modelserver.core.signatures import Sidecar

# A softmax before one of these is attention inside the network, no answer.
_LEARNT = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Conv2D",
        "DepthwiseConv2dNative",
        "Einsum",
        "MatMul",
        "_FusedConv2D",
        "_FusedMatMul",
    }
)
# Ops that make the scores an answer; the scores are what goes in first.
_DECISIONS = frozenset({"ArgMax", "InTopK", "InTopKV2", "TopK", "TopKV2"})
# Those that make an answer of one probability.
_THRESHOLDS = frozenset(
    {"Greater", "GreaterEqual", "Less", "LessEqual", "Rint", "Round"}
)
# Names of class scores, the surest first: retrain.py, slim, Keras, common habits.
_KNOWN_NAMES = (
    "final_result",
    "predictions",
    "probabilities",
    "probs",
    "prob",
    "softmax",
    "output",
    "scores",
    "logits",
)


@dataclass(frozen=True)
class Scores:
    """A classifier's output; ``classes`` and ``guesses`` as in ``Signature``."""

    tensor: Any
    meaning: Meaning
    classes: int | None
    guesses: tuple[str, ...] = ()


def find_scores(graph: Any, image: Any, sidecar: Sidecar) -> Scores:
    """Find the tensor of class scores.

    Args:
        graph: a ``tf.Graph``.
        image: the tensor that takes the image.
        sidecar: its ``output`` and ``independent`` win.

    Raises:
        GraphError: nothing in the graph can be class scores, or the sidecar is wrong.
    """
    if sidecar.output is not None:
        tensor = _find_named(graph, sidecar.output)
        guesses: tuple[str, ...] = ()
    else:
        found = score_tensors(graph, image)
        if not found:
            raise _no_scores_error(graph, image, other_task(graph))
        tensor, guesses = _choose(found)
        if reason := _why_no_scores(tensor):
            raise _no_scores_error(graph, image, reason)
    tensor = _restore_batch(tensor)
    classes = values_per_image(tensor, image)
    means = meaning(tensor, lone=classes == 1, independent=sidecar.independent)
    return Scores(
        tensor,
        means,
        classes,
        guesses + ((means.guess,) if means.guess else ()),
    )


def score_tensors(graph: Any, image: Any) -> list[Any]:
    """Return the tensors that can be class scores.

    Final softmaxes, else final sigmoids, else loose ends.
    """
    reached = descendants(image)
    ops = [op for op in graph.get_operations() if op in reached]
    for is_final in (_is_final_softmax, _is_final_sigmoid):
        found = [_follow_to_answer(op.outputs[0]) for op in ops if is_final(op)]
        fitting = _drop_inner([tensor for tensor in found if _fits(tensor)])
        if fitting:
            return fitting
    ends = [op.inputs[0] for op in ops if op.type in _DECISIONS] + leaves(ops)
    return _keep_likely([tensor for tensor in _distinct(ends) if _fits(tensor)])


def _distinct(tensors: list[Any]) -> list[Any]:
    return list({tensor.name: tensor for tensor in tensors}.values())


def _drop_inner(tensors: list[Any]) -> list[Any]:
    """Leave out those from which others are made: a softmax of a softmax."""
    found = _distinct(tensors)
    if len(found) == 1:
        return found
    return [
        tensor
        for tensor in found
        if not descendants(tensor) & {other.op for other in found}
    ]


def _keep_likely(tensors: list[Any]) -> list[Any]:
    """Drop loose ends that no classifier ends in, unless there is just one."""
    likely = [
        tensor
        for tensor in tensors
        if maker(tensor).type in LOGITS or is_probability(tensor)
    ]
    return likely or (tensors if len(tensors) == 1 else [])


def _restore_batch(tensor: Any) -> Any:
    """Return scores from before they lost the axis of the batch or of the classes."""
    op = tensor.op
    while tensor.shape.rank in {0, 1} and op.type in {*FORMS, "StridedSlice"}:
        before = op.inputs[0]
        if not _fits(before) or maker(before) is not maker(tensor):
            break
        tensor, op = before, before.op
    return tensor


def _find_named(graph: Any, output: str | DetectionOutputs) -> Any:
    """Return the tensor that the sidecar names."""
    if isinstance(output, DetectionOutputs):
        raise GraphError(
            "the sidecar's output names a detector's parts, but the file's name is a "
            "classifier's: give one name, or rename the graph to <prefix>.frozen.pb"
        )
    tensor = find_tensor(graph, output)
    if tensor is None:
        raise GraphError(f"the sidecar's output {output!r} is not in the graph")
    if not _fits(tensor):
        raise GraphError(
            f"the sidecar's output {output!r} is {shape_text(tensor)}, which cannot be "
            "class scores: floats with one value a class"
        )
    return tensor


def _is_final_softmax(op: Any) -> bool:
    return op.type == "Softmax" and not any(
        user.type in _LEARNT for user in descendants(op.outputs[0])
    )


def _is_final_sigmoid(op: Any) -> bool:
    """Return whether only a decision follows a sigmoid: no gate, nor 100 * sigmoid."""
    ends = FORMS | _DECISIONS | _THRESHOLDS
    return op.type == "Sigmoid" and all(
        user.type in ends for user in descendants(op.outputs[0])
    )


def _follow_to_answer(tensor: Any) -> Any:
    """Follow a final activation to the answer: its tail, or the average it is part of.

    An average over positions or over several networks is the one loose end with as many
    classes.
    """
    ends = [
        end
        for end in leaves(descendants(tensor))
        if _fits(end) and is_of_softmax(end) and end.shape[-1:] == tensor.shape[-1:]
    ]
    return ends[0] if len(ends) == 1 and _is_mixture(ends[0]) else _follow_forms(tensor)


def _is_mixture(tensor: Any) -> bool:
    return maker(tensor).type != "Softmax" and tensor.shape.rank not in {None, 0, 1}


def _follow_forms(tensor: Any) -> Any:
    """Follow scores through the ops that only change their form, to the last.

    Stops before the batch's axis is lost, because then no batch could be run.
    """
    while True:
        users = tensor.consumers()
        if len(users) != 1 or users[0].type not in FORMS:
            return tensor
        after = output_through(tensor, users[0])
        if not _fits(after) or (after.shape.rank == 1 and tensor.shape.rank != 1):
            return tensor
        tensor = after


def _fits(tensor: Any) -> bool:
    """Return whether a tensor's dtype and shape can be class scores."""
    if not tensor.dtype.base_dtype.is_floating:
        return False
    shape = shape_of(tensor)
    if shape is None:
        return True
    if len(shape) == 4:  # noqa: PLR2004 - [N, 1, 1, classes], a fully convolutional head
        return set(shape[1:3]) <= {1, None}
    return len(shape) <= 2  # noqa: PLR2004 - [N, classes], [N], [classes] or []


def _choose(found: list[Any]) -> tuple[Any, tuple[str, ...]]:
    """Choose one: no auxiliary head, by name, with a known shape, the last."""
    if len(found) == 1:
        return found[0], ()
    main = [tensor for tensor in found if "aux" not in tensor.name.lower()] or found
    named = [
        tensor
        for name in _KNOWN_NAMES
        for tensor in main
        if name in last_part(tensor.name).lower()
    ]
    shaped = [tensor for tensor in main if tensor.shape.rank is not None] or main
    best = named[0] if named else shaped[-1]
    others = join_names(tensor.name for tensor in found if tensor is not best)
    return best, (f"the output {best.name} was chosen over {others}",)


def _why_no_scores(tensor: Any) -> str:
    """Explain why values are no class scores; empty if they may be."""
    if is_probability(tensor) and maker(tensor).type != "Sigmoid":
        return ""
    return why_features(tensor) or why_measure(tensor)


def _no_scores_error(graph: Any, image: Any, reason: str = "") -> GraphError:
    """Make the error for a graph without class scores, with its outputs."""
    reached = descendants(image)
    ends = leaves(op for op in graph.get_operations() if op in reached)
    why = f": {reason}" if reason else ""
    return GraphError(
        f"the graph has no class scores ([N, classes], with one value a class){why}; "
        f'its outputs are: {list_tensors(ends)}. Name the right tensor as "output" in '
        "the sidecar, or export the model with one"
    )
