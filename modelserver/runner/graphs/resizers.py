"""How a graph resizes the image that it is fed, where the server can do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.traversal import RESIZERS, descendants

if TYPE_CHECKING:
    from modelserver.core.signatures import Sampling, Signature


def sampling_of(graph: Any, signature: Signature) -> Sampling | None:
    """Tell how a graph's own resizer samples the image.

    Args:
        graph: a ``tf.Graph``; it is only read.
        signature: of that graph.

    Returns:
        ``None`` where the graph does not resize whatever it is fed to one size, or not
        by a plain bilinear resizer, or where it is not plain which one it is.
    """
    if signature.size is not None or signature.inner_size is None:
        return None
    image = graph.get_tensor_by_name(signature.input)
    found = {
        _sampling(op)
        for op in descendants(image)
        if op.type in RESIZERS and _size(op) == signature.inner_size
    }
    return found.pop() if len(found) == 1 else None


def _size(op: Any) -> tuple[int, ...] | None:
    value = constant(op.inputs[1])
    return None if value is None else tuple(map(int, value.reshape(-1)))


def _sampling(op: Any) -> Sampling | None:
    if op.type != "ResizeBilinear":
        return None
    if op.get_attr("align_corners"):
        return "ends"
    return "centre" if op.get_attr("half_pixel_centers") else "corner"
