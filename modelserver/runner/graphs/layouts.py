"""Find which of an input's axes are an image's height, width and channels.

Most graphs take ``[N, height, width, channels]``. Others have the channels first, as
exports by way of ONNX do, or none at all if the image is gray, or take all numbers
of an image in a row.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.runner.graphs.traversal import last_part, shape_of

if TYPE_CHECKING:
    from modelserver.core.signatures import Layout, Sidecar

    Sides = tuple[int | None, int | None]
    Shape = tuple[int | None, ...]

CHANNELS = (1, 3)
ONE_IMAGE, BATCH = 3, 4
_ROWS = 2
# Lengths that are images' in every tutorial: MNIST's and CIFAR's.
_USUAL_LENGTHS = {784: (28, 28, 1), 3072: (32, 32, 3)}
_SAYS_IMAGE = re.compile(r"im(g|age)|pixel|photo|picture|digit")
# Ops that an image passes, laid out as it is, before it is laid out anew.
_PASSED = frozenset(
    {
        *("Add", "AddV2", "Cast", "Div", "Identity", "Mul", "PlaceholderWithDefault"),
        *("RealDiv", "StopGradient", "Sub"),
    }
)
_RESHAPERS = frozenset({"ExpandDims", "Reshape", "Transpose"})
_STEPS = 8
# Sides of a gray image without any other sign of being one, or of a row laid out: a
# smaller one is no photo, but a grid of features.
_LEAST_SIDE, _MOST_OBLONG = 10, 4


@dataclass(frozen=True)
class Axes:
    """How an input is laid out.

    Attributes:
        layout: as the signature has it.
        sides: height and width, ``None`` if they are open.
        depth: of the channels, ``None`` if it is open.
        batch: images it takes; 0 if that is open.
        guesses: a sentence for each guess.
    """

    layout: Layout
    sides: Sides
    depth: int | None
    batch: int
    guesses: tuple[str, ...] = ()


def read_axes(tensor: Any, shape: Shape, sidecar: Sidecar) -> Axes | None:
    """Read how an input is laid out, ``None`` if it is no image's.

    Args:
        tensor: the input.
        shape: its own, or one that is guessed.
        sidecar: its size and channels decide how long a row is laid out.
    """
    if len(shape) == BATCH:
        first = 2 if _is_channels_first(shape) else 1
        depth = shape[1 if first == 2 else 3]  # noqa: PLR2004 - the other way round
        layout: Layout = "NHWC" if first == 1 else "NCHW"
        return Axes(layout, _sides(shape, first), depth, shape[0] or 0)
    if len(shape) == ONE_IMAGE:
        return _read_three_axes(tensor, shape)
    if len(shape) != _ROWS:
        return None
    row = _read_row(tensor, shape, sidecar)
    if row is None and None not in shape:
        return _read_gray(tensor, "HW", _sides(shape, 0), 1)
    return row


def _read_three_axes(tensor: Any, shape: Shape) -> Axes | None:
    """Distinguish the kinds of three axes: one image, or a batch of gray ones."""
    if shape[2] in {None, *CHANNELS}:
        return Axes("HWC", _sides(shape, 0), shape[2], 1)
    if _is_channels_first(shape):
        return Axes("CHW", _sides(shape, 1), shape[0], 1)
    return _read_gray(tensor, "NHW", _sides(shape, 1), shape[0] or 0)


def turns_channels(tensor: Any) -> bool:
    """Return whether a graph itself brings the channels of its input to the end."""
    op = _first_reshaper(tensor)
    made = None if op is None else shape_of(op.outputs[0])
    return bool(op and op.type == "Transpose" and made and made[-1] in CHANNELS)


def channel_axis(tensor: Any) -> int | None:
    """Return the position of an input's channels, counted from its last axis.

    Returns:
        ``None`` if it has no axis for them.
    """
    shape = shape_of(tensor)
    if shape is None or tensor.dtype.name == "string":
        return -1
    if len(shape) in {ONE_IMAGE, BATCH} and _is_channels_first(shape):
        return -3
    has_none = len(shape) == _ROWS or (
        len(shape) == ONE_IMAGE and shape[2] not in {None, *CHANNELS}
    )
    return None if has_none else -1


def looks_flat(tensor: Any) -> bool:
    """Return whether an input without an image's axes takes one, in rows or gray."""
    shape = shape_of(tensor)
    if shape is None or len(shape) != _ROWS:
        return False
    return _row_shape(tensor, shape) is not None or (
        None not in shape and _read_gray(tensor, "HW", _sides(shape, 0), 1) is not None
    )


def find_row(tensor: Any) -> Shape | None:
    """Find out from its users whether an input of unknown shape takes rows.

    Returns:
        ``[N, numbers of an image]``; ``None`` if nothing says so.
    """
    op = _first_reshaper(tensor)
    made = _image_sides(_shape_inside(tensor)) if op and op.type == "Reshape" else None
    if made is not None:
        return None, math.prod(made)
    for _ in range(_STEPS):
        users = list(tensor.consumers())
        if len(users) != 1 or users[0].type not in _PASSED | {"MatMul"}:
            return None
        if users[0].type == "MatMul":
            weights = shape_of(users[0].inputs[1]) or (None,)
            rows = users[0].inputs[0] is tensor and not users[0].get_attr("transpose_b")
            return (None, weights[0]) if rows else None
        tensor = users[0].outputs[0]
    return None


