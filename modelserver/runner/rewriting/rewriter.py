"""Apply all rewrites, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.runner.rewriting.contractions import fold_chains, move_biases
from modelserver.runner.rewriting.draft import Draft
from modelserver.runner.rewriting.loops import batch_resizers
from modelserver.runner.rewriting.passthrough import (
    fold_constants,
    resize_bytes,
    strip_passthrough,
)
from modelserver.runner.rewriting.suppression import raise_thresholds

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.signatures import Signature

# Rewrites that only prepare for the others: TensorFlow does the like by itself when a
# graph is first run.
_CLEANING: tuple[Callable[[Draft], int], ...] = (
    Draft.drop_unused,
    strip_passthrough,
    fold_constants,
)
# Rewrites that make a graph faster, and their notes. Each sees the results of those
# before it.
_REWRITES: tuple[tuple[Callable[[Draft], int], str], ...] = (
    (batch_resizers, "loops over images that became one op: {}"),
    (resize_bytes, "images resized without a copy as floats: {}"),
    (move_biases, "biases moved to their convolution: {}"),
    (fold_chains, "chains folded into kernel and bias: {}"),
)
# ResizeBilinear has no kernel for bytes on a GPU.
_FOR_CPUS = (resize_bytes,)


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph.

    Attributes:
        graph_def: a ``tf.compat.v1.GraphDef`` of its own, with the same inputs and
            outputs by name.
        notes: a few words for each rewrite that makes it faster; none if the graph
            may as well be run as it was.
    """

    graph_def: Any
    notes: tuple[str, ...]


def rewrite(
    graph_def: Any, signature: Signature, *, score_floor: float, on_gpu: bool = False
) -> Rewritten:
    """Rewrite a graph so that it runs faster and answers the same.

    Pure: the graph given is not changed. A node is left as it is unless the change is
    known to be equal; ``first_difference`` is the check on real outputs.

    Args:
        graph_def: a valid ``tf.compat.v1.GraphDef`` that ``signature`` is of.
        signature: tensors that it feeds and fetches keep their names and values.
        score_floor: detections below it may be dropped; 0 for none.
        on_gpu: leave out rewrites that would move work from there to the CPU.

    Raises:
        ValueError, TypeError, KeyError, IndexError: a node is not as its op says.
    """
    draft = Draft.of(graph_def, signature)
    for clean in _CLEANING:
        clean(draft)
    notes = []
    for apply, words in _REWRITES:
        if on_gpu and apply in _FOR_CPUS:
            continue
        count = apply(draft)
        draft.drop_unused()
        if count:
            notes.append(words.format(count))
    if score_floor > 0 and "boxes" in signature.outputs:
        scores = signature.outputs["scores"]
        count = raise_thresholds(draft, scores, score_floor)
        if count:
            notes.append(f"suppressions that start at {score_floor:g}: {count}")
    return Rewritten(draft.graph_def(), tuple(notes))
