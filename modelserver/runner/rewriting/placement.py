"""Keep to the CPU what a GPU is slower at, though it has kernels for it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

# The Object Detection API of TensorFlow 1 suppresses each class by itself; what it
# makes for that lies below this scope.
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
    """Give the scope of the suppression that a node belongs to, empty for none."""
    found = _SUPPRESSION.match(name)
    return found["scope"] if found else ""
