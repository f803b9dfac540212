"""Find the tensor that takes the image, and how it wants it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import GraphError
from modelserver.runner.graphs.constants import switch_value
from modelserver.runner.graphs.layouts import (
    BATCH,
    CHANNELS,
    ONE_IMAGE,
    Axes,
    find_row,
    looks_flat,
    read_axes,
    turns_channels,
)
from modelserver.runner.graphs.traversal import (
    CONVOLUTIONS,
    DECODERS,
    descendants,
    find_tensor,
    join_names,
    last_part,
    list_tensors,
    placeholders,
    shape_of,
    shape_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelserver.core.signatures import Layout, Sidecar
    from modelserver.runner.graphs.pixels import Pixels

# Names of the image's placeholder, the surest first: the TensorFlow Object Detection
# API's exporters, then slim, retrain.py, Keras and TensorFlow 2's own.
_KNOWN_NAMES = (
    "image_tensor",
    "encoded_image_string_tensor",
    "input_tensor",
    "serving_default_input_tensor",
    "input",
    "inputs",
    "image",
    "images",
    "Mul",
    "Placeholder",
    "x",
    "input_1",
    "contents",
)
_NUMBERS = frozenset({"uint8", "int32", "int64", "float16", "float32", "float64"})
_CHANNELS_FIRST = (
    "channels before height and width (NCHW), which TensorFlow does not run on every "
    "device; export it as NHWC"
)
_NO_AXIS, _LIST_AXES = 0, 1


@dataclass(frozen=True)
class ImageInput:
    """How a graph takes its image; the fields are those of ``Signature``.

    Attributes:
        sides: height and width as far as the graph fixes them.
    """

    tensor: Any
    layout: Layout
    channels: int
    size: tuple[int, int] | None
    batch: int
    sides: tuple[int | None, int | None] = (None, None)
    guesses: tuple[str, ...] = ()

    @property
    def encoded(self) -> bool:
        """The graph decodes the image's file itself."""
        return self.layout in {"encoded", "encoded_batch"}


def find_image(graph: Any, sidecar: Sidecar, needed: set[Any] | None = None) -> Any:
    """Find the tensor to feed with the image.

    Args:
        graph: a ``tf.Graph``.
        sidecar: its ``input`` wins.
        needed: the ops that the outputs need, if those are known already.

    Raises:
        GraphError: there is none, or there are several and no name decides.
    """
    if sidecar.input is not None:
        tensor = find_tensor(graph, sidecar.input)
        if tensor is None:
            names = join_names(op.name for op in placeholders(graph))
            raise GraphError(
                f"the sidecar's input {sidecar.input!r} is not in the graph; "
                f"its placeholders are: {names or 'none'}"
            )
        return tensor
    found = _candidates(graph, needed)
    if len(found) > 1:
        known = [name for name in _KNOWN_NAMES if name in map(_plain_name, found)]
        found = [op for op in found if known[:1] == [_plain_name(op)]] or found
    if len(found) > 1:
        raise several_images_error(found)
    return found[0].outputs[0]


def several_images_error(ops: Iterable[Any]) -> GraphError:
    """Make the error for a graph that takes more than one image."""
    return GraphError(
        f"the graph has several image inputs: {join_names(op.name for op in ops)}; a "
        "model is served with one photo. Export it with one, or, where the others are "
        'not needed, name it as "input" in the sidecar'
    )


def _plain_name(op: Any) -> str:
    return last_part(op.name)


def _candidates(graph: Any, needed: set[Any] | None) -> list[Any]:
    """Return the placeholder ops that can be the image's; at least one."""
    ops = [op for op in placeholders(graph) if needed is None or op in needed]
    images = [op for op in ops if is_image(op)]
    images = images or [op for op in ops if _is_flat(op)]
    images = images or [op for op in ops if _may_be_image(op)]
    images = images or [op for op in graph.get_operations() if _is_decoded_constant(op)]
    if images:
        return images
    if not ops:
        raise GraphError(
            "the graph has no placeholder, so nothing takes the image: export it for "
            "inference, with a placeholder for the image in place of the input pipeline"
        )
    found = list_tensors(op.outputs[0] for op in ops)
    raise GraphError(
        "the graph has no image input: none of its placeholders takes an image "
        f"[height, width, channels], a batch of them, or an image's file: {found}"
    )


def is_image(op: Any) -> bool:
    """Return whether a placeholder op takes numbers with an image's axes, or a file."""
    tensor = op.outputs[0]
    if tensor.dtype.base_dtype.name == "string":
        return any(user.type in DECODERS for user in descendants(tensor)) or (
            _plain_name(op) == "encoded_image_string_tensor"
        )
    return tensor.dtype.base_dtype.name in _NUMBERS and tensor.shape.rank in {
        ONE_IMAGE,
        BATCH,
    }


def _may_be_image(op: Any) -> bool:
    """Return whether it could be one: numbers of unknown shape, and no known switch."""
    tensor = op.outputs[0]
    return (
        tensor.dtype.base_dtype.name in _NUMBERS
        and tensor.shape.rank is None
        and switch_value(op) is None
    )


def _is_flat(op: Any) -> bool:
    """Return whether it takes an image's numbers without an image's axes."""
    tensor = op.outputs[0]
    return tensor.dtype.base_dtype.name in _NUMBERS and looks_flat(tensor)


def _is_decoded_constant(op: Any) -> bool:
    """Return whether it is the example photo that Inception of 2015 holds in its place.

    There ``DecodeJpeg/contents`` is a constant, over which the photo's file is fed.
    """
    return (
        op.type == "Const"
        and op.outputs[0].dtype.name == "string"
        and any(user.type in DECODERS for user in op.outputs[0].consumers())
    )


