"""Read how a graph wants its pixels scaled from its own arithmetic or its names.

:mod:`modelserver.runner.graphs.evidence` weighs them against the other evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelserver.core.signatures import Source
    from modelserver.runner.graphs.pixels import Pixels


@dataclass(frozen=True)
class Scaling:
    """A scaling of pixels 0..255: ``(pixel - mean) * scale`` is fed.

    Attributes:
        mean, scale: one number or one a channel, in the order of the channels fed.
        bgr: the channels are fed as blue, green, red; ``None`` if that is not known.
        size: side in pixels of the square that the architecture is used with.
        why: how this is known, for a sentence; empty if nothing was guessed.
        source: the kind of evidence.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    bgr: bool | None = None
    size: int | None = None
    why: str = ""
    source: Source = "default"


RAW = Scaling((0.0,), (1.0,))
UNIT = Scaling((0.0,), (1 / 255,))
SYMMETRIC = Scaling((127.5,), (1 / 127.5,))

_INCEPTION = ((127.5,), (1 / 127.5,))
# RETRAIN: retrain.py and label_image.py, input_mean = input_std = 128.
_RETRAIN = ((128.0,), (1 / 128,))
# VGG: slim's vgg_preprocessing, _R_MEAN, _G_MEAN, _B_MEAN.
_VGG = ((123.68, 116.78, 103.94), (1.0,))
# CAFFE: keras.applications' imagenet_utils, mode "caffe": BGR, no scale.
_CAFFE = ((103.939, 116.779, 123.68), (1.0,))
# TORCH: the same, mode "torch", and efficientnet's MEAN_RGB and STDDEV_RGB; times 255.
_TORCH = (
    (0.485 * 255, 0.456 * 255, 0.406 * 255),
    (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255)),
)
# SQUEEZE: Custom Vision's own sample for Android subtracts these where the export, as
# those before May 2018, has no normalisation ("data_bn"), and feeds blue first; its
# domain "Retail" subtracts nothing, which no node tells.
_SQUEEZE = ((104.0, 117.0, 123.0), (1.0,))
SQUEEZE_NODE = "Custom Vision's SqueezeNet"
# LITE: efficientnet-lite's MEAN_RGB 127 and STDDEV_RGB 128.
_LITE = ((127.0,), (1 / 128,))

TORCH = Scaling(*_TORCH, bgr=False)
CAFFE = Scaling(*_CAFFE, bgr=True)

# Node name patterns, the first that matches some node wins: name; mean and scale; BGR;
# the side in pixels. Sources: slim's preprocessing_factory and its README (ResNet
# v2 takes Inception's), keras.applications' preprocess_input of each, tpu/efficientnet.
_ARCHITECTURES: tuple[
    tuple[str, str, tuple[tuple[float, ...], tuple[float, ...]], bool, int], ...
] = (
    (
        r"mobilenet_?v?[123]?_\d\.\d\d_(?P<side>\d{2,3})",
        "Keras MobileNet",
        _INCEPTION,
        False,
        224,
    ),
    (r"MobilenetV[123]/", "slim MobileNet", _INCEPTION, False, 224),
    (r"InceptionV[12]/", "slim Inception v1 or v2", _INCEPTION, False, 224),
    (r"InceptionV[34]/", "slim Inception v3 or v4", _INCEPTION, False, 299),
    (r"InceptionResnetV2/", "slim Inception-ResNet v2", _INCEPTION, False, 299),
    (r"(^|/)cell_stem_\d/", "slim NASNet", _INCEPTION, False, 331),
    (r"resnet_v1_\d+/", "slim ResNet v1", _VGG, False, 224),
    (r"resnet_v2_\d+/", "slim ResNet v2", _INCEPTION, False, 299),
    (r"vgg_(a|16|19)/", "slim VGG", _VGG, False, 224),
    (r"efficientnet[-_]lite\d", "EfficientNet-Lite", _LITE, False, 224),
    (r"efficientnet[-_]b\d|mnasnet", "EfficientNet", _TORCH, False, 224),
    (r"(^|/)mixed_10/", "Inception v3 of 2015", _RETRAIN, False, 299),
    (r"(^|/)mixed10(_\d+)?(/|$)", "Keras Inception v3", _INCEPTION, False, 299),
    (r"(^|/)block35_1", "Keras Inception-ResNet v2", _INCEPTION, False, 299),
    (r"(^|/)block2_sepconv1", "Keras Xception", _INCEPTION, False, 299),
    (r"(^|/)normal_conv_1_", "Keras NASNet", _INCEPTION, False, 224),
    (
        r"(^|/)(conv_dw_1|block_1_expand)(_\d+)?(/|$)",
        "Keras MobileNet",
        _INCEPTION,
        False,
        224,
    ),
    (r"densenet|(^|/)conv2_block1_concat", "Keras DenseNet", _TORCH, False, 224),
    (r"(^|/)conv2_block1_preact", "Keras ResNet v2", _INCEPTION, False, 224),
    (r"(^|/)(conv2_block1_out|res2a_branch2a)", "Keras ResNet", _CAFFE, True, 224),
    (r"(^|/)block1_conv1(_\d+)?(/|$)", "Keras VGG", _CAFFE, True, 224),
    (
        r"(^|/)fire2_squeeze1x1(/|$)",
        SQUEEZE_NODE,
        _SQUEEZE,
        True,
        227,
    ),
)


