"""Find the size of image that a graph is fed, and how a photo is brought to it.

Optimizing for inference drops a placeholder's shape, and so do old exporters. The
layers that follow still show it: a dense layer takes so many numbers, a pooling window
is as large as the map it is for. So the usual sides are tried by shape inference, on a
copy of the graph without its weights; nothing is run.

Some tools train on the middle square of a photo rather than on a stretched one, and
some graphs resize the photo themselves; both are recognised here.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.core.exports import CROP_FROM, CUSTOM_VISION, TEACHABLE
from modelserver.core.signatures import Evidence
from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.traversal import (
    RESIZERS,
    ancestors,
    descendants,
    join_names,
    shape_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from modelserver.core.exports import Export
    from modelserver.core.signatures import (
        Resize,
        Sampling,
        Sidecar,
        Signature,
        Source,
    )
    from modelserver.runner.graphs.inputs import ImageInput

    Size = tuple[int, int]

v1 = tf.compat.v1

# Sides of known architectures and of tutorials, the likeliest first: ImageNet's, those
# of Keras's and TensorFlow's guides, of CIFAR and MNIST, of EfficientNet, NASNet, SSD
# and YOLO.
USUAL_SIDES = (
    *(224, 299, 128, 150, 64, 32, 28, 256, 160, 192, 96, 180, 100, 48, 200, 227, 300),
    *(240, 260, 331, 380, 416, 512, 50, 120, 80, 40, 320, 36, 112, 456, 528, 600),
)
# A gray image is a digit more often than anything else.
_GRAY_SIDES = (28,)
# A detector that takes any size takes this one.
_ANY_SIZE = (480, 640)
# What trying may take. A graph of a thousand nodes takes about 0.05 s a side.
_LONGEST_S = 3.0
_MOST_NODES = 5_000
# Shapes and axes are constants of a few numbers; larger ones are weights, of which
# shape inference needs the shape only.
_MOST_NUMBERS = 64
_STRIDED = {
    *("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"),
    *("_FusedConv2D", "_FusedDepthwiseConv2dNative"),
}
# An average over a window of this side or more is for the whole map.
_WHOLE_MAP = 4
# Sides in names: 1x1, 3x3 and 17x17 are of filters and maps.
_SQUARE = re.compile(r"(?<!\d)((?P<side>\d{2,3})x(?P=side)|(?P<alone>\d{2,3}))(?!\d)")
_LEAST_NAMED = 28


@dataclass(frozen=True)
class Fit:
    """A size that fits.

    Attributes:
        size: height and width.
        why: the evidence, for a sentence; empty if others fit as well.
        source: the kind of evidence.
    """

    size: Size
    why: str = ""
    source: Source = "default"


@dataclass(frozen=True)
class SizeChoice:
    """The size that a graph is fed with.

    Attributes:
        size: height and width; ``None`` if it takes any.
        sizing: the evidence; ``None`` if the graph itself fixes or takes any.
        guesses: a sentence if it was guessed.
    """

    size: Size | None
    sizing: Evidence | None = None
    guesses: tuple[str, ...] = ()


# The shape of one image as it is fed, by layout and for so many channels.
_SHAPES: dict[str, Callable[[int], tuple[int | None, ...]]] = {
    "NHWC": lambda channels: (1, None, None, channels),
    "HWC": lambda channels: (None, None, channels),
    "NCHW": lambda channels: (1, channels, None, None),
    "CHW": lambda channels: (channels, None, None),
    "NHW": lambda _: (1, None, None),
    "HW": lambda _: (None, None),
}


def choose_size(
    image: ImageInput,
    outputs: Iterable[Any],
    hints: Iterable[Fit],
    *,
    any_size: bool,
    rank: int,
) -> SizeChoice:
    """Choose the size if neither the graph nor the sidecar fixes one.

    Args:
        image: the input, whose graph does not resize it to a known size.
        outputs: the tensors that are fetched.
        hints: sizes that files, names or constants suggest, the surest first.
        any_size: a graph that can be run on any size takes any.
        rank: of an output from which on its first axis is the batch.

    Raises:
        GraphError: none of the usual sizes fits the layers that follow.
    """
    trials = _make_trials(image, outputs, rank)
    hints = [hint for hint in hints if _agrees(hint.size, image.sides)]
    if not trials.possible:
        fit = next(iter(hints), None)
        if fit is None and any_size:
            return SizeChoice(None)
        fit = fit or Fit(_usual_sizes(image.sides)[0])
    elif any_size and trials.faults(_ANY_SIZE) is not None:
        return SizeChoice(None)
    else:
        first = _GRAY_SIDES if image.channels == 1 else ()
        fit = best_fit(trials, image.sides, hints, first)
    if fit is None:
        raise _no_size_error(image)
    height, width = fit.size
    reason = "nothing in the graph tells " * (fit.source == "default") + fit.why
    guess = (
        f"the input {image.tensor.name} takes any size: guessed {width} x {height}, "
        f"{reason.strip()}"
    )
    return SizeChoice(fit.size, Evidence(source=fit.source, why=fit.why), (guess,))


def _no_size_error(image: ImageInput) -> GraphError:
    sides = f"{min(USUAL_SIDES)} to {max(USUAL_SIDES)}"
    return GraphError(
        f"the input {image.tensor.name} takes images of unknown size, and none of the "
        f"usual sizes ({sides}) fits what follows in the graph: put "
        '"size": [height, width], as the network was trained with, into NAME.json '
        "beside the graph"
    )


def _make_trials(image: ImageInput, outputs: Iterable[Any], rank: int) -> Trials:
    """Make the trials of a graph's input, for the batch that it takes."""
    shape = _SHAPES[image.layout](image.channels)
    if image.layout.startswith("N"):
        shape = (image.batch or 1, *shape[1:])
    return Trials(image.tensor, outputs, shape, image.batch or 1, rank)