def describe_image(tensor: Any, ends: list[Pixels], sidecar: Sidecar) -> ImageInput:
    """Describe how a tensor takes its image.

    Args:
        tensor: as ``find_image`` returned it.
        ends: of the walk by ``follow_pixels`` from it.
        sidecar: its ``channels`` and ``size`` win if the graph leaves them open.

    Raises:
        GraphError: no image can be fed there, or the sidecar contradicts the graph.
    """
    if tensor.dtype.base_dtype.name == "string":
        return _describe_file(tensor)
    if tensor.dtype.base_dtype.name not in _NUMBERS:
        raise _misfit(tensor, "numbers that no image is made of")
    shape = shape_of(tensor)
    guesses: tuple[str, ...] = ()
    if shape is None:
        shape = _guess_shape(tensor)
        what = "one image" if len(shape) == ONE_IMAGE else "a batch of images"
        what = what if len(shape) >= ONE_IMAGE else "a batch of rows"
        guesses = (f"the input {tensor.name} has no known shape: taken for {what}",)
    axes = read_axes(tensor, shape, sidecar)
    if axes is None:
        raise _misfit(tensor, "not an image's axes, height, width, channels")
    _refuse_channels_first(axes, tensor, ends)
    channels, guess = _channels(tensor, axes.depth, ends, sidecar)
    return ImageInput(
        tensor,
        axes.layout,
        channels,
        _size(tensor, axes.sides, sidecar),
        axes.batch,
        axes.sides,
        guesses + axes.guesses + guess,
    )


def _misfit(tensor: Any, what: str) -> GraphError:
    return GraphError(f"the input {tensor.name} takes {shape_text(tensor)}: {what}")


def _describe_file(tensor: Any) -> ImageInput:
    """Describe an input that takes the photo's file as a string."""
    if not is_image(tensor.op) and not _is_decoded_constant(tensor.op):
        raise _misfit(
            tensor,
            "a string that is not decoded as an image (a tf.Example?); export the "
            "model with an image as its input",
        )
    rank = tensor.shape.rank
    guesses: tuple[str, ...] = ()
    if rank is None:
        direct = any(user.type in DECODERS for user in tensor.consumers())
        rank = _NO_AXIS if direct else _LIST_AXES
        what = "one file" if direct else "a list of files"
        guesses = (f"the input {tensor.name} has no known shape: taken for {what}",)
    if rank not in {_NO_AXIS, _LIST_AXES}:
        raise _misfit(tensor, "neither one image's file nor a list of them")
    if rank == _NO_AXIS:
        return ImageInput(tensor, "encoded", 3, None, 1, guesses=guesses)
    batch = (shape_of(tensor) or (None,))[0] or 0
    return ImageInput(tensor, "encoded_batch", 3, None, batch, guesses=guesses)


def _guess_shape(tensor: Any) -> tuple[int | None, ...]:
    """Guess the axes of an input of unknown shape by who uses it."""
    row = find_row(tensor)
    if row is not None:
        return row
    single = any(user.type == "ExpandDims" for user in tensor.consumers())
    return (None,) * (ONE_IMAGE if single else BATCH)


def _refuse_channels_first(axes: Axes, tensor: Any, ends: list[Pixels]) -> None:
    """Refuse filters over ``[N, channels, height, width]``: no CPU runs them.

    A graph that takes its image so and turns it for its filters is as good as any, and
    of one channel there is nothing to turn.
    """
    first = axes.layout in {"NCHW", "CHW"} and axes.depth != 1
    if first and not turns_channels(tensor):
        raise _misfit(tensor, _CHANNELS_FIRST)
    if any(op.get_attr("data_format") == b"NCHW" for op in _filters(ends)):
        what = f"the filters behind it take {_CHANNELS_FIRST}"
        raise _misfit(tensor, what)


def _filters(ends: list[Pixels]) -> list[Any]:
    return [pixels.end for pixels in ends if pixels.end.type in CONVOLUTIONS]


def _channels(
    tensor: Any, depth: int | None, ends: list[Pixels], sidecar: Sidecar
) -> tuple[int, tuple[str, ...]]:
    """Find the number of channels: by the shape, the sidecar, the first filter."""
    asked = 3 if sidecar.channels == "bgr" else sidecar.channels
    known = depth or _filter_depth(ends)
    if known is not None and known not in CHANNELS:
        raise _misfit(tensor, f"{known} channels, neither 1 (gray) nor 3 (RGB)")
    if asked is not None and known not in {None, asked}:
        raise GraphError(
            f"the sidecar says {asked} channels, but the input {tensor.name} takes "
            f"{known}"
        )
    if known or asked:
        return known or asked or 3, ()
    return 3, (f"the input {tensor.name} does not tell its channels: guessed 3 (RGB)",)


def _filter_depth(ends: list[Pixels]) -> int | None:
    """Read the number of channels off the first convolution's filter."""
    for op in _filters(ends)[:1]:
        shape = shape_of(op.inputs[1])
        return shape[2] if shape and len(shape) == BATCH else None
    return None


def _size(
    tensor: Any, sides: tuple[int | None, int | None], sidecar: Sidecar
) -> tuple[int, int] | None:
    """Return ``(height, width)``: the graph's if it fixes them, else the sidecar's."""
    asked = sidecar.height_width
    if asked is not None:
        if any(
            side not in {None, want} for side, want in zip(sides, asked, strict=True)
        ):
            raise GraphError(
                f"the sidecar's size {list(asked)} does not fit the input "
                f"{tensor.name}, {shape_text(tensor)}"
            )
        return asked
    height, width = sides
    return (height, width) if height and width else None
