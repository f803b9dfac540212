"""Find a graph's inputs and outputs: the signature that the server works by."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from modelserver.core.errors import GraphError
from modelserver.core.exports import Export
from modelserver.core.signatures import MAX_SIDE, Evidence, Sidecar, Signature
from modelserver.runner.graphs import classifiers, detectors
from modelserver.runner.graphs.constants import constant, switch_value
from modelserver.runner.graphs.evidence import (
    CLASSIFIERS,
    DETECTORS,
    ScalingClues,
    choose_scaling,
)
from modelserver.runner.graphs.inputs import (
    ImageInput,
    describe_image,
    find_image,
    is_image,
    several_images_error,
)
from modelserver.runner.graphs.other_tasks import no_post_processing_sentence, raw_heads
from modelserver.runner.graphs.pixels import follow_pixels, inner_size
from modelserver.runner.graphs.scaling import known_architecture
from modelserver.runner.graphs.sizes import (
    Fit,
    SizeChoice,
    choose_size,
    find_crop,
    named_size,
)
from modelserver.runner.graphs.traversal import (
    ancestors,
    join_names,
    list_tensors,
    placeholders,
    shape_of,
)
from modelserver.tasks import CLASSIFICATION, DETECTION, by_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from modelserver.core.signatures import Kind
    from modelserver.runner.graphs.evidence import Habits
    from modelserver.runner.graphs.pixels import Pixels

    Finder = Callable[[Any, Sidecar, Export], Signature]

# Ops whose value a frozen graph would hold as a constant.
_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable"})
# Rank of an output that has the batch's axis, by role; scores may also have 4.
_BATCHED_RANKS = {"boxes": 3, "scores": 2, "classes": 2, "count": 1}
_CLASSIFIER_RANKS = (2, 4)


def find_signature(
    graph: Any,
    kind: Kind,
    sidecar: Sidecar | None,
    *,
    export: Export | None = None,
    finder: str = "",
) -> Signature:
    """Find a graph's inputs and outputs, by names, shapes and ops.

    The graph is read only, so any thread may call this. Each guess is logged.

    Args:
        graph: a ``tf.Graph``, as ``import_graph`` gives it.
        kind: which task the file's name says it does.
        sidecar: the operator's word; wins over every guess.
        export: facts from the files next to the graph; win over names and habits.
        finder: ``module:function`` for a task from outside, by default the task's own;
            it is called with the graph, the sidecar and the export.

    Raises:
        GraphError: something is missing or contradicts the sidecar; the message names
            it and a remedy.
    """
    find = _FINDERS.get(kind) or _import(finder or by_kind(kind).finder)
    return find(graph, sidecar or Sidecar(), export or Export())


def _import(finder: str) -> Finder:
    module, _, name = finder.partition(":")
    found: Finder = getattr(importlib.import_module(module), name)
    return found


def _find_detector(graph: Any, sidecar: Sidecar, export: Export) -> Signature:
    """Find a detector's signature."""
    if sidecar.output is None:
        _refuse_raw_heads(graph)
    if sidecar.output is None and _is_classifier(graph):
        raise GraphError(
            "the graph is a classifier (one output, a score for each class), but the "
            "file's name is a detector's: rename it to <prefix>.pb and its label map "
            "to <prefix>.pbtxt"
        )
    outputs, guesses = detectors.find_outputs(graph, sidecar)
    order, first_class = detectors.conventions(outputs)
    image = find_image(graph, sidecar, ancestors(outputs.values()))
    found = find_common(
        image, outputs, sidecar, export, kind=DETECTION.kind, habits=DETECTORS
    )
    return replace(
        found,
        resize=sidecar.resize or "stretch",
        box_order=sidecar.box_order or order,
        first_class=first_class,
        guesses=guesses + found.guesses,
    )


