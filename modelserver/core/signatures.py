"""The inputs and outputs of a graph: the facts that the rest of the server uses.

A signature is found once, when a graph is loaded (``graphs``), in the model's own
process, and crosses to the engine as a small message. It names no TensorFlow type. A
sidecar is the operator's word on facts that a graph does not show; ``docs/sidecar.md``
describes it for them.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from modelserver.core.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind: TypeAlias = str
"""A task's name; see ``tasks.TASKS``."""
RAW: Kind = "raw"
"""The kind of a graph that no task serves, and that is fed numbers alone."""
Layout = Literal[
    "NHWC",
    "HWC",
    "NCHW",
    "CHW",
    "NHW",
    "HW",
    "flat",
    "flat_CHW",
    "encoded",
    "encoded_batch",
]
Resize = Literal["stretch", "crop", "pad"]
BoxOrder = Literal["yxyx", "xyxy"]
Sampling = Literal["corner", "centre", "ends"]
"""Where a plain bilinear resizer looks for output pixel i of n, among m input pixels:
``corner`` at i m / n, ``centre`` at (i + 1/2) m / n - 1/2, ``ends`` at
i (m - 1) / (n - 1). TensorFlow's neither, half_pixel_centers and align_corners."""
# The sources that may know how a graph wants its pixels; the first that speaks wins.
Source = Literal[
    "sidecar", "arithmetic", "export files", "architecture", "statistics", "default"
]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence for how a graph is fed its pixels, or at which size. Immutable.

    Attributes:
        source: which evidence it was; ``from`` in JSON. ``default`` stands for a guess.
        why: its words, for a sentence.
        against: contradictions of later evidence, a sentence each.
        formerly: how the last version fed it, if that was different.
    """

    source: Source = msgspec.field(name="from")
    why: str = ""
    against: tuple[str, ...] = ()
    formerly: str = ""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """How to feed a graph and which tensors to fetch. Immutable, so safe to share.

    Attributes:
        kind: which task the graph does.
        input: name of the tensor to feed, e.g. ``image_tensor:0``.
        dtype: NumPy name of the fed tensor's dtype, e.g. ``uint8``, ``float32``;
            ``string`` for the encoded layouts.
        layout: ``NHWC`` a batch of images; ``HWC`` one image without a batch axis;
            ``NCHW`` and ``CHW`` the same, channels first; ``NHW`` and ``HW`` gray ones
            without an axis for channels; ``flat`` a batch of rows of all an image's
            numbers, pixel by pixel, and ``flat_CHW`` channel by channel;
            ``encoded`` one scalar string; ``encoded_batch`` a vector of strings.
        channels: 3 (RGB) or 1 (gray) that the graph takes.
        size: ``(height, width)`` in pixels that the graph must be fed with, or
            ``None`` when it takes any size.
        sizing: the evidence for ``size``; ``None`` if the graph itself fixes it, or
            takes any.
        inner_size: ``(height, width)`` to which the graph itself resizes its input, or
            ``None`` if it does not or this is not known. An image with fewer pixels
            than the upload may be fed as long as both sides stay at least twice this.
        bgr: the channels are fed in the order blue, green, red.
        mean, scale: the graph is fed ``(pixel - mean) * scale`` for pixels 0..255; one
            value or one a channel, in the order in which they are fed. Not used for
            uint8 and encoded inputs.
        scaling: the evidence for ``mean``, ``scale`` and ``bgr``; ``None`` if the input
            takes the pixels' bytes, or a file, as they are.
        resize: how an upload of another shape is brought to ``size``.
        crop_from: for ``crop``, the side in pixels that the middle square is brought to
            before ``size`` is cut out of its middle, as Custom Vision's own code does;
            ``None`` brings the middle to ``size`` at once.
        outputs: role to tensor name. Detection: ``boxes`` float32 [N, M, 4] (ymin xmin
            ymax xmax, 0..1), ``scores`` float32 [N, M], ``classes`` [N, M] and, if the
            graph has it, ``count`` [N]. Classification: ``scores`` with one value a
            class, any rank.
        feeds: tensor name to the constant to feed besides the image, such as
            ``{"keep_prob:0": 1.0}``; of the tensor's own dtype, without an axis.
        softmax: the classifier's output are logits; the server applies a softmax.
        sigmoid: as ``softmax``, but each value is the logit of a probability of its
            own.
        independent: the classifier's classes do not exclude each other. If ``classes``
            is 1 the label map decides: two labels exclude each other.
        batch: images one run takes at most; 1 for a graph with a fixed batch of one,
            0 if the graph sets no limit.
        fill: images that a run must have, if the graph was exported for a number of
            them; fewer are filled up with copies. 0 if it takes any number or one.
        classes: number of a classifier's outputs; ``None`` when not known.
        box_order: how a detector's boxes are written: ymin xmin ymax xmax, or the
            other way, xmin ymin xmax ymax.
        first_class: the number of a detector's first class, if the graph shows it.
        label_offset: from the sidecar: label id = output index + label_offset; ``None``
            leaves the choice to the label map's ids.
        guesses: a sentence for each guess, for the log and ``/models``.
    """

    kind: Kind
    input: str
    dtype: str
    layout: Layout
    channels: int = 3
    size: tuple[int, int] | None = None
    sizing: Evidence | None = None
    inner_size: tuple[int, int] | None = None
    bgr: bool = False
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    scaling: Evidence | None = None
    resize: Resize = "stretch"
    crop_from: int | None = None
    outputs: dict[str, str]
    feeds: dict[str, bool | int | float] = {}
    softmax: bool = False
    sigmoid: bool = False
    independent: bool = False
    batch: int = 0
    fill: int = 0
    classes: int | None = None
    box_order: BoxOrder = "yxyx"
    first_class: int | None = None
    label_offset: int | None = None
    guesses: tuple[str, ...] = ()


MAX_SIDECAR_BYTES = 1 << 20
MAX_SIDE = 8192
MAX_LABEL_OFFSET = 100_000


class DetectionOutputs(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Names of a detector's output tensors, as a sidecar gives them.

    Attributes:
        boxes, scores, classes: as in ``Signature.outputs``.
        count: the number of valid rows; absent if the graph has none.
    """

    boxes: str
    scores: str
    classes: str
    count: str | None = None


