"""The middle of a picture as Azure Custom Vision's own code cuts it out.

Its exports come with code that scales a large photo down to 1600 pixels, brings the
middle square to 256 x 256 without smoothing, and feeds the middle of that: 224 or 227
pixels. The models were trained on such pictures. Written after the ``predict.py`` of
its exports for Docker, to the pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

_LARGEST = 1600
_SMOOTH_BELOW = 0.5


def crop_from(
    pixels: Pixels, side: int, size: tuple[int, int], out: Pixels | None = None
) -> Pixels:
    """Bring the middle square to ``side``, and cut ``size`` out of its middle.

    Args:
        pixels: uint8 [H, W, C], C-contiguous, of the whole upright photo.
        side: of the square, in pixels.
        size: (height, width), neither above ``side``.
        out: uint8 [height, width, C] to write into.

    Returns:
        ``out``, or a new array.
    """
    pixels = _reduced(pixels)
    height, width = pixels.shape[:2]
    ratio = min(height, width) / side
    rows, columns = (_start(side, one) + np.arange(one) for one in size)
    top, bottom, down = _neighbours(rows, ratio, height, side)
    left, right, across = _neighbours(columns, ratio, width, side)
    across, down = across[None, :, None], down[:, None, None]
    above = across * pixels[top][:, right] + (1.0 - across) * pixels[top][:, left]
    below = across * pixels[bottom][:, right] + (1.0 - across) * pixels[bottom][:, left]
    mixed = np.clip(down * below + (1.0 - down) * above, 0, 255).astype(np.uint8)
    if out is None:
        return mixed
    np.copyto(out, mixed)
    return out


def _reduced(pixels: Pixels) -> Pixels:
    """Scale a photo down whose longer side is above the limit."""
    height, width = pixels.shape[:2]
    if max(height, width) < _LARGEST:
        return pixels
    longer = max(height, width)
    size = (max(1, _LARGEST * width // longer), max(1, _LARGEST * height // longer))
    smooth = _LARGEST / longer < _SMOOTH_BELOW
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
    gray = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    return np.asarray(image.resize(size, how)).reshape(size[1], size[0], -1)


def _start(side: int, cut: int) -> int:
    """Give where the middle of a row begins: a pixel early, as that code has it."""
    return max(0, side // 2 - cut // 2 - 1)


def _neighbours(
    places: npt.NDArray[np.intp], ratio: float, length: int, side: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Give the two pixels that each place lies between, and how far it is across.

    Args:
        places: in the square, along one axis.
        ratio: pixels of the photo for one of the square.
        length: of the photo along that axis.
        side: of the square.
    """
    exact = (places + 0.5) * ratio - 0.5
    first = exact.astype(np.intp)
    across = exact - first
    first += int(0.5 * (length - ratio * side))
    inside = (first >= 0) & (first < length - 1)
    first = first.clip(0, length - 1)
    return first, np.where(inside, first + 1, first), np.where(inside, across, 0.0)
