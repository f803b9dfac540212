"""Infer from a network's own normalisations which pixels it was trained with.

A batch normalisation keeps the mean and the variance of its input in training. Right
behind the first convolution they show, in closed form, the mean pixel of the training
pictures and how large a step of one level was (rule A). Behind an activation or a few
layers more, the moments of photos in each candidate's range, run through the layers,
are compared with the stored ones (rule B). Networks that were trained on documents,
digits or X-rays rather than photos can be misread, so only the habit is weaker
evidence.

The second moments were measured on 64 photos of COCO's val2017, pixels 0..255, reduced
to 48, 96 and 224 a side. No photo is kept and none is made: the first layers are run on
patches drawn from these moments, always the same.

The thresholds and how often they are right: docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.layers import run_layers
from modelserver.runner.graphs.pixels import follow_pixels
from modelserver.runner.graphs.scaling import (
    CAFFE,
    RAW,
    SYMMETRIC,
    TORCH,
    UNIT,
    Scaling,
)
from modelserver.runner.graphs.traversal import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from modelserver.runner.graphs.pixels import Pixels

    Array = NDArray[np.float64]

MEAN_LEVEL = 115.0
"""Mean of all pixels of photos; ``MEANS`` by channel, red first."""
MEANS = np.array([120.4, 115.5, 106.7])
# Principal colours, and the deviation of each: brightness, red less blue, green.
_PRINCIPAL_COLOURS = np.array(
    [[0.55, 0.59, 0.60], [0.71, 0.05, -0.70], [0.44, -0.81, 0.39]]
)
_DEVIATIONS = (113.0, 32.0, 13.0)
_GRAY_DEVIATION = 65.0
# How much of a colour's variance two pixels do not share, by their distance in pixels,
# for a picture of 224 a side; red less blue has the third part less.
_DISTANCES = (0.0, 1.0, 1.414, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 24.0, 48.0)
_UNSHARED = (0.0, 0.0277, 0.0478, 0.0684, 0.102, 0.131, 0.18, 0.221, 0.29, 0.42, 0.6)
_OF_COLOUR = (1.0, 0.66, 1.0)
# Smaller pictures of the same things fall off faster: as the root of the side.
_SIDE, _FALL = 224.0, 0.52
_SEED = 20261128


def correlate(distance: Any, side: float, colour: int) -> Array:
    """Return the correlation of two pixels, for one principal colour.

    Args:
        distance: between them, in pixels.
        side: of the picture that they are of, in pixels.
        colour: 0 brightness, 1 red less blue, 2 green.
    """
    unshared = np.interp(distance, _DISTANCES, _UNSHARED) * _OF_COLOUR[colour]
    correlation: Array = 1 - np.minimum(unshared * (_SIDE / side) ** _FALL, 0.95)
    return correlation


def filter_variances(kernel: Any, side: float) -> Array:
    """Return the variance of each filter's output on photos of 0..255.

    Args:
        kernel: ``[height, width, 3 or 1, filters]``, red first.
        side: of the picture, in pixels.
    """
    kernel = np.asarray(kernel, np.float64)
    height, width, depth, filters = kernel.shape
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    colours = [(_GRAY_DEVIATION, np.ones(1))]
    if depth > 1:
        colours = list(zip(_DEVIATIONS, list(_PRINCIPAL_COLOURS), strict=True))
    total = np.zeros(filters)
    for colour, (deviation, mix) in enumerate(colours):
        taps = np.tensordot(kernel, mix, ([2], [0])).reshape(-1, filters)
        alike = correlate(distance, side, colour)
        total += deviation**2 * ((alike @ taps) * taps).sum(axis=0)
    varied: Array = np.maximum(total, 0)
    return varied


def draw_patches(count: int, size: int, side: float, depth: int) -> Array:
    """Draw patches with the moments of photos, 0..255 and a little beyond.

    Args:
        count: how many, an even number.
        size: sides of each.
        side: of the picture that each is cut from.
        depth: 3 (red first) or 1.

    Returns:
        ``[count, size, size, depth]``, the same for the same arguments.
    """
    draw = np.random.default_rng(_SEED)
    # On a torus of twice the sides, whose spectrum is its correlation's.
    positions = np.fft.fftfreq(2 * size) * 2 * size
    distance = np.hypot(positions[:, None], positions)
    pixels = np.zeros((count, size, size, 3))
    for colour, deviation in enumerate(_DEVIATIONS):
        power = np.fft.fft2(correlate(distance, side, colour)).real
        noise = draw.standard_normal((count // 2, 2 * size, 2 * size))
        # Each with its opposite, so that few have the mean.
        noise = np.concatenate([noise, -noise])
        waves = np.fft.fft2(noise) * np.sqrt(np.maximum(power, 0))
        part = np.fft.ifft2(waves).real[:, :size, :size]
        pixels += deviation * part[..., None] * _PRINCIPAL_COLOURS[colour]
    pixels = np.clip(pixels + MEANS, 0, 255)
    made: Array = pixels.mean(-1, keepdims=True) if depth == 1 else pixels
    return made


# Candidates by their names in sentences.
CANDIDATES: dict[str, Scaling] = {
    "0..255": RAW,
    "0..1": UNIT,
    "[-1, 1]": SYMMETRIC,
    "torch": TORCH,
    "caffe": CAFFE,
}
_COLOURS = 3
# Rule A: tolerances, an octave's half of the gain and levels of the mean pixel; the
# largest distance that is a verdict, and the least lead over the next candidate.
_OCTAVES, _LEVELS = 0.5, 35.0
_FITS, _LEADS = 2.0, 3.0
# The means' fit may be off by so much of a deviation.
_RESIDUAL = 0.35
# Rule B: the same of its distance, behind one convolution and behind more; over so
# many normalisations, the first of them behind so many convolutions at most.
_NEAR, _NEAR_IN_DEPTH, _AHEAD = 0.5, 0.25, 0.25
_LAYERS, _DEEPEST = 3, 3
_PATCHES, _PATCH = 8, 26
# The mean pixel's red less its blue, in levels, that tells an order.
_TINT = 6.0
_USUAL_SIDE = 224.0
# No weight that was trained, nor a factor on pixels, is as large.
_LARGEST = 1e9


@dataclass(frozen=True)
class Verdict:
    """The result of the statistics.

    Attributes:
        scaling: how it was trained; ``None`` if they are silent.
        blue_first: which order the mean pixel suggests: a hint only.
        why: with the numbers.
    """

    scaling: Scaling | None
    blue_first: bool | None
    why: str


def judge_training(ends: list[Pixels], *, thorough: bool = True) -> Verdict | None:
    """Infer which pixels a network was trained with.

    Args:
        ends: of the walk by ``follow_pixels`` from its image.
        thorough: try rule B if rule A does not apply, for up to half a second more.

    Returns:
        ``None`` if there is no such normalisation.
    """
    for pixels in ends:
        stem = _stem(pixels)
        if stem is None:
            continue
        verdict = _judge_by_means(stem)
        # Where rule A can judge and finds no photos, rule B would only guess.
        return _judge_by_layers(stem) if verdict is None and thorough else verdict
    return None


@dataclass(frozen=True)
class _Stem:
    """A network's first convolution.

    Attributes:
        op: its op.
        kernel: ``[height, width, channels, filters]``, in the order fed.
        pixels: at its input.
        side: of the image that it is fed, in pixels.
    """

    op: Any
    kernel: Any
    pixels: Pixels
    side: float


def _stem(pixels: Pixels) -> _Stem | None:
    """Find the convolution that the pixels end at."""
    op = pixels.end
    if op.type != "Conv2D" or op.get_attr("data_format") != b"NHWC":
        return None
    kernel = constant(op.inputs[1])
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] not in {1, _COLOURS}:  # noqa: PLR2004 - a filter's axes
        return None
    order = pixels.order or tuple(range(kernel.shape[2]))
    if sorted(order) != list(range(kernel.shape[2])) or not np.isfinite(kernel).all():
        return None
    shape = shape_of(op.inputs[0]) or (None, None)
    side = float(pixels.resized[0] if pixels.resized else shape[1] or _USUAL_SIDE)
    # In the order in which the graph is fed, not in which the channels come here.
    kernel = kernel[:, :, np.argsort(order)]
    factor, shift = (
        np.broadcast_to(number, (len(order),))[np.argsort(order)]
        for number in (pixels.factor, pixels.shift)
    )
    # Beyond the largest float32, squares and sums of the feed overflow.
    numbers = np.concatenate([factor, shift, np.ravel(np.abs(kernel).max(initial=0))])
    if not np.all(factor) or not (np.abs(numbers) < _LARGEST).all():
        return None
    return _Stem(op, kernel, replace(pixels, factor=factor, shift=shift), side)


def _candidates(depth: int) -> Iterator[tuple[str, Scaling]]:
    """Return the candidates for so many channels."""
    for name, scaling in CANDIDATES.items():
        if max(len(scaling.mean), len(scaling.scale)) <= depth:
            yield name, scaling


def _judge_by_means(stem: _Stem) -> Verdict | None:
    """Apply rule A: the mean pixel by least squares, the gain by the variances."""
    # Of a pair, one for training and one for inference, only the latter stores.
    behind = (pixels.first for pixels in follow_pixels(stem.op.outputs[0]))
    first = next((norm for norm in behind if norm is not None), None)
    depth, filters = stem.kernel.shape[2:]
    if first is None or np.size(first.mean) != filters or filters < depth + 2:
        return None
    mean, deviation = np.ravel(first.mean), np.ravel(first.deviation)
    made = filter_variances(stem.kernel, stem.side)
    alive = (made > 1e-6 * made.max()) & (deviation > 1e-6 * deviation.max())
    if alive.sum() < depth + 2 or not np.isfinite(mean).all():
        return None
    taps = stem.kernel.sum(axis=(0, 1)).T[alive]
    rows, wanted = taps / deviation[alive, None], mean[alive] / deviation[alive]
    pixel, *_ = np.linalg.lstsq(rows, wanted, rcond=1e-3)
    residual = float(np.sqrt(np.mean((rows @ pixel - wanted) ** 2)))
    ratio = np.median(np.log(deviation[alive] ** 2 / made[alive]))
    factor, shift = stem.pixels.factor, stem.pixels.shift
    gain = float(np.exp(ratio / 2) / np.mean(np.abs(factor)))
    pixel = (pixel - shift) / factor
    return _judge_distances(pixel, gain, residual, depth)


def _judge_distances(pixel: Any, gain: float, residual: float, depth: int) -> Verdict:
    """Compare a mean pixel and a gain with those of each candidate."""
    distances = []
    for name, scaling in _candidates(depth):
        scale = np.broadcast_to(scaling.scale, (depth,))
        level = float(np.mean(pixel / scale + np.asarray(scaling.mean)))
        octaves = np.log2(gain / np.mean(scale)) / _OCTAVES
        levels = (level - MEAN_LEVEL) / _LEVELS
        distances.append((float(octaves**2 + levels**2), name))
    (best, name), (second, _) = sorted(distances)[:2]
    numbers = ", ".join(f"{value:.3g}" for value in pixel)
    why = (
        f"its first normalisation saw a mean pixel of [{numbers}] and steps of "
        f"1/{1 / gain:.3g} a level: {name} at a distance of {best:.2g}, the next at "
        f"{second:.2g}"
    )
    sure = best < _FITS and second - best > _LEADS and residual < _RESIDUAL
    if not sure:
        return Verdict(None, None, why)
    scaling = CANDIDATES[name]
    tint = None
    if depth == _COLOURS and len(scaling.mean) == 1:
        tint = float(pixel[0] - pixel[2]) / scaling.scale[0]
    blue = None if tint is None or abs(tint) < _TINT else tint < 0
    chosen = replace(scaling, why=why, source="statistics")
    return Verdict(chosen, blue, why)


def _judge_by_layers(stem: _Stem) -> Verdict | None:
    """Apply rule B: compare photos' moments with the first normalisations'."""
    depth = stem.kernel.shape[2]
    patches = draw_patches(_PATCHES, _PATCH, stem.side, depth)
    distances, near = [], _NEAR
    for name, scaling in _candidates(depth):
        fed = (patches - np.asarray(scaling.mean)) * np.asarray(scaling.scale)
        here = fed * stem.pixels.factor + stem.pixels.shift
        found = _distance(stem, here)
        if found is None or not np.isfinite(found[0]):
            return None
        distances.append((found[0], name))
        near = _NEAR if found[1] <= 1 else _NEAR_IN_DEPTH
    (best, name), (second, _) = sorted(distances)[:2]
    why = (
        f"its first normalisations stored what photos in {name} bring: at a distance "
        f"of {best:.2g}, the next at {second:.2g}"
    )
    if best >= near or second - best <= _AHEAD:
        return Verdict(None, None, why)
    chosen = replace(CANDIDATES[name], why=why, source="statistics")
    return Verdict(chosen, None, why)


def _distance(stem: _Stem, values: Any) -> tuple[float, int] | None:
    """Return the distance between stored moments and those that values lead to.

    Over channels the median of log(1 + the symmetric Kullback-Leibler divergence): an
    activation may have left some of them dead. Over the normalisations the mean.

    Returns:
        That, and how many convolutions stand in front of the first.
    """
    found: list[float] = []
    depth = 0
    with np.errstate(all="ignore"):
        for reached in run_layers(stem.op, values):
            depth = depth or reached.depth
            if depth > _DEEPEST:
                return None
            flat = reached.values.reshape(-1, reached.values.shape[-1]).astype(
                np.float64
            )
            mean, variance = flat.mean(axis=0), flat.var(axis=0) + 1e-12
            stored = np.ravel(reached.norm.deviation) ** 2 + 1e-12
            gap = (mean - np.ravel(reached.norm.mean)) ** 2
            apart = ((variance + gap) / stored + (stored + gap) / variance - 2) / 2
            found.append(float(np.median(np.log1p(np.maximum(apart, 0)))))
            if len(found) == _LAYERS:
                break
    return (float(np.mean(found)), depth) if found else None
