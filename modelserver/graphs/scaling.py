"""Guess how a graph wants its pixels scaled, and to which size.

A graph does not say it. What does, in this order: arithmetic on the pixels inside the
graph, the node names of a known architecture, and else the commonest habit, [-1, 1].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelserver.graphs.walking import Pixels
    from modelserver.signatures import Source


@dataclass(frozen=True)
class Scaling:
    """What is fed: ``(pixel - mean) * scale`` for pixels 0..255.

    Attributes:
        mean, scale: one number or one a channel, in the order of the channels fed.
        bgr: the channels are fed as blue, green, red.
        size: side in pixels of the square that the architecture is used with.
        why: how this is known, for a sentence; empty where nothing was guessed.
        source: which evidence says it.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    bgr: bool = False
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
# LITE: efficientnet-lite's MEAN_RGB 127 and STDDEV_RGB 128.
_LITE = ((127.0,), (1 / 128,))

# Node name patterns, the first that matches some node wins: what it is; mean and scale;
# BGR; the side in pixels. Sources: slim's preprocessing_factory and its README (ResNet
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
)
DEFAULT_SIDE = 224


def known_architecture(graph: Any) -> Scaling | None:
    """Recognise an architecture by its node names; ``None`` where none matches."""
    names = "\n".join(op.name for op in graph.get_operations())
    for pattern, what, (mean, scale), bgr, side in _ARCHITECTURES:
        match = re.search(pattern, names, re.MULTILINE)
        if match:
            size = int(match.groupdict().get("side") or side)
            node = names[names.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
            why = f"node {node!r} is of {what}"
            return Scaling(mean, scale, bgr, size, why, "architecture")
    return None


def inner_scaling(ends: list[Pixels]) -> Scaling | None:
    """Read the range that a graph's own arithmetic on the pixels expects.

    A graph that subtracts about a hundred or divides by about a hundred takes 0..255;
    one that doubles and subtracts one, or divides by a deviation below one, takes 0..1;
    one that multiplies by 255 too; and one that adds and multiplies by 127.5 takes
    [-1, 1].

    Args:
        ends: what ``follow_pixels`` gave.

    Returns:
        ``None`` where the graph does no arithmetic on them.
    """
    for pixels in ends:
        factor = float(np.max(np.abs(pixels.factor)))
        shift = float(np.max(np.abs(pixels.shift)))
        if (factor, shift) == (1.0, 0.0) or not np.isfinite(factor + shift):
            continue
        found = RAW
        if factor >= _TO_BYTES:
            lowest = -float(np.mean(pixels.shift / pixels.factor))
            found = SYMMETRIC if lowest <= _BELOW_UNIT else UNIT
        elif factor >= _OF_UNIT and shift <= _OF_UNIT_SHIFT:
            found = UNIT
        why = "the graph scales on from there"
        return Scaling(found.mean, found.scale, why=why, source="arithmetic")
    return None


# A factor of at least this turns a small range into 0..255, or that less a mean; what
# becomes 0 is then at least 0, unless the range is [-1, 1], where -1 does.
_TO_BYTES = 100.0
_BELOW_UNIT = -0.5
# Of 0..255 a sane normalisation makes at most some units: a factor below 0.1, unless
# it only subtracts a mean, whose shift is then near a hundred.
_OF_UNIT = 0.1
_OF_UNIT_SHIFT = 10.0


def formula(scaling: Scaling) -> str:
    """Write a scaling as a formula for the log."""
    mean = ", ".join(f"{number:g}" for number in scaling.mean)
    scale = ", ".join(f"{number:.6g}" for number in scaling.scale)
    return f"({'BGR ' if scaling.bgr else ''}pixel - [{mean}]) * [{scale}]"