def _sides(shape: Shape, first: int) -> Sides:
    return shape[first], shape[first + 1]


def _is_channels_first(shape: Shape) -> bool:
    """Return whether the first axis has a depth that an image can have."""
    if len(shape) == ONE_IMAGE:
        return shape[0] == max(CHANNELS) and shape[2] not in {None, *CHANNELS}
    open_sides = shape[2] is None and shape[3] is None
    last = shape[-1] not in {None, *CHANNELS}
    return shape[-3] in CHANNELS and (last or (open_sides and shape[-3] is not None))


def _read_gray(tensor: Any, layout: Layout, sides: Sides, batch: int) -> Axes | None:
    """Read an input without an axis for channels as gray, if there is a sign of it."""
    height, width = sides
    made = _shape_inside(tensor)
    square = height == width and (height or 0) >= _LEAST_SIDE
    if not (square or _is_named_image(tensor) or (made and _has_depth(made))):
        return None
    if height and width and max(height, width) > _MOST_OBLONG * min(height, width):
        return None
    what = "gray images" if layout == "NHW" else "one gray image"
    guess = f"the input {tensor.name} has no axis for channels: taken for {what}"
    return Axes(layout, sides, 1, batch, (guess,))


def _has_depth(made: Shape) -> bool:
    """Return whether a shape is that of gray images with their channel."""
    return len(made) == BATCH and 1 in {made[1], made[3]}


def _is_named_image(tensor: Any) -> bool:
    return _SAYS_IMAGE.search(last_part(tensor.name).lower()) is not None


def _read_row(tensor: Any, shape: Shape, sidecar: Sidecar) -> Axes | None:
    """Read the numbers of a row as an image's, if there is a sign of its sides."""
    batch, length = shape
    asked = sidecar.height_width
    if asked is not None and length is not None:
        depth, rest = divmod(length, asked[0] * asked[1])
        if depth in CHANNELS and not rest:
            return Axes(_row_layout(tensor), asked, depth, batch or 0)
    found = _row_shape(tensor, shape)
    if found is None:
        return None
    (height, width, depth), how = found
    colours = "gray" if depth == 1 else "RGB"
    guess = (
        f"the input {tensor.name} takes {math.prod(found[0])} numbers an image: taken "
        f"for {width} x {height} {colours}, {how}"
    )
    return Axes(_row_layout(tensor), (height, width), depth, batch or 0, (guess,))


def _row_shape(tensor: Any, shape: Shape) -> tuple[tuple[int, int, int], str] | None:
    """Find the height, width and channels of a row, and the evidence for them."""
    length = shape[1]
    made = _image_sides(_shape_inside(tensor))
    fits = made is not None and length in {None, math.prod(made)}
    if made is not None and fits and min(made[:2]) >= _LEAST_SIDE:
        return made, "as the graph lays it out"
    if length in _USUAL_LENGTHS:
        return _USUAL_LENGTHS[length], "nothing in the graph tells"
    if length is not None and _is_named_image(tensor):
        for depth in CHANNELS:
            side = math.isqrt(length // depth)
            if side >= _LEAST_SIDE and side * side * depth == length:
                return (side, side, depth), "a square by its name"
    return None


def _row_layout(tensor: Any) -> Layout:
    """Return whether a row has one channel after the other, or one pixel."""
    made = _shape_inside(tensor)
    first = made is not None and len(made) == BATCH and _is_channels_first(made)
    return "flat_CHW" if first and made and made[1] != 1 else "flat"


def _image_sides(made: Shape | None) -> tuple[int, int, int] | None:
    """Return the height, width and channels of the shape that a row gets."""
    if made is None or None in made[1:]:
        return None
    _, *rest = made
    sides = [side for side in rest if side is not None]
    if len(made) == ONE_IMAGE:
        return sides[0], sides[1], 1
    if len(made) != BATCH:
        return None
    if _is_channels_first(made):
        return sides[1], sides[2], sides[0]
    return (sides[0], sides[1], sides[2]) if sides[2] in CHANNELS else None


def _shape_inside(tensor: Any) -> Shape | None:
    """Return the shape of the first op that lays an input out anew."""
    op = _first_reshaper(tensor)
    return None if op is None else shape_of(op.outputs[0])


def _first_reshaper(tensor: Any) -> Any:
    """Find the first op that lays an input out anew; ``None`` if there is none."""
    for _ in range(_STEPS):
        users = [op for op in tensor.consumers() if op.type in _PASSED | _RESHAPERS]
        if not users or users[0].type in _RESHAPERS:
            return users[0] if users else None
        tensor = users[0].outputs[0]
    return None
