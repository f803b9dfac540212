"""Resizing a decoded image for a model: stretch, crop, pad; RGB to gray.

Azure Custom Vision's exports come with code of their own, which ``crop_from`` follows
to the pixel (``predict.py`` of its exports for Docker): it scales a large photo down to
1600 pixels, brings the middle square to 256 x 256 without smoothing, and feeds the
middle of that, 224 or 227 pixels. The models were trained on such images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelserver.core.signatures import Resize

    Pixels = npt.NDArray[np.uint8]
    Box = tuple[float, float, float, float]

# Of Custom Vision's own code: the longer side that it scales larger photos down to, and
# below which scale it does so smoothly.
_LARGEST = 1600
_SMOOTH_BELOW = 0.5


def resize(
    pixels: Pixels,
    size: tuple[int, int],
    how: Resize,
    out: Pixels | None = None,
) -> Pixels:
    """Bring pixels to a model's size.

    Bilinear as Pillow does it: when it shrinks, the filter widens with the scale, so
    that fine patterns do not alias. TensorFlow's plain bilinear does not widen.

    Args:
        pixels: uint8 [H, W, C], C 1 or 3, C-contiguous.
        size: (height, width) to reach.
        how: ``stretch`` changes the aspect ratio; ``crop`` keeps it and cuts the
            surplus, evenly from both ends; ``pad`` keeps it and adds black, evenly at
            both ends.
        out: uint8 C-contiguous [height, width, C] to write into, e.g. shared memory.

    Returns:
        ``out``, or a new array; never the argument itself.
    """
    height, width = size
    channels = pixels.shape[2]
    if out is None:
        out = np.empty((height, width, channels), np.uint8)
    box, (top, left, bottom, right) = _fit(pixels.shape, size, how)
    if bottom - top < height or right - left < width:
        out[...] = 0
    inside = out[top:bottom, left:right]
    if inside.shape == pixels.shape:
        np.copyto(inside, pixels)
        return out
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    scaled = image.resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=box
    )
    np.copyto(inside, np.asarray(scaled).reshape(inside.shape))
    return out


def source_window(shape: tuple[int, ...], size: tuple[int, int], how: Resize) -> Box:
    """Return the part of an image that ``resize`` shows, to map boxes back.

    Args:
        shape: (H, W, ...) of the image.
        size: (height, width) that it is brought to.
        how: as for ``resize``.

    Returns:
        (ymin, xmin, ymax, xmax) in the image's own normalised coordinates. Inside 0..1
        if it is cropped, outside if it is padded. A normalised ``y`` in the resized
        image is ``ymin + y * (ymax - ymin)`` in the original.
    """
    height, width = shape[:2]
    box, (top, left, bottom, right) = _fit(shape, size, how)
    x_unit = (box[2] - box[0]) / (right - left) / width
    y_unit = (box[3] - box[1]) / (bottom - top) / height
    ymin = box[1] / height - top * y_unit
    xmin = box[0] / width - left * x_unit
    return ymin, xmin, ymin + size[0] * y_unit, xmin + size[1] * x_unit


def _fit(
    shape: tuple[int, ...], size: tuple[int, int], how: Resize
) -> tuple[Box, tuple[int, int, int, int]]:
    """Match a box of the source with whole pixels of the target.

    The first is (left, top, right, bottom), as Pillow has it; the second is
    (top, left, bottom, right).
    """
    height, width = shape[:2]
    rows, columns = size
    whole = (0.0, 0.0, float(width), float(height))
    # Aspect ratios compared as whole numbers, so that equal ones are exactly equal.
    wider = width * rows - height * columns
    if how == "crop" and wider > 0:
        side = (width - height * columns / rows) / 2
        return (side, 0.0, width - side, float(height)), (0, 0, rows, columns)
    if how == "crop" and wider < 0:
        side = (height - width * rows / columns) / 2
        return (0.0, side, float(width), height - side), (0, 0, rows, columns)
    if how == "pad" and wider > 0:
        inner = max(1, round(height * columns / width))
        top = (rows - inner) // 2
        return whole, (top, 0, top + inner, columns)
    if how == "pad" and wider < 0:
        inner = max(1, round(width * rows / height))
        left = (columns - inner) // 2
        return whole, (0, left, rows, left + inner)
    return whole, (0, 0, rows, columns)


def to_gray(pixels: Pixels) -> Pixels:
    """Weigh RGB to gray as ITU-R 601 does, with Pillow's rounding.

    Args:
        pixels: uint8 [H, W, 3], C-contiguous.

    Returns:
        uint8 [H, W, 1].
    """
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]


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
    pixels = _reduce(pixels)
    height, width = pixels.shape[:2]
    ratio = min(height, width) / side
    rows, columns = (_start(side, cut) + np.arange(cut) for cut in size)
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


def _reduce(pixels: Pixels) -> Pixels:
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
    """Return the start of a row's middle: a pixel early, as in that code."""
    return max(0, side // 2 - cut // 2 - 1)


def _neighbours(
    indices: npt.NDArray[np.intp], ratio: float, length: int, side: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the two pixels around each index, and the share between them.

    Args:
        indices: in the square, along one axis.
        ratio: pixels of the photo for one of the square.
        length: of the photo along that axis.
        side: of the square.
    """
    exact = (indices + 0.5) * ratio - 0.5
    first = exact.astype(np.intp)
    across = exact - first
    first += int(0.5 * (length - ratio * side))
    inside = (first >= 0) & (first < length - 1)
    first = first.clip(0, length - 1)
    return first, np.where(inside, first + 1, first), np.where(inside, across, 0.0)
