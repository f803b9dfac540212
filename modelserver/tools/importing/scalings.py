"""How pixels are scaled, as a sidecar says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import ConversionError, GraphError
from modelserver.runner import graphs
from modelserver.tools.importing.model_files import SCALING_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelserver.core.exports import Export
    from modelserver.core.signatures import Kind

_CAFFE = (103.939, 116.779, 123.68)
_TORCH_MEAN = (123.675, 116.28, 103.53)
_TORCH_DEVIATION = (58.395, 57.12, 57.375)
# What people call a scaling, to a sidecar's keys: (pixel - mean) * scale is fed.
_SIDECARS: tuple[Mapping[str, Any], ...] = (
    {"mean": 0.0, "scale": 1.0},
    {"mean": 0.0, "scale": 1 / 255},
    {"mean": 127.5, "scale": 1 / 127.5},
    {"mean": _CAFFE, "scale": 1.0, "channels": "bgr"},
    {"mean": _TORCH_MEAN, "scale": tuple(1 / one for one in _TORCH_DEVIATION)},
)
# What a graph says itself. Names and statistics are evidence that the server weighs at
# each load, and tells as what it is: written down they would pass for the operator's.
_TOLD = {"arithmetic"}
_CERTAIN = {"arithmetic", "export files"}
SCALINGS = dict(zip(SCALING_NAMES, _SIDECARS, strict=True))


def known_scaling(
    graph: Any, kind: Kind, seen: Export | None = None
) -> Mapping[str, Any]:
    """Return the sidecar that fixes a scaling which the graph tells.

    Args:
        graph: a ``tf.Graph``, frozen.
        kind: the task it does.
        seen: what the import saw in the original; it is kept beside the graph.

    Returns:
        Empty where pixels are fed as they are, and where the server could only guess
        by habit: that is no knowledge to write down.
    """
    try:
        signature = graphs.find_signature(graph, kind, None, export=seen)
    except GraphError:
        return {}
    if signature.scaling is None or signature.scaling.source not in _TOLD:
        return {}
    known: dict[str, Any] = {
        "mean": _plain(signature.mean),
        "scale": _plain(signature.scale),
    }
    if signature.bgr:
        known["channels"] = "bgr"
    return known


def refuse_contradiction(graph: Any, kind: Kind, asked: str, seen: Export) -> None:
    """Refuse a scaling that the model itself does already, or does otherwise.

    Args:
        graph: a ``tf.Graph``, frozen.
        kind: the task it does.
        asked: one of ``SCALINGS``.
        seen: what the import saw in the original.

    Raises:
        ConversionError: the sentence says what the model takes.
    """
    try:
        signature = graphs.find_signature(graph, kind, None, export=seen)
    except GraphError:
        return
    evidence = signature.scaling
    if evidence is None or evidence.source not in _CERTAIN:
        return
    wanted = SCALINGS[asked]
    pairs = ((wanted["mean"], signature.mean), (wanted["scale"], signature.scale))
    if all(np.allclose(one, other, rtol=0.01, atol=1e-6) for one, other in pairs):
        return
    told = next(
        (
            name
            for name, one in SCALINGS.items()
            if np.allclose(one["mean"], signature.mean, rtol=0.01, atol=1e-6)
            and np.allclose(one["scale"], signature.scale, rtol=0.01, atol=1e-6)
        ),
        "other pixels",
    )
    raise ConversionError(
        f"the model scales its pixels itself ({evidence.why or evidence.source}) and "
        f"takes {told}: with --scaling {asked} they would be scaled twice. Leave "
        "--scaling out"
    )


def _plain(numbers: tuple[float, ...]) -> float | tuple[float, ...]:
    """Write one number as a number."""
    return numbers[0] if len(numbers) == 1 else numbers
