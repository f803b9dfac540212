"""Find out whether the tool that made a model crops photos rather than stretch them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.exports import CROP_FROM, CUSTOM_VISION, TEACHABLE

if TYPE_CHECKING:
    from modelserver.core.exports import Export
    from modelserver.core.signatures import Resize, Sidecar

# Names that TensorFlow.js gives to layers that have none; nothing but Teachable Machine
# puts these two on a network in one graph.
_TEACHABLE = (
    r"dense_Dense\d+/",
    r"global_average_pooling2d_GlobalAveragePooling2D\d+/",
)
# The SqueezeNet that Custom Vision trains on, and what it calls input and output.
_CUSTOM_VISION = (r"(data_bn/|fire2_squeeze1x1/)", r"Placeholder$", r"loss$")


class Crop(NamedTuple):
    """How an upload of another shape is brought to the input's size.

    Attributes:
        resize, crop_from: as in ``Signature``.
        guesses: a sentence, where it was guessed.
    """

    resize: Resize = "stretch"
    crop_from: int | None = None
    guesses: tuple[str, ...] = ()


def find_crop(
    graph: Any, size: tuple[int, int] | None, sidecar: Sidecar, export: Export
) -> Crop:
    """Tell how a classifier's uploads are brought to its size.

    Args:
        graph: a ``tf.Graph``.
        size: (height, width) that it takes, ``None`` for any.
        sidecar: its word wins.
        export: what the files beside the graph tell.
    """
    if sidecar.resize or size is None:
        return Crop(sidecar.resize or "stretch")
    if export.resize:
        why = f"{' and '.join(export.told_by)} of {export.tool} tells"
        return _cropped(export.resize, export.crop_from, size, why)
    names = [op.name for op in graph.get_operations()]
    for tool, patterns, side in (
        (TEACHABLE, _TEACHABLE, None),
        (CUSTOM_VISION, _CUSTOM_VISION, CROP_FROM),
    ):
        found = [_first(names, pattern) for pattern in patterns]
        if all(found):
            return _cropped("crop", side, size, f"node {found[0]!r} is of {tool}")
    return Crop()


def _cropped(resize: Resize, side: int | None, size: tuple[int, int], why: str) -> Crop:
    """Say how; what is larger than the square cannot be cut out of it."""
    side = side if side and max(size) <= side else None
    if resize != "crop":
        return Crop(resize)
    through = f", by way of {side} x {side} pixels" if side else ""
    return Crop(
        resize, side, (f"the middle square of an upload is fed{through}: {why}",)
    )


def _first(names: list[str], pattern: str) -> str | None:
    """Give the first name that has a pattern at its start or behind a slash."""
    compiled = re.compile(rf"(?:^|/){pattern}")
    return next((name for name in names if compiled.search(name)), None)