def _find_classifier(graph: Any, sidecar: Sidecar, export: Export) -> Signature:
    """Find a classifier's signature."""
    if sidecar.output is None and detectors.has_detections(graph):
        _find_detector(graph, sidecar, export)  # or it would fail once it is renamed
        raise GraphError(
            "the graph is a detector (it has detection_boxes), but the file's name is "
            "a classifier's: rename it to <prefix>.frozen.pb and its label map to "
            "<prefix>.label_map.pbtxt"
        )
    if sidecar.output is None:
        _refuse_raw_heads(graph)
    image = find_image(graph, sidecar)
    scores = classifiers.find_scores(graph, image, sidecar)
    found = find_common(
        image,
        {"scores": scores.tensor},
        sidecar,
        export,
        kind=CLASSIFICATION.kind,
        habits=CLASSIFIERS,
        lone=scores.classes == 1,
    )
    crop = find_crop(graph, found.size, sidecar, export)
    return replace(
        found,
        resize=crop.resize,
        crop_from=crop.crop_from,
        softmax=scores.meaning.softmax,
        sigmoid=scores.meaning.sigmoid,
        independent=scores.meaning.independent,
        classes=scores.classes,
        guesses=scores.guesses + found.guesses + crop.guesses,
    )


_FINDERS: dict[str, Finder] = {
    DETECTION.kind: _find_detector,
    CLASSIFICATION.kind: _find_classifier,
}


def find_common(
    image: Any,
    outputs: dict[str, Any],
    sidecar: Sidecar,
    export: Export,
    *,
    kind: Kind,
    habits: Habits,
    lone: bool = False,
) -> Signature:
    """Find the parts of a signature that all tasks have; for finders.

    Args:
        image: the tensor that takes the image, as ``find_image`` finds it.
        outputs: role to tensor.
        sidecar, export, kind: as for ``find_signature``.
        habits: those of the task.
        lone: each output has one value an image.
    """
    feeds, fed = find_feeds(image, collect_needed(image, outputs.values()))
    ends = follow_pixels(image)
    described = describe_image(image, ends, sidecar)
    clues = ScalingClues(described, ends, sidecar, export, habits)
    chosen = choose_scaling(clues)
    sized = _find_size(described, ends, outputs.values(), clues)
    return Signature(
        kind=kind,
        input=image.name,
        dtype=image.dtype.base_dtype.name,
        layout=described.layout,
        size=_bounded(sized.size),
        sizing=sized.sizing,
        inner_size=inner_size(ends),
        batch=_find_batch(described, outputs, lone=lone),
        fill=described.batch if described.batch > 1 else 0,
        channels=described.channels,
        bgr=bool(chosen.scaling.bgr),
        mean=chosen.scaling.mean,
        scale=chosen.scaling.scale,
        scaling=chosen.evidence,
        outputs={role: tensor.name for role, tensor in outputs.items()},
        feeds=feeds,
        label_offset=sidecar.label_offset,
        guesses=fed + described.guesses + chosen.guesses + sized.guesses,
    )


