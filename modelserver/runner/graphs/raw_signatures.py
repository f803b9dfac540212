"""Find what a graph takes and gives that no task serves: numbers to numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import GraphError
from modelserver.core.signatures import RAW, Signature
from modelserver.runner.graphs.constants import switch_value
from modelserver.runner.graphs.signature_finder import (
    collect_needed,
    find_feeds,
    find_signature,
)
from modelserver.runner.graphs.traversal import (
    descendants,
    list_tensors,
    placeholders,
)
from modelserver.tasks import CLASSIFICATION, DETECTION

if TYPE_CHECKING:
    from collections.abc import Iterator

CROSSES = re.compile(r"[|<][biuf][1248]")
"""NumPy's types that cross between processes; bfloat16 and strings do not."""


def dtype_of(tensor: Any) -> str:
    """Return a tensor's type as NumPy writes it; empty if it does not cross."""
    dtype = str(np.dtype(tensor.dtype.base_dtype.as_numpy_dtype).str)
    return dtype if CROSSES.fullmatch(dtype) else ""


def is_served(graph: Any) -> bool:
    """Return whether one of the server's own tasks would serve a graph.

    Without its sidecar and under another file name, too: then its operator is to mend
    that, and nobody is to ask it otherwise meanwhile.
    """
    for kind in (DETECTION.kind, CLASSIFICATION.kind):
        try:
            find_signature(graph, kind, None)
        except GraphError:
            continue
        return True
    return False


def find_raw_signature(graph: Any) -> Signature:
    """Find the input and all outputs of a graph that is fed numbers alone.

    Args:
        graph: a ``tf.Graph``, as ``import_graph`` gives it.

    Returns:
        A signature of the kind ``RAW``, whose roles are the outputs' own names.

    Raises:
        GraphError: it does not take one tensor of numbers, or gives none.
    """
    given = [op.outputs[0] for op in placeholders(graph) if _must_be_fed(op)]
    if len(given) != 1 or not dtype_of(given[0]):
        raise GraphError(
            "to be asked with tensors a graph must take one of numbers; it takes "
            f"{list_tensors(given)}"
        )
    (tensor,) = given
    outputs = list(_outputs(tensor))
    if not outputs:
        raise GraphError(f"the graph makes no numbers of its input {tensor.name}")
    feeds, guesses = find_feeds(tensor, collect_needed(tensor, outputs))
    return Signature(
        kind=RAW,
        input=tensor.name,
        dtype=tensor.dtype.base_dtype.name,
        layout="NHWC",
        outputs={output.name: output.name for output in outputs},
        feeds=feeds,
        guesses=guesses,
    )


def _must_be_fed(op: Any) -> bool:
    """Return whether a placeholder has no default, and is no switch for training."""
    return op.type != "PlaceholderWithDefault" and switch_value(op) is None


def _outputs(given: Any) -> Iterator[Any]:
    """Yield the numbers that come of an input and that nobody in the graph uses."""
    reached = descendants(given)
    for op in given.graph.get_operations():
        if op in reached and not any(output.consumers() for output in op.outputs):
            yield from (output for output in op.outputs if dtype_of(output))
