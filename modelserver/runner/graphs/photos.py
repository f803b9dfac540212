"""What photos are like, in second moments: for networks that were trained on some.

Measured on 64 photos of COCO's val2017, pixels 0..255, reduced to 48, 96 and 224 a
side. No photo is kept and none is made: a network's first layers are asked with what
is drawn from these moments, always the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MEAN_LEVEL = 115.0
"""Mean of all pixels of photos; ``MEANS`` by channel, red first."""
MEANS = np.array([120.4, 115.5, 106.7])
# Principal colours, and the deviation of each: brightness, red less blue, green.
_COLOURS = np.array([[0.55, 0.59, 0.60], [0.71, 0.05, -0.70], [0.44, -0.81, 0.39]])
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


def shared(distance: Any, side: float, colour: int) -> Array:
    """Give the correlation of two pixels, for one principal colour.

    Args:
        distance: between them, in pixels.
        side: of the picture that they are of, in pixels.
        colour: 0 brightness, 1 red less blue, 2 green.
    """
    unshared = np.interp(distance, _DISTANCES, _UNSHARED) * _OF_COLOUR[colour]
    correlation: Array = 1 - np.minimum(unshared * (_SIDE / side) ** _FALL, 0.95)
    return correlation


def variances(kernel: Any, side: float) -> Array:
    """Give the variance of what each filter makes of photos of 0..255.

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
        colours = list(zip(_DEVIATIONS, list(_COLOURS), strict=True))
    total = np.zeros(filters)
    for colour, (deviation, mix) in enumerate(colours):
        taps = np.tensordot(kernel, mix, ([2], [0])).reshape(-1, filters)
        alike = shared(distance, side, colour)
        total += deviation**2 * ((alike @ taps) * taps).sum(axis=0)
    varied: Array = np.maximum(total, 0)
    return varied


def fields(count: int, size: int, side: float, depth: int) -> Array:
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
    places = np.fft.fftfreq(2 * size) * 2 * size
    distance = np.hypot(places[:, None], places)
    pixels = np.zeros((count, size, size, 3))
    for colour, deviation in enumerate(_DEVIATIONS):
        power = np.fft.fft2(shared(distance, side, colour)).real
        noise = draw.standard_normal((count // 2, 2 * size, 2 * size))
        # Each with its opposite, so that few have the mean.
        noise = np.concatenate([noise, -noise])
        waves = np.fft.fft2(noise) * np.sqrt(np.maximum(power, 0))
        part = np.fft.ifft2(waves).real[:, :size, :size]
        pixels += deviation * part[..., None] * _COLOURS[colour]
    pixels = np.clip(pixels + MEANS, 0, 255)
    made: Array = pixels.mean(-1, keepdims=True) if depth == 1 else pixels
    return made