def _agrees(size: Size, sides: tuple[int | None, int | None]) -> bool:
    """Return whether a size has the sides that are known."""
    return all(known in {None, side} for side, known in zip(size, sides, strict=True))


class Trials:
    """Tries sizes of a graph's image by shape inference. For one thread.

    Args:
        image: the placeholder's tensor.
        outputs: the tensors that are fetched.
        shape: as it is fed; ``None`` for its height and its width.
        batch: images that are fed.
        rank: from which on an output's first axis is the batch.
    """

    def __init__(
        self,
        image: Any,
        outputs: Iterable[Any],
        shape: tuple[int | None, ...],
        batch: int = 1,
        rank: int = 2,
    ) -> None:
        outputs = list(outputs)
        self._shape = shape
        self._batch = batch
        self._rank = rank
        self._skeleton = _skeleton(image, outputs)
        # A detector's number of boxes may be a constant, which is no part of it.
        nodes = {node.name for node in self._skeleton.node} if self._skeleton else ()
        self._outputs = [tensor.name for tensor in outputs if tensor.op.name in nodes]
        self._ends = time.monotonic() + _LONGEST_S

    @property
    def possible(self) -> bool:
        """Whether shapes can be inferred at all, for any size."""
        return self._skeleton is not None and self._infer(None) is not None

    def faults(self, size: Size) -> int | None:
        """Measure how well a size fits.

        Returns:
            How many strides and windows leave a rest; ``None`` if it does not fit,
            or the time for trying is over.
        """
        if time.monotonic() > self._ends:
            return None
        graph = self._infer(size)
        if graph is None or not all(
            self._has_batch(graph.get_tensor_by_name(name)) for name in self._outputs
        ):
            return None
        return sum(map(_count_rests, graph.get_operations()))

    def _has_batch(self, tensor: Any) -> bool:
        """Return whether an output is of as many images as were fed."""
        shape = shape_of(tensor)
        return not shape or len(shape) < self._rank or shape[0] in {self._batch, None}

    def _infer(self, size: Size | None) -> Any:
        """Import the skeleton with a size; ``None`` if TensorFlow finds a fault."""
        sides = iter(size or (None, None))
        shape = tf.TensorShape([next(sides) if s is None else s for s in self._shape])
        self._skeleton.node[0].attr["shape"].shape.CopyFrom(shape.as_proto())
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(self._skeleton, name="")
        except (ValueError, TypeError, KeyError, tf.errors.OpError):
            return None
        return graph


