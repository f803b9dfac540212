"""Whether a graph answers one photo alike, run after run."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature

    Outputs = Mapping[str, NDArray[np.generic]]

MOST_SPREAD = 1e-3
"""How much scores, 0..1, may differ between runs: far above what order of sums does."""

# Two runs at least. A dropout of few units may drop the same ones twice, so where
# numbers are drawn what is quick is run on for a while.
_LEAST_RUNS, _MOST_RUNS = 2, 12
_LONGEST_S = 0.2
_DRAWING = re.compile(r"Random|Multinomial|TruncatedNormal|DropoutV|RNGUniform")


def draws_numbers(graph_def: Any) -> bool:
    """Tell whether some op of a graph or of its functions draws random numbers.

    Args:
        graph_def: a ``tf.compat.v1.GraphDef``.
    """
    bodies = (graph_def.node, *(one.node_def for one in graph_def.library.function))
    return any(_DRAWING.search(node.op) for nodes in bodies for node in nodes)


def spread(
    run: Callable[[], Outputs], signature: Signature, *, draws: bool = True
) -> float:
    """Run the same photo again and again, and tell how far its scores differ.

    Args:
        run: runs the graph on one photo; twice, and more often where that is quick.
        signature: of the graph; logits are compared as probabilities.
        draws: it may draw random numbers; else two runs tell enough.

    Returns:
        The largest difference of a score to the same score of the first run.
    """
    started = time.perf_counter()
    first, gap = _scores(run(), signature), 0.0
    for _ in range((_MOST_RUNS if draws else _LEAST_RUNS) - 1):
        other = _scores(run(), signature)
        if other.shape != first.shape:
            return 1.0
        gap = max(gap, float(np.max(np.abs(other - first), initial=0.0)))
        if gap > MOST_SPREAD or time.perf_counter() - started > _LONGEST_S:
            break
    return gap


def _scores(outputs: Outputs, signature: Signature) -> NDArray[np.float64]:
    """Give a run's scores as numbers that can be compared; a detector's by size."""
    scores = np.nan_to_num(np.asarray(outputs["scores"], np.float64).reshape(-1))
    if signature.kind == "detection":
        return np.sort(scores)
    if signature.softmax:
        scores = np.exp(scores - scores.max(initial=-np.inf))
        scores /= scores.sum() or 1.0
    return scores
