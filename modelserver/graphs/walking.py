"""Walk a graph: what a tensor needs, what needs it, and what becomes of the pixels."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.graphs.constants import constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault", "PlaceholderV2")
DECODERS = ("DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "DecodeGif")

# Ops that look at an image's shape only.
_SHAPES = frozenset({"Shape", "ShapeN", "Rank", "Size", "TensorArraySizeV3", "NoOp"})
# Ops whose second input is the size to which they resize the first.
RESIZERS = frozenset(
    {
        "ResizeArea",
        "ResizeBicubic",
        "ResizeBilinear",
        "ResizeNearestNeighbor",
        "ScaleAndTranslate",
    }
)
# Ops that hand every pixel on, and by which of their inputs. The loop and tensor array
# ones are how tf.map_fn of TensorFlow 1 applies a resizer to each image of a batch.
_CARRIERS: dict[str, tuple[int, ...]] = {
    "Cast": (0,),
    "CheckNumerics": (0,),
    "Enter": (0,),
    "Exit": (0,),
    "ExpandDims": (0,),
    "Identity": (0,),
    "Merge": (0, 1),
    "NextIteration": (0,),
    "PlaceholderWithDefault": (0,),
    "PreventGradient": (0,),
    "Reshape": (0,),
    "Squeeze": (0,),
    "StopGradient": (0,),
    "Switch": (0,),
    "TensorArrayGatherV3": (2,),
    "TensorArrayReadV3": (2,),
    "TensorArrayScatterV3": (2, 3),
    "TensorArrayWriteV3": (2, 3),
} | dict.fromkeys((*DECODERS, *RESIZERS), (0,))
_AFFINE = frozenset({"Add", "AddV2", "BiasAdd", "Div", "Mul", "RealDiv", "Sub"})


@dataclass(frozen=True)
class Pixels:
    """What has become of the pixels of an image on their way through a graph.

    Attributes:
        factor, shift: a value is now ``value * factor + shift``; a number or one a
            channel.
        resizes: a resizer has been passed.
        resized: ``(height, width)`` after the first resizer, ``None`` before it or
            where that size is computed.
        end: the op that first does something else with them.
    """

    factor: Any = 1.0
    shift: Any = 0.0
    resizes: bool = False
    resized: tuple[int, int] | None = None
    end: Any = None


def node_of(name: str) -> str:
    """Give the node's name in a tensor's: ``input:0`` and ``^input`` are ``input``."""
    return name.removeprefix("^").partition(":")[0]


def last_part(name: str) -> str:
    """Give a name without its scopes and output number: ``a/b:0`` is ``b``."""
    return node_of(name).rpartition("/")[2]


def ancestors(tensors: Iterable[Any], fed: Any = None) -> set[Any]:
    """Collect the ops that a run of these tensors needs, their own ops included.

    Args:
        tensors: what is fetched.
        fed: a tensor that is fed, behind which nothing is needed.
    """
    stop = None if fed is None else fed.op
    return _reached(
        (tensor.op for tensor in tensors),
        lambda op: (
            []
            if op is stop
            else [*(tensor.op for tensor in op.inputs), *op.control_inputs]
        ),
    )


def descendants(tensor: Any) -> set[Any]:
    """Collect the ops that this tensor's value reaches, its own not included."""
    return _reached(
        tensor.consumers(),
        lambda op: [user for output in op.outputs for user in output.consumers()],
    )