def best_fit(
    trials: Trials,
    sides: tuple[int | None, int | None],
    hints: Iterable[Fit] = (),
    first: Iterable[int] = (),
) -> Fit | None:
    """Choose the size that fits best.

    Args:
        trials: of the graph.
        sides: the height and the width that are known.
        hints: sizes that something suggests; the first that fits is taken.
        first: sides that come before others that fit as well.

    Returns:
        ``None`` if none of the usual sizes fits.
    """
    for hint in hints:
        if trials.faults(hint.size) is not None:
            return hint
    tried = {size: trials.faults(size) for size in _usual_sizes(sides)}
    found = {size: faults for size, faults in tried.items() if faults is not None}
    if not found:
        return None
    usual = [size for size in found if size[0] in first]
    best = min(found, key=lambda size: (size not in usual, found[size]))
    if len(found) == 1:
        why = "as of the usual sizes it alone fits what follows"
        return Fit(best, why, "arithmetic")
    others = join_names(f"{size[1]} x {size[0]}" for size in found if size != best)
    same = len(found) > len(tried) // 2
    return Fit(best, "" if same else f"it from {others}, which fit too")


def _usual_sizes(sides: tuple[int | None, int | None]) -> list[Size]:
    """Return squares, or the sides to go with a known one, a square first."""
    height, width = sides
    if height is None and width is None:
        return [(side, side) for side in USUAL_SIDES]
    known = height or width or 0
    others = dict.fromkeys((known, *USUAL_SIDES))
    return [(height or side, width or side) for side in others]


def named_size(graph: Any, image: Any) -> Fit | None:
    """Find a size in the names of nodes: ``input_150x150``, ``image_128``."""
    texts = [image.op.name, *(op.name for op in graph.get_operations())]
    for index, text in enumerate(texts):
        for match in _SQUARE.finditer(text):
            side = int(match["side"] or (match["alone"] if not index else 0) or 0)
            if side in USUAL_SIDES and side >= _LEAST_NAMED:
                why = f"the node {text!r} tells"
                return Fit((side, side), why, "architecture")
    return None


def _skeleton(image: Any, outputs: Iterable[Any]) -> Any:
    """Copy the nodes between an image and the outputs, without their weights.

    Returns:
        A ``GraphDef``, ``None`` if it is too large or calls functions.
    """
    outputs = list(outputs)
    between = ancestors(outputs, fed=image) & descendants(image)
    if len(between) > _MOST_NODES or any(map(_calls_function, between)):
        return None
    made = v1.GraphDef(versions=image.graph.graph_def_versions)
    node = made.node.add(name=image.op.name, op="Placeholder")
    node.attr["dtype"].type = image.dtype.base_dtype.as_datatype_enum
    known: dict[str, str] = {}
    for op in image.graph.get_operations():
        if op not in between:
            continue
        copy = made.node.add()
        copy.CopyFrom(op.node_def)
        del copy.input[:]
        for tensor in op.inputs:
            inside = tensor.op in between or tensor is image
            name = tensor.name if inside else known.get(tensor.name)
            if name is None:
                name = known[tensor.name] = f"outside/{len(known)}"
                _add_outside(made, name, tensor)
            copy.input.append(name)
    return made


def _calls_function(op: Any) -> bool:
    """Return whether an op calls a function, which a skeleton does not hold."""
    kinds = {value.WhichOneof("value") for value in op.node_def.attr.values()}
    return "func" in kinds or op.op_def is None


def _add_outside(made: Any, name: str, tensor: Any) -> None:
    """Add an input that needs no image: a few constant numbers, or its shape alone."""
    node = made.node.add(name=name, op="Placeholder")
    node.attr["dtype"].type = tensor.dtype.base_dtype.as_datatype_enum
    numbers = tensor.shape.num_elements()
    if tensor.dtype.is_integer and numbers is not None and numbers <= _MOST_NUMBERS:
        value = constant(tensor)
        if value is not None:
            node.op = "Const"
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
            return
    node.attr["shape"].shape.CopyFrom(tensor.shape.as_proto())


def _count_rests(op: Any) -> int:
    """Count the axes on which an op's stride or window leaves a rest."""
    if op.type not in _STRIDED:
        return 0
    shape, after = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    if not shape or not after or len(shape) != len(op.get_attr("strides")):
        return 0
    first = 2 if op.get_attr("data_format") == b"NCHW" else 1
    return sum(
        _leaves_rest(op, axis, axis - first, shape[axis] or 0, after[axis] or 0)
        for axis in (first, first + 1)
    )