def known_architecture(graph: Any) -> Scaling | None:
    """Recognise an architecture by its node names; ``None`` if none matches."""
    names = "\n".join(op.name for op in graph.get_operations())
    for pattern, what, (mean, scale), bgr, side in _ARCHITECTURES:
        match = re.search(pattern, names, re.MULTILINE)
        if match:
            size = int(match.groupdict().get("side") or side)
            node = names[names.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
            why = f"node {node!r} is of {what}"
            return Scaling(mean, scale, bgr, size, why, "architecture")
    return None


# Depthwise convolutions of MobileNet v1 and v2; both have ReLU6 behind them.
_SEPARABLE = {13: "MobileNet v1", 17: "MobileNet v2"}


def known_layers(graph: Any) -> Scaling | None:
    """Recognise a MobileNet whose nodes have lost their names, by its layers.

    Exports to TensorFlow Lite and back keep layers only. Those of slim and of Keras,
    which all public weights come from, take [-1, 1]; PyTorch's keep their batch
    normalisations, which are evidence themselves.
    """
    kinds = Counter(op.type for op in graph.get_operations())
    what = _SEPARABLE.get(kinds["DepthwiseConv2dNative"])
    if what is None or kinds["Relu6"] < 2 * kinds["DepthwiseConv2dNative"] - 1:
        return None
    why = f"its layers are those of {what}"
    return Scaling(*_INCEPTION, bgr=False, size=224, why=why, source="architecture")


def inner_scaling(ends: list[Pixels]) -> Scaling | None:
    """Read the range and the order that a graph's own arithmetic on the pixels expects.

    A first normalisation's stored mean and deviation show the range; other arithmetic
    shows it by the values that become 0, and by the divisor.

    Args:
        ends: of the walk by ``follow_pixels``.

    Returns:
        ``None`` if the graph does no arithmetic on them, or none that shows a range.
    """
    for pixels in ends:
        if pixels.first is not None:
            mean, deviation = pixels.first.mean, pixels.first.deviation
            order, found = pixels.first.order, _range_by_statistics(mean, deviation)
            what = "the graph's first normalisation has"
        else:
            with np.errstate(all="ignore"):
                mean, deviation = -pixels.shift / pixels.factor, 1 / pixels.factor
            deviation, order = np.abs(deviation), pixels.order
            found = _range_by_arithmetic(np.asarray(mean), np.asarray(deviation))
            what = "the graph scales on from there:"
        if found is not None:
            bgr = _blue_first(np.asarray(mean), np.asarray(deviation), order, found)
            numbers = f"mean {_format_numbers(mean)}, deviation "
            why = f"{what} {numbers}{_format_numbers(deviation)}"
            if bgr is not None:
                why += f", whose order is {'BGR' if bgr else 'RGB'}"
            return Scaling(found.mean, found.scale, bgr, None, why, "arithmetic")
    return None


# A mean above this is no fraction; a photo's mean in 0..1, in [-1, 1].
_OF_BYTES = 20.0
_UNIT_MEAN, _SYMMETRIC_MEAN = (0.3, 0.6), (-0.25, 0.25)
# Deviations of photos' pixels in 0..1 and in [-1, 1].
_UNIT_DEVIATION, _SYMMETRIC_DEVIATION = (0.15, 0.4), (0.3, 0.8)


def _range_by_statistics(mean: Any, deviation: Any) -> Scaling | None:
    """Find the range by the mean and deviation of the pixels in training."""
    middle, width = float(np.mean(mean)), float(np.mean(deviation))
    if middle > _OF_BYTES:
        return RAW
    if _within(middle, _UNIT_MEAN) and _within(width, _UNIT_DEVIATION):
        return UNIT
    if _within(middle, _SYMMETRIC_MEAN) and _within(width, _SYMMETRIC_DEVIATION):
        return SYMMETRIC
    return None


# Dividing 0..1 by this or more leaves next to nothing; multiplying by a hundred or more
# turns a small range into bytes.
_TO_UNITS = 10.0
_TO_BYTES = 0.01
# About the middle of 0..1, and the lower end of [-1, 1].
_HALF, _BELOW = (0.2, 0.8), (-1.05, -0.95)


def _range_by_arithmetic(zero: Any, deviation: Any) -> Scaling | None:
    """Find the range by the values that become 0, and the divisor.

    Args:
        zero: the values that become 0, one a channel.
        deviation: the divisor.
    """
    middle, width = float(np.mean(zero)), float(np.max(deviation))
    if not np.isfinite(middle + width) or (middle, width) == (0.0, 1.0):
        return None
    if width <= _TO_BYTES:
        return SYMMETRIC if middle <= -0.5 else UNIT  # noqa: PLR2004 - between -1 and 0
    if middle > _OF_BYTES or width > _TO_UNITS:
        return RAW
    if zero.size > 1 and (found := _range_by_statistics(zero, deviation)) is not None:
        return found
    if _within(middle, _HALF):
        return UNIT
    return SYMMETRIC if _within(middle, _BELOW) else None


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


# Of the deviation; and if only a mean is subtracted, four levels of 0..255.
_APART, _LEVELS = 0.1, 4.0


def _blue_first(
    mean: Any, deviation: Any, order: tuple[int, ...] | None, found: Scaling
) -> bool | None:
    """Return whether blue is fed first, by the means: photos have more red than blue.

    Args:
        mean, deviation: in the order in which the channels reach the normalisation.
        order: which channels of the input those are.
        found: the range.

    Returns:
        ``None`` if the means are flat, or not of three channels.
    """
    positions = order or (0, 1, 2)
    if mean.size != len(positions) or sorted(positions) != [0, 1, 2]:
        return None
    fed = np.empty(3)
    fed[list(positions)] = mean
    rise = float(fed[2] - fed[0])
    threshold = max(_APART * float(np.mean(deviation)), _LEVELS * found.scale[0])
    return None if abs(rise) < threshold else rise > 0


def _format_numbers(values: Any) -> str:
    """Write some numbers for a sentence."""
    rounded = [f"{value:.4g}" for value in np.ravel(values).tolist()]
    return rounded[0] if len(set(rounded)) == 1 else f"[{', '.join(rounded)}]"


def formula(scaling: Scaling) -> str:
    """Write a scaling as a formula for the log."""
    mean = ", ".join(f"{number:g}" for number in scaling.mean)
    scale = ", ".join(f"{number:.6g}" for number in scaling.scale)
    return f"({'BGR ' if scaling.bgr else ''}pixel - [{mean}]) * [{scale}]"
