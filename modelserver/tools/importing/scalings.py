"""The scaling of a model's pixels, for its sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import ConversionError, GraphError
from modelserver.runner import graphs
from modelserver.tools.importing.model_files import SCALINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelserver.core.exports import Export
    from modelserver.core.signatures import Kind, Signature

# Evidence in the graph itself. Names and statistics the server weighs at each load, and
# reports as guesses: in a sidecar they would pass for the operator's word.
_IN_THE_GRAPH = {"arithmetic"}
_CERTAIN = {"arithmetic", "export files"}


def known_scaling(
    graph: Any, kind: Kind, export: Export | None = None
) -> Mapping[str, Any]:
    """Return the sidecar with the scaling that the graph itself shows.

    Args:
        graph: a ``tf.Graph``, frozen.
        kind: the task it does.
        export: the original's facts, which are kept next to the graph.

    Returns:
        Empty if pixels are fed as they are, or if the server can only guess, because a
        guess is not to be written down.
    """
    try:
        signature = graphs.find_signature(graph, kind, None, export=export)
    except GraphError:
        return {}
    if signature.scaling is None or signature.scaling.source not in _IN_THE_GRAPH:
        return {}
    known: dict[str, Any] = {
        "mean": _plain(signature.mean),
        "scale": _plain(signature.scale),
    }
    if signature.bgr:
        known["channels"] = "bgr"
    return known


def refuse_contradiction(graph: Any, kind: Kind, asked: str, export: Export) -> None:
    """Refuse a scaling if the model scales its pixels itself, in another way.

    Args:
        graph: a ``tf.Graph``, frozen.
        kind: the task it does.
        asked: one of ``SCALINGS``.
        export: the original's facts.

    Raises:
        ConversionError: with the scaling that the model takes.
    """
    try:
        signature = graphs.find_signature(graph, kind, None, export=export)
    except GraphError:
        return
    evidence = signature.scaling
    if evidence is None or evidence.source not in _CERTAIN:
        return
    fitting = [name for name, keys in SCALINGS.items() if _fits(keys, signature)]
    if asked in fitting:
        return
    taken = fitting[0] if fitting else "other pixels"
    raise ConversionError(
        f"the model scales its pixels itself ({evidence.why or evidence.source}) and "
        f"takes {taken}: with --scaling {asked} they would be scaled twice. Leave "
        "--scaling out"
    )


def _fits(keys: Mapping[str, Any], signature: Signature) -> bool:
    """Return whether a sidecar's keys say a signature's mean and scale."""
    pairs = ((keys["mean"], signature.mean), (keys["scale"], signature.scale))
    return all(np.allclose(a, b, rtol=0.01, atol=1e-6) for a, b in pairs)


def _plain(numbers: tuple[float, ...]) -> float | tuple[float, ...]:
    """Return a single number as a number."""
    return numbers[0] if len(numbers) == 1 else numbers
