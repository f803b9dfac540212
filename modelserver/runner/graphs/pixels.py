"""Follow the pixels through a graph to the ops where its network begins.

Exports normalise in the graph in many spellings: a batch normalisation on the pixels,
fused or taken apart, a mean image, colours split, shifted one by one and joined in
another order. At each tensor the walk knows a factor and a shift a channel, the order
of the channels, and the first normalisation that the pixels met.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.constants import constant, is_dead
from modelserver.runner.graphs.layers import Normalisation, read_fused, read_unfused
from modelserver.runner.graphs.layouts import channel_axis
from modelserver.runner.graphs.traversal import DECODERS, RESIZERS, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable

# Ops that look at an image's shape only.
_SHAPES = frozenset({"Shape", "ShapeN", "Rank", "Size", "TensorArraySizeV3", "NoOp"})
# Ops that hand every pixel on, and by which of their inputs. The loop and tensor array
# ones are how tf.map_fn of TensorFlow 1 applies a resizer to each image of a batch.
_CARRIERS: dict[str, tuple[int, ...]] = {
    "Cast": (0,),
    "CheckNumerics": (0,),
    "Enter": (0,),
    "EnsureShape": (0,),
    "Exit": (0,),
    "FakeQuantWithMinMaxArgs": (0,),
    "FakeQuantWithMinMaxVars": (0,),
    "FakeQuantWithMinMaxVarsPerChannel": (0,),
    "Identity": (0,),
    "Merge": (0, 1),
    "NextIteration": (0,),
    "PlaceholderWithDefault": (0,),
    "PreventGradient": (0,),
    "Snapshot": (0,),
    "StopGradient": (0,),
    "Switch": (0,),
    "TensorArrayGatherV3": (2,),
    "TensorArrayReadV3": (2,),
    "TensorArrayScatterV3": (2, 3),
    "TensorArrayWriteV3": (2, 3),
}
_NEWLY_CARRIED = frozenset(
    {
        *("EnsureShape", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars"),
        "Snapshot",
    }
)
# Ops that lay the pixels out anew, and keep each.
_RESHAPERS = frozenset({"ExpandDims", "Reshape", "Squeeze"})
_PADDERS = frozenset({"MirrorPad", "Pad", "PadV2"})
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})
_AFFINE = _ADDITIONS | {"Div", "Mul", "RealDiv", "Sub"}
_JOINERS = frozenset({"Concat", "ConcatV2", "Pack"})
_DEPTHS = (None, 1, 3)
_COLOURS = 3


@dataclass(frozen=True)
class Pixels:
    """The pixels of an image on their way through a graph.

    Attributes:
        factor, shift: a value is now ``value * factor + shift``; a number or one a
            channel, in the order in which the channels stand here.
        order: which channels of the input stand here, from the first on; ``None``
            if all do, as they came.
        axis: of the channels, counted from the last, -1; ``None`` if there is none.
        first: the first normalisation that stored a mean and a deviation.
        sides: ``(height, width)`` of a mean image that was subtracted.
        resizes: a resizer has been passed.
        resized: ``(height, width)`` after the first resizer, ``None`` before it or if
            that size is computed.
        end: the op that first does something else with them.
        scaled_by: the constant tensor that they were last multiplied by.
        formerly: factor and shift at the op where release 0.1 stopped reading.
    """

    factor: Any = 1.0
    shift: Any = 0.0
    order: tuple[int, ...] | None = None
    axis: int | None = -1
    first: Normalisation | None = None
    sides: tuple[int, int] | None = None
    resizes: bool = False
    resized: tuple[int, int] | None = None
    end: Any = None
    scaled_by: Any = None
    formerly: tuple[Any, Any] | None = None


class _Walk:
    """A walk; ``known`` holds the pixels at each tensor that was reached."""

    def __init__(self, image: Any) -> None:
        self.known: dict[Any, Pixels] = {image.ref(): Pixels(axis=channel_axis(image))}
        self.waiting = deque([image])
        self.ends: list[Pixels] = []
        # Ops that join channels, until all that they join is known.
        self.joins: dict[Any, Pixels] = {}

    def run(self) -> list[Pixels]:
        """Walk; a join of pixels with something else is an end."""
        while self.waiting:
            tensor = self.waiting.popleft()
            for op in dict.fromkeys(tensor.consumers()):
                if op.type not in _SHAPES:
                    self._pass(op, tensor, self.known[tensor.ref()])
        return [*self.ends, *(replace(px, end=op) for op, px in self.joins.items())]

    def _pass(self, op: Any, tensor: Any, pixels: Pixels) -> None:
        """Continue behind an op, or end there."""
        if op.type in _JOINERS:
            merged = _join(op, [self.known.get(operand.ref()) for operand in op.inputs])
            self.joins[op] = pixels
            if merged is None:
                return
            del self.joins[op]
            carried: list[Pixels | None] | None = [merged]
        else:
            carried = _carry(op, tensor, pixels)
        if carried is None:
            self.ends.append(replace(pixels, end=op))
            return
        if not _former_version_read(op):
            former = pixels.formerly or (pixels.factor, pixels.shift)
            carried = [made and replace(made, formerly=former) for made in carried]
        for output, made in zip(op.outputs, carried, strict=False):
            if made and output.ref() not in self.known and not is_dead(output):
                self.known[output.ref()] = made
                self.waiting.append(output)


def _former_version_read(op: Any) -> bool:
    """Return whether release 0.1 understood an op, to note a change."""
    if op.type in _AFFINE:
        plain = [
            operand.shape.num_elements()
            for operand in op.inputs
            if operand.op.type == "Const"
        ]
        return bool(plain in ([1], [_COLOURS]))
    if op.type in _NEWLY_CARRIED:
        return False
    if op.type == "StridedSlice":
        return True
    return op.type in _CARRIERS or op.type in {*_RESHAPERS, *RESIZERS, *DECODERS}


def follow_pixels(image: Any) -> list[Pixels]:
    """Follow an image from its placeholder to each op that does more than carry it.

    Carrying is: casts, reshapes, resizing, padding, adding and multiplying constants, a
    normalisation by stored statistics, turning or parting and joining the channels, and
    the loop of ``tf.map_fn``. Ops that need the shape only are left out, and so are
    those that a training switch keeps from running.

    Args:
        image: the tensor that is fed.

    Returns:
        One entry for each op that is reached, nearest first.
    """
    return _Walk(image).run()


def inner_size(ends: Iterable[Pixels]) -> tuple[int, int] | None:
    """Return the one constant ``(height, width)`` to which a graph resizes its image.

    Args:
        ends: of the walk by ``follow_pixels``.

    Returns:
        ``None`` if some use of the image comes before a resizer, if the size is
        computed from the image's own (``keep_aspect_ratio_resizer``), or they differ.
    """
    sizes = {pixels.resized for pixels in ends}
    return sizes.pop() if len(sizes) == 1 else None


def _carry(op: Any, tensor: Any, pixels: Pixels) -> list[Pixels | None] | None:
    """Return the pixels in each output, ``None`` if this is an end."""
    indexes = {index for index, operand in enumerate(op.inputs) if operand is tensor}
    made: Any = None
    if op.type in _AFFINE:
        made = _after_affine(op, indexes.pop(), pixels) if len(indexes) == 1 else None
    elif op.type in _PARTS:
        made = _after_part(op, indexes, pixels)
    elif indexes == {0}:
        made = _after_op(op, pixels)
    elif indexes <= set(_CARRIERS.get(op.type, ())):
        made = pixels
    if made is None or isinstance(made, list):
        return made
    return [made] * len(op.outputs)


def _after_op(op: Any, pixels: Pixels) -> Pixels | None:
    """Follow an op whose first input alone is the image."""
    made: Pixels | None = None
    if op.type in RESIZERS:
        made = pixels if pixels.resizes else _after_resizer(pixels, op.inputs[1])
    elif op.type in DECODERS:
        made = replace(pixels, axis=-1)
    elif op.type in _PADDERS:
        made = replace(pixels, resizes=True)
    elif op.type in _RESHAPERS:
        made = replace(pixels, axis=_axis_after(op, pixels))
    elif op.type == "Transpose":
        made = _after_transpose(op, pixels)
    elif (norm := read_fused(op)) is not None:
        made = _after_normalisation(norm, pixels)
    elif 0 in _CARRIERS.get(op.type, ()):
        made = pixels
    return made


def _after_resizer(pixels: Pixels, size: Any) -> Pixels:
    """Note the size of the first resizer, if it is constant."""
    value = constant(size)
    if value is None or value.shape != (2,):
        return replace(pixels, resizes=True)
    return replace(pixels, resizes=True, resized=(int(value[0]), int(value[1])))


def _axis_after(op: Any, pixels: Pixels) -> int | None:
    """Return the axis of the channels after a reshape, by its output."""
    shape = shape_of(op.outputs[0])
    if shape is None:
        return pixels.axis
    if len(shape) > 2 and shape[-1] in _DEPTHS:  # noqa: PLR2004 - height and width
        return -1
    return None


def _after_transpose(op: Any, pixels: Pixels) -> Pixels | None:
    """Follow the axis of the channels through a transposition."""
    axes = constant(op.inputs[1])
    if axes is None:
        return None
    if pixels.axis is None:
        return pixels
    order = axes.tolist()
    source = len(order) + pixels.axis
    if source not in order:
        return None
    return replace(pixels, axis=order.index(source) - len(order))


def _channels(value: Any, tensor: Any, axis: int | None) -> Any:
    """Return a constant's mean for each channel, and the sides if it is an image.

    Returns:
        ``None`` if its shape is neither a number's, a channel's nor an image's.
    """
    value = np.asarray(value, np.float64)
    if not np.isfinite(value).all():
        return None
    if value.size == 1:
        return value.reshape(1), None
    rank = tensor.shape.rank or max(value.ndim, 4)
    if value.ndim > rank:
        return None
    full = value.reshape((1,) * (rank - value.ndim) + value.shape)
    channel = None if axis is None else rank + axis
    others = [side for index, side in enumerate(full.shape) if index != channel]
    spatial = [side for side in others if side > 1]
    if len(spatial) not in {0, 2} or (channel is not None and channel < 0):
        return None
    over = tuple(index for index in range(rank) if index != channel)
    sides = (spatial[0], spatial[1]) if spatial else None
    return full.mean(axis=over).reshape(-1), sides


def _after_affine(op: Any, index: int, pixels: Pixels) -> Pixels | None:
    """Apply an addition or multiplication of a constant."""
    other = op.inputs[1 - index]
    value = constant(other)
    axis = pixels.axis
    if op.type == "BiasAdd" and op.get_attr("data_format") == b"NCHW":
        value = None if value is None else value.reshape(-1, 1, 1)
    found = None if value is None else _channels(value, op.inputs[index], axis)
    if found is None:
        return None
    number, sides = found
    if op.type in {"Div", "RealDiv"} and (index == 1 or not number.all()):
        return None
    factor, shift = pixels.factor, pixels.shift
    if op.type in _ADDITIONS:
        shift = shift + number
    elif op.type == "Mul":
        factor, shift = factor * number, shift * number
    elif op.type == "Sub":
        sign = 1.0 if index == 0 else -1.0
        factor, shift = factor * sign, sign * (shift - number)
    else:
        factor, shift = factor / number, shift / number
    after = replace(pixels, factor=factor, shift=shift, sides=sides or pixels.sides)
    if op.type == "Mul":
        return replace(after, scaled_by=other)
    return _note_normalisation(after, pixels, other)


def _note_normalisation(after: Pixels, before: Pixels, shift: Any) -> Pixels:
    """Note a normalisation that was taken apart: ``x * k + (beta - mean * k)``."""
    if after.first is not None or before.scaled_by is None:
        return after
    norm = read_unfused(before.scaled_by, shift)
    if norm is None:
        return after
    # Undo the multiplication by k.
    scale = np.asarray(norm.factor)
    if not scale.all():
        return after
    return replace(
        after,
        first=_in_input_units(
            norm, replace(before, factor=before.factor / scale,
                          shift=before.shift / scale)
        ),
    )  # fmt: skip


def _after_normalisation(norm: Normalisation, pixels: Pixels) -> Pixels:
    """Apply a batch normalisation of one op."""
    return replace(
        pixels,
        factor=pixels.factor * norm.factor,
        shift=pixels.shift * norm.factor + norm.shift,
        first=pixels.first or _in_input_units(norm, pixels),
    )


def _in_input_units(norm: Normalisation, pixels: Pixels) -> Normalisation:
    """Convert a normalisation's mean and deviation to the units that the graph is fed.

    They stay in the order in which the channels reach it.
    """
    factor = np.where(np.equal(pixels.factor, 0), np.nan, pixels.factor)
    return replace(
        norm,
        mean=(norm.mean - pixels.shift) / factor,
        deviation=norm.deviation / np.abs(factor),
        order=pixels.order,
    )


_PARTS = frozenset(
    {
        *("Gather", "GatherV2", "Reverse", "ReverseV2", "Slice", "Split", "SplitV"),
        *("StridedSlice", "Unpack"),
    }
)


def _count_channels(tensor: Any, pixels: Pixels) -> int:
    """Count the channels of a tensor."""
    if pixels.order is not None:
        return len(pixels.order)
    shape = shape_of(tensor)
    known = shape[pixels.axis] if shape and pixels.axis is not None else None
    return known or _COLOURS


def _select(pixels: Pixels, channels: list[int], count: int) -> Pixels:
    """Return the pixels of some of the channels, in this order."""
    order = pixels.order or tuple(range(count))
    factor, shift = (
        np.broadcast_to(number, (count,))[channels]
        for number in (pixels.factor, pixels.shift)
    )
    return replace(
        pixels,
        order=tuple(order[channel] for channel in channels),
        factor=factor,
        shift=shift,
    )


def _after_part(op: Any, indexes: set[int], pixels: Pixels) -> Any:
    """Follow an op that turns the channels, takes some or parts them."""
    image = op.inputs[1 if op.type == "Split" else 0]
    if indexes != {1 if op.type == "Split" else 0}:
        return None
    rank = image.shape.rank
    rank = 4 if rank is None else rank
    channel = -1 if pixels.axis is None else rank + pixels.axis
    count = _count_channels(image, pixels)
    # Where each channel goes, seen on an image of one pixel a channel.
    try:
        parts = _FOLLOWERS[op.type](op, channel, rank, np.arange(count))
        if parts is None:
            return None
        if len(parts) == 1 and parts[0].tolist() == list(range(count)):
            return pixels
        made = [_select(pixels, part.tolist(), count) for part in parts]
    except (IndexError, TypeError, ValueError):
        return None  # channels that there are not: the run says so
    if op.type == "Unpack":
        return [replace(part, axis=None) for part in made]
    return made


def _is_zero_but(numbers: Any, axis: int) -> bool:
    return all(number == 0 for index, number in enumerate(numbers) if index != axis)


def _follow_reverse(op: Any, channel: int, rank: int, channels: Any) -> Any:
    """Follow ``ReverseV2``; a mirrored image has its channels as before."""
    axes = constant(op.inputs[1])
    if axes is None:
        return None
    if op.type == "Reverse":
        turns = channel < len(axes) and bool(axes[channel])
    else:
        turns = channel in {int(axis) % rank for axis in axes.ravel()}
    return [channels[::-1] if turns else channels]


def _follow_gather(op: Any, channel: int, rank: int, channels: Any) -> Any:
    indices = constant(op.inputs[1])
    axis = constant(op.inputs[2]) if op.type == "GatherV2" else np.array(0)
    if indices is None or axis is None or indices.ndim != 1:
        return None
    return [channels[indices]] if int(axis) % rank == channel else None


def _follow_split(op: Any, channel: int, rank: int, channels: Any) -> Any:
    """Follow ``Split``, ``SplitV`` and ``Unpack`` along the channels."""
    where: Any = op.get_attr("axis") if op.type == "Unpack" else None
    if op.type != "Unpack":
        where = constant(op.inputs[0 if op.type == "Split" else 2])
    if where is None or int(where) % rank != channel:
        return None
    if op.type == "SplitV":
        sizes = constant(op.inputs[1])
        return None if sizes is None else np.split(channels, np.cumsum(sizes)[:-1])
    if len(channels) % len(op.outputs):
        return None
    return np.split(channels, len(op.outputs))


def _follow_slice(op: Any, channel: int, rank: int, channels: Any) -> Any:
    """Follow ``Slice`` if it cuts channels only."""
    begin, size = constant(op.inputs[1]), constant(op.inputs[2])
    if begin is None or size is None or len(begin) != rank:
        return None
    rest = [count + 1 for count in size.tolist()]
    if not _is_zero_but(begin.tolist(), channel) or not _is_zero_but(rest, channel):
        return None
    first, count = int(begin[channel]), int(size[channel])
    return [channels[first : None if count < 0 else first + count]]


def _follow_strided_slice(op: Any, channel: int, rank: int, channels: Any) -> Any:
    """Follow ``StridedSlice`` if it takes all pixels, turned or not."""
    bounds: list[Any] = [constant(tensor) for tensor in op.inputs[1:]]
    if any(bound is None for bound in bounds) or op.get_attr("shrink_axis_mask"):
        return None
    begin, end, strides = bounds
    masks = {
        name: op.get_attr(f"{name}_mask")
        for name in ("begin", "end", "ellipsis", "new_axis")
    }
    axis, picked = 0, channels
    for index, step in enumerate(strides.tolist()):
        flags = {name for name, mask in masks.items() if mask >> index & 1}
        if "new_axis" in flags:
            continue
        if "ellipsis" in flags:
            later = masks["new_axis"] >> (index + 1)
            named = len(strides) - index - 1 - later.bit_count()
            axis = rank - named
            continue
        if axis == channel:
            first = None if "begin" in flags else int(begin[index])
            last = None if "end" in flags else int(end[index])
            picked = channels[first:last:step]
        elif abs(step) != 1 or flags != {"begin", "end"}:
            return None
        axis += 1
    return [picked]


_FOLLOWERS = {
    "Gather": _follow_gather,
    "GatherV2": _follow_gather,
    "Reverse": _follow_reverse,
    "ReverseV2": _follow_reverse,
    "Slice": _follow_slice,
    "Split": _follow_split,
    "SplitV": _follow_split,
    "StridedSlice": _follow_strided_slice,
    "Unpack": _follow_split,
}


def _join(op: Any, known: list[Pixels | None]) -> Pixels | None:
    """Join channels again; ``None`` if something else is among them."""
    axis: Any = op.get_attr("axis") if op.type == "Pack" else None
    if op.type != "Pack":
        index = 0 if op.type == "Concat" else len(known) - 1
        value = constant(op.inputs[index])
        axis = None if value is None else int(value)
        known = [*known[:index], *known[index + 1 :]]
    parts = [part for part in known if part is not None]
    rank = op.outputs[0].shape.rank
    if axis is None or rank is None or len(parts) < len(known):
        return None
    wanted = None if op.type == "Pack" else axis % rank - rank
    if any(part.axis != wanted or part.order is None for part in parts):
        return None
    numbers: dict[str, list[Any]] = {"factor": [], "shift": []}
    for part in parts:
        for name, all_of_it in numbers.items():
            all_of_it.append(
                np.broadcast_to(getattr(part, name), (len(part.order or ()),))
            )
    return replace(
        parts[0],
        factor=np.concatenate(numbers["factor"]),
        shift=np.concatenate(numbers["shift"]),
        order=sum((part.order or () for part in parts), ()),
        axis=axis % rank - rank,
        scaled_by=None,
    )
