"""How pixels are scaled, as a sidecar says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver import graphs
from modelserver.conversion.names import SCALING_NAMES
from modelserver.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelserver.signatures import Kind

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
# What a graph tells; its statistics are evidence that the server weighs at each load.
_TOLD = {"arithmetic", "architecture"}
SCALINGS = dict(zip(SCALING_NAMES, _SIDECARS, strict=True))


def known_scaling(graph: Any, kind: Kind) -> Mapping[str, Any]:
    """Return the sidecar that fixes a scaling which the graph tells.

    Args:
        graph: a ``tf.Graph``, frozen.
        kind: the task it does.

    Returns:
        Empty where pixels are fed as they are, and where the server could only guess
        by habit: that is no knowledge to write down.
    """
    try:
        signature = graphs.find_signature(graph, kind, None)
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


def _plain(numbers: tuple[float, ...]) -> float | tuple[float, ...]:
    """Write one number as a number."""
    return numbers[0] if len(numbers) == 1 else numbers