def _reached(starts: Iterable[Any], neighbours: Any) -> set[Any]:
    """Collect what can be reached; a graph may hold loops and be deep."""
    seen = set(starts)
    waiting = list(seen)
    while waiting:
        fresh = [op for op in neighbours(waiting.pop()) if op not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return seen


def follow_pixels(image: Any) -> list[Pixels]:
    """Follow an image from its placeholder to each op that does more than carry it.

    Carrying is: casts, reshapes, resizing, adding and multiplying constants, and the
    loop of ``tf.map_fn``. Ops that need the shape only are left out.

    Args:
        image: the tensor that is fed.

    Returns:
        One entry for each op that is reached, nearest first.
    """
    ends: list[Pixels] = []
    seen = {image.ref()}
    waiting = deque([(image, Pixels())])
    while waiting:
        tensor, pixels = waiting.popleft()
        for op in tensor.consumers():
            if op.type in _SHAPES:
                continue
            carried = _carried(op, tensor, pixels)
            if carried is None:
                ends.append(replace(pixels, end=op))
                continue
            for output in op.outputs:
                if output.ref() not in seen:
                    seen.add(output.ref())
                    waiting.append((output, carried))
    return ends


def _carried(op: Any, tensor: Any, pixels: Pixels) -> Pixels | None:
    """Tell what the pixels are after ``op``, ``None`` where it does more than carry."""
    inputs = list(op.inputs)
    places = {place for place, item in enumerate(inputs) if item is tensor}
    if op.type in RESIZERS and places == {0}:
        return pixels if pixels.resizes else _after_resizer(pixels, inputs[1])
    if op.type in _AFFINE and len(places) == 1:
        return _after_affine(op, places.pop(), pixels)
    if op.type == "StridedSlice" and places == {0} and _keeps_all(op):
        return pixels
    return pixels if places and places <= set(_CARRIERS.get(op.type, ())) else None


def _keeps_all(op: Any) -> bool:
    """Tell whether a slice takes everything: ``image[None]``, ``image[..., ::-1]``."""
    strides = constant(op.inputs[3])
    if strides is None or op.get_attr("shrink_axis_mask"):
        return False
    whole = op.get_attr("begin_mask") & op.get_attr("end_mask")
    whole |= op.get_attr("new_axis_mask") | op.get_attr("ellipsis_mask")
    return bool((np.abs(strides) == 1).all()) and whole == (1 << strides.size) - 1


def _after_resizer(pixels: Pixels, size: Any) -> Pixels:
    """Note the size of the first resizer, where it is constant."""
    value = constant(size)
    if value is None or value.shape != (2,):
        return replace(pixels, resizes=True)
    return replace(pixels, resizes=True, resized=(int(value[0]), int(value[1])))


def _after_affine(op: Any, place: int, pixels: Pixels) -> Pixels | None:
    """Apply an addition or multiplication of a constant number or one a channel."""
    other = constant(op.inputs[1 - place])
    if other is None or other.size not in {1, 3}:
        return None
    value = np.asarray(other, np.float64).reshape(-1)
    if op.type in {"Add", "AddV2", "BiasAdd"}:
        return replace(pixels, shift=pixels.shift + value)
    if op.type == "Mul":
        return replace(pixels, factor=pixels.factor * value, shift=pixels.shift * value)
    if op.type == "Sub":
        sign = 1.0 if place == 0 else -1.0
        return replace(
            pixels,
            factor=pixels.factor * sign,
            shift=sign * (pixels.shift - value),
        )
    if place == 1 or not value.all():
        return None
    return replace(pixels, factor=pixels.factor / value, shift=pixels.shift / value)


def resized_inside(ends: Iterable[Pixels]) -> tuple[int, int] | None:
    """Give the one constant ``(height, width)`` to which a graph resizes its image.

    Args:
        ends: what ``follow_pixels`` gave.

    Returns:
        ``None`` where some use of the image comes before a resizer, where the size is
        computed from the image's own (``keep_aspect_ratio_resizer``), or they differ.
    """
    sizes = {pixels.resized for pixels in ends}
    return sizes.pop() if len(sizes) == 1 else None


def placeholders(graph: Any) -> Iterator[Any]:
    """Give the placeholder ops that someone has to feed, or may, in graph order.

    A default that is computed, such as the bottleneck that retraining puts between two
    halves of a network, makes a placeholder a mere joint: it is left out.
    """
    for op in graph.get_operations():
        if op.type not in PLACEHOLDERS:
            continue
        if op.type != "PlaceholderWithDefault" or constant(op.inputs[0]) is not None:
            yield op


def tensor_named(graph: Any, name: str) -> Any:
    """Give the tensor of that name, or a node's first one; ``None`` where none is."""
    full = name if ":" in name else f"{name}:0"
    try:
        return graph.get_tensor_by_name(full)
    except (KeyError, ValueError):
        return None


def shape_of(tensor: Any) -> tuple[int | None, ...] | None:
    """Give a static shape, ``None`` for what is not known: a side, or the rank."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def shape_text(tensor: Any) -> str:
    """Write a dtype and shape as people do: ``float32 [?, 224, 224, 3]``."""
    shape = shape_of(tensor)
    if shape is None:
        return f"{tensor.dtype.name} of unknown shape"
    sides = ", ".join("?" if side is None else str(side) for side in shape)
    return f"{tensor.dtype.name} [{sides}]"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a sentence, at most ``limit`` of them."""
    known = list(names)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more


def leaves(ops: Iterable[Any]) -> list[Any]:
    """Give the floats that come out of those ops of which nobody uses any output."""
    return [
        output
        for op in ops
        if op.type != "Const" and not any(out.consumers() for out in op.outputs)
        for output in op.outputs
        if output.dtype.base_dtype.is_floating
    ]