def _leaves_rest(op: Any, axis: int, index: int, side: int, after: int) -> bool:
    """Return whether an op's stride or window leaves a rest on an axis.

    Args:
        axis: of the map.
        index: 0 for its height, 1 for its width.
        side, after: of the map and of the op's output; 0 if not known.
    """
    stride = op.get_attr("strides")[axis]
    if op.type in {"MaxPool", "AvgPool"}:
        window = op.get_attr("ksize")[axis]
        if op.type == "AvgPool" and window >= _WHOLE_MAP and after > 1:
            return True
    else:
        kernel = (shape_of(op.inputs[1]) or (1, 1))[index] or 1
        window = 1 + op.get_attr("dilations")[axis] * (kernel - 1)
    padding = op.get_attr("padding")
    if padding == b"SAME":
        return bool(side % stride)
    pads = op.get_attr("explicit_paddings") if padding == b"EXPLICIT" else []
    return bool((side + sum(pads[2 * axis : 2 * axis + 2]) - window) % stride)


# Names that TensorFlow.js gives to layers that have none; nothing but Teachable Machine
# puts these two on a network in one graph.
_TEACHABLE = (
    r"dense_Dense\d+/",
    r"global_average_pooling2d_GlobalAveragePooling2D\d+/",
)
# The SqueezeNet that Custom Vision trains on, and its names of input and output.
_CUSTOM_VISION = (r"(data_bn/|fire2_squeeze1x1/)", r"Placeholder$", r"loss$")


class Crop(NamedTuple):
    """How an upload of another shape is brought to the input's size.

    Attributes:
        resize, crop_from: as in ``Signature``.
        guesses: a sentence, if it was guessed.
    """

    resize: Resize = "stretch"
    crop_from: int | None = None
    guesses: tuple[str, ...] = ()


def find_crop(
    graph: Any, size: tuple[int, int] | None, sidecar: Sidecar, export: Export
) -> Crop:
    """Find how a classifier's uploads are brought to its size.

    Args:
        graph: a ``tf.Graph``.
        size: (height, width) that it takes, ``None`` for any.
        sidecar: its word wins.
        export: facts from the files next to the graph.
    """
    if sidecar.resize or size is None:
        return Crop(sidecar.resize or "stretch")
    if export.resize:
        why = f"{' and '.join(export.told_by)} of {export.tool} tells"
        return _make_crop(export.resize, export.crop_from, size, why)
    names = [op.name for op in graph.get_operations()]
    for tool, patterns, side in (
        (TEACHABLE, _TEACHABLE, None),
        (CUSTOM_VISION, _CUSTOM_VISION, CROP_FROM),
    ):
        found = [_first_match(names, pattern) for pattern in patterns]
        if all(found):
            return _make_crop("crop", side, size, f"node {found[0]!r} is of {tool}")
    return Crop()


def _make_crop(
    resize: Resize, side: int | None, size: tuple[int, int], why: str
) -> Crop:
    """Make a crop; a part larger than the square cannot be cut out of it."""
    side = side if side and max(size) <= side else None
    if resize != "crop":
        return Crop(resize)
    through = f", by way of {side} x {side} pixels" if side else ""
    return Crop(
        resize, side, (f"the middle square of an upload is fed{through}: {why}",)
    )


def _first_match(names: list[str], pattern: str) -> str | None:
    """Return the first name that has a pattern at its start or behind a slash."""
    compiled = re.compile(rf"(?:^|/){pattern}")
    return next((name for name in names if compiled.search(name)), None)


def sampling_of(graph: Any, signature: Signature) -> Sampling | None:
    """Find how a graph's own resizer samples the image.

    Args:
        graph: a ``tf.Graph``; it is only read.
        signature: of that graph.

    Returns:
        ``None`` if the graph does not resize every image to one size, or not by a plain
        bilinear resizer, or if several resizers differ.
    """
    if signature.size is not None or signature.inner_size is None:
        return None
    image = graph.get_tensor_by_name(signature.input)
    found = {
        _resizer_sampling(op)
        for op in descendants(image)
        if op.type in RESIZERS and _resizer_size(op) == signature.inner_size
    }
    return found.pop() if len(found) == 1 else None


def _resizer_size(op: Any) -> tuple[int, ...] | None:
    value = constant(op.inputs[1])
    return None if value is None else tuple(map(int, value.reshape(-1)))


def _resizer_sampling(op: Any) -> Sampling | None:
    if op.type != "ResizeBilinear":
        return None
    if op.get_attr("align_corners"):
        return "ends"
    return "centre" if op.get_attr("half_pixel_centers") else "corner"