def _bounded(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return a size, height and width, or refuse one that no sidecar may say either."""
    if size is not None and max(size) > MAX_SIDE:
        raise GraphError(
            f"the graph takes images of {size[1]} x {size[0]} pixels; a side may have "
            f"{MAX_SIDE} at most"
        )
    return size


def _refuse_raw_heads(graph: Any) -> None:
    """Refuse a detector whose post-processing is not in the graph, or not whole."""
    if detectors.has_detections(graph):
        return
    if detectors.has_boxes(graph):
        detectors.find_outputs(graph, Sidecar())
    heads = raw_heads(graph)
    if heads is not None:
        raise GraphError(no_post_processing_sentence(heads))


def _is_classifier(graph: Any) -> bool:
    """Return whether a graph would serve as a classifier, and not as a detector."""
    if detectors.has_detections(graph):
        return False
    try:
        signature = _find_classifier(graph, Sidecar(), Export())
    except GraphError:
        return False
    scores = graph.get_tensor_by_name(signature.outputs["scores"])
    return scores.shape.rank in _CLASSIFIER_RANKS


def find_feeds(
    image: Any, needed: set[Any]
) -> tuple[dict[str, bool | float], tuple[str, ...]]:
    """Find the other tensors to feed: ``is_training``, ``keep_prob`` and their like.

    Args:
        image: the tensor that takes the image.
        needed: the ops that the outputs need.

    Returns:
        Tensor name to value, and a sentence for each.

    Raises:
        GraphError: something is needed that no rule knows.
    """
    ops = [
        op for op in placeholders(image.graph) if op in needed and op is not image.op
    ]
    defaults = [op for op in ops if op.type == "PlaceholderWithDefault"]
    ops = [op for op in ops if op not in defaults]
    images = [op for op in ops if is_image(op)]
    if images:
        raise several_images_error([image.op, *images])
    feeds = {op.outputs[0].name: switch_value(op) for op in ops}
    unknown = [op for op in ops if feeds[op.outputs[0].name] is None]
    if unknown:
        names = list_tensors(op.outputs[0] for op in unknown)
        raise GraphError(
            f"the graph needs more than an image: {names}; export it for inference "
            "with these fixed"
        )
    known = {name: value for name, value in feeds.items() if value is not None}
    guesses = tuple(f"{name} is fed with {value}" for name, value in known.items())
    for op in defaults:
        fed, guess = _feed_default(op)
        known |= fed
        guesses += guess
    return known, guesses


def _feed_default(op: Any) -> tuple[dict[str, bool | float], tuple[str, ...]]:
    """Feed a switch whose default is training's, and report a default that is kept.

    Args:
        op: a placeholder with a constant default.

    Returns:
        As ``find_feeds``; nothing for a default that is inference's, or no switch's.
    """
    default, tensor = constant(op.inputs[0]), op.outputs[0]
    if default is None or default.ndim or default.dtype.kind not in "biuf":
        return {}, ()
    value = switch_value(op)
    if value is None:
        why = "nothing tells that it is training's"
        return {}, (f"{tensor.name} keeps its default, {default.item()}: {why}",)
    if value == default.item():
        return {}, ()
    why = f"its default, {default.item()}, is for training"
    return {tensor.name: value}, (f"{tensor.name} is fed with {value}: {why}",)


def collect_needed(image: Any, outputs: Iterable[Any]) -> set[Any]:
    """Collect the ops that a run needs, and refuse those that no run can compute.

    Raises:
        GraphError: the outputs do not depend on the image, or on variables.
    """
    needed = ancestors(outputs, fed=image)
    if image.op not in needed:
        raise GraphError(
            f"the graph's outputs do not depend on the input {image.name}: name the "
            'right "input" and "output" in the sidecar'
        )
    variables = sorted(op.name for op in needed if op.type in _VARIABLES)
    if variables:
        raise GraphError(
            f"the graph is not frozen: it holds variables ({join_names(variables)}), "
            "whose values are in a checkpoint; freeze it "
            "(convert_variables_to_constants)"
        )
    return needed


def _find_size(
    image: ImageInput, ends: list[Pixels], outputs: Iterable[Any], facts: ScalingClues
) -> SizeChoice:
    """Choose the size that is fed, if neither graph nor sidecar fixes it."""
    resizes = inner_size(ends) or any(pixels.resizes for pixels in ends)
    if image.size is not None:
        asked = facts.sidecar.height_width
        return SizeChoice(image.size, Evidence(source="sidecar") if asked else None)
    if image.encoded or (resizes and facts.habits.any_size) or inner_size(ends):
        return SizeChoice(None)
    return choose_size(
        image,
        outputs,
        _size_hints(image, ends, facts),
        any_size=facts.habits.any_size,
        rank=facts.habits.rank,
    )


def _size_hints(
    image: ImageInput, ends: list[Pixels], facts: ScalingClues
) -> Iterator[Fit]:
    """Yield the sizes that a mean image, files or names suggest."""
    for pixels in ends:
        if pixels.sides is not None:
            why = "a constant as large is subtracted from it"
            yield Fit(pixels.sides, why, "arithmetic")
    if facts.export.size is not None:
        why = f"{join_names(facts.export.told_by)} tells"
        yield Fit(facts.export.size, why, "export files")
    graph = image.tensor.graph
    named = named_size(graph, image.tensor)
    if named is not None:
        yield named
    known = known_architecture(graph)
    if known is not None and known.size:
        yield Fit((known.size, known.size), known.why, "architecture")


def _find_batch(
    image: ImageInput, outputs: dict[str, Any], *, lone: bool = False
) -> int:
    """Return how many images a run takes: the least that any static shape allows.

    Args:
        image: the input.
        outputs: role to tensor. One whose shape lacks the batch's axis makes it 1.
        lone: each has one value an image, so that a vector has the batch's axis.

    Returns:
        0 if no shape sets a limit.
    """
    counts = [image.batch]
    for role, tensor in outputs.items():
        shape = shape_of(tensor)
        if shape is not None:
            rank = 1 if lone else _BATCHED_RANKS.get(role, 1)
            counts.append(shape[0] or 0 if len(shape) >= rank else 1)
    return min(filter(None, counts), default=0)