class Sidecar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's facts about a graph from ``<prefix>.json``. Immutable.

    Every field is optional; ``None`` leaves the fact to the graph, then to a guess.

    Attributes:
        input: name of the tensor or node that takes the image.
        output: a classifier's tensor or node of class scores; for a detector the names
            of its parts.
        size: ``[height, width]`` in pixels, or one number for a square.
        mean, scale: the graph is fed ``(pixel - mean) * scale``, pixels 0..255; one
            number or one a channel. If only one is given the other is 0 or 1.
        channels: 3 (RGB), 1 (gray), or ``bgr``.
        resize: how an upload of another shape is brought to ``size``.
        label_offset: label id = output index + label_offset; for a detector label id =
            class + label_offset.
        box_order: how a detector's boxes are written; see ``Signature``.
        independent: a classifier's classes do not exclude each other, or do.
    """

    input: str | None = None
    output: str | DetectionOutputs | None = None
    size: int | tuple[int, ...] | None = None
    mean: float | tuple[float, ...] | None = None
    scale: float | tuple[float, ...] | None = None
    channels: Literal[1, 3, "bgr"] | None = None
    resize: Resize | None = None
    label_offset: int | None = None
    independent: bool | None = None
    box_order: BoxOrder | None = None

    def __post_init__(self) -> None:
        """Check the values; msgspec turns the error into one of its own.

        By hand and not by ``msgspec.Meta``: limits on both sides of a union of a number
        and a tuple share one slot inside msgspec 0.22, which then reads wild memory.
        """
        for reason in self._faults():
            raise ValueError(reason)

    def _faults(self) -> Iterator[str]:
        """Return the faults of the values, key first."""
        if self.size is not None and not _is_size(self.size):
            yield f"size: expected [height, width] or one number, each 1..{MAX_SIDE}"
        for key in ("mean", "scale"):
            numbers = _as_tuple(getattr(self, key))
            if numbers is not None and len(numbers) not in {1, self._channel_count}:
                yield f"{key}: expected one number or one a channel"
        if 0.0 in (_as_tuple(self.scale) or ()):
            yield "scale: expected numbers other than 0"
        if abs(self.label_offset or 0) > MAX_LABEL_OFFSET:
            yield f"label_offset: expected at most {MAX_LABEL_OFFSET} either way"

    @property
    def _channel_count(self) -> int:
        return 1 if self.channels == 1 else 3

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as ``(height, width)`` in pixels, ``None`` if it is not given."""
        if isinstance(self.size, int):
            return self.size, self.size
        return None if self.size is None else (self.size[0], self.size[1])

    @property
    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """``(mean, scale)`` as tuples, ``None`` if neither is given."""
        if self.mean is None and self.scale is None:
            return None
        return _as_tuple(self.mean) or (0.0,), _as_tuple(self.scale) or (1.0,)


def _as_tuple(value: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Make one number a tuple of one; leave a tuple and ``None`` as they are."""
    return (float(value),) if isinstance(value, (int, float)) else value


def _is_size(size: int | tuple[int, ...]) -> bool:
    """Return whether this is one side or two, each within the limits."""
    sides = (size, size) if isinstance(size, int) else size
    return len(sides) == 2 and all(1 <= side <= MAX_SIDE for side in sides)  # noqa: PLR2004 - height and width


def read_sidecar(path: Path) -> Sidecar:
    """Read and check a sidecar; safe from any thread.

    Args:
        path: the JSON file, UTF-8 with or without a byte order mark.

    Raises:
        SidecarError: the file cannot be read or a key is not allowed; its message names
            the key and its expected value.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as err:
        raise SidecarError(path, f"cannot be read: {err.strerror}") from err
    if len(data) > MAX_SIDECAR_BYTES:
        raise SidecarError(path, "has more than 1 MiB; a sidecar is a few lines")
    try:
        return msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=Sidecar)
    except UnicodeDecodeError as err:
        raise SidecarError(path, "is not UTF-8 text") from err
    except (msgspec.DecodeError, RecursionError) as err:
        raise SidecarError(path, _explain(str(err))) from err


def _explain(message: str) -> str:
    """Turn msgspec's message round, so that it starts with the key."""
    text, _, where = message.partition(" - at `$")
    key = where.strip("`.")
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        known = DetectionOutputs if key else Sidecar
        keys = ", ".join(known.__struct_fields__)
        key, text = unknown[1], f"not a key here; the keys are {keys}"
    elif text.startswith("Invalid enum value"):
        text = f"{text[19:]} is not one of {_CHOICES.get(key, '')}"
    elif not key and ": expected" not in text:
        text = f"not a JSON object as it should be ({text})"
    text = text.replace("`", "").replace("Expected", "expected").replace(" | ", " or ")
    return f"{key}: {text}" if key else text


_CHOICES = {
    "box_order": '"yxyx", "xyxy"',
    "channels": '1, 3, "bgr"',
    "resize": '"stretch", "crop", "pad"',
}
