"""From a picture to what a model takes: its size, its channels, its encoding."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt
    from numpy.typing import NDArray

    from modelserver.core.signatures import Resize, Sampling

    Pixels = npt.NDArray[np.uint8]
    Box = tuple[float, float, float, float]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The rest of IHDR after width and height, by channels: 8 bits; gray or RGB; the only
# compression and filter methods there are; not interlaced.
PNG_KINDS = {1: bytes((8, 0, 0, 0, 0)), 3: bytes((8, 2, 0, 0, 0))}


def resize(
    pixels: Pixels,
    size: tuple[int, int],
    how: Resize,
    out: Pixels | None = None,
) -> Pixels:
    """Bring pixels to a model's size.

    Bilinear as Pillow does it: where it shrinks, the filter widens with the scale, so
    that fine patterns do not alias. TensorFlow's plain bilinear does not widen.

    Args:
        pixels: uint8 [H, W, C], C 1 or 3, C-contiguous.
        size: (height, width) to reach.
        how: ``stretch`` changes the aspect ratio; ``crop`` keeps it and cuts what
            sticks out, evenly from both ends; ``pad`` keeps it and adds black, evenly
            at both ends.
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


def sample(
    pixels: Pixels,
    size: tuple[int, int],
    sampling: Sampling,
    out: Pixels | None = None,
) -> Pixels:
    """Resize as TensorFlow's ``ResizeBilinear`` does, rounded to whole values.

    Each pixel is mixed of the four around one place, however much is shrunk: the same
    arithmetic in float32, so that only the rounding differs, by half a step of 255.

    Args:
        pixels: uint8 [H, W, C], C-contiguous.
        size: (height, width) to reach.
        sampling: where to look.
        out: uint8 C-contiguous [height, width, C] to write into.

    Returns:
        ``out``, or a new array; never the argument itself.
    """
    rows, columns, channels = pixels.shape
    if out is None:
        out = np.empty((*size, channels), np.uint8)
    top, bottom, down = _neighbours(rows, size[0], sampling)
    left, right, across = _neighbours(columns, size[1], sampling)
    # All of a row's values side by side: taking them so is five times as fast.
    flat = pixels.reshape(rows, columns * channels)
    each = np.arange(channels)
    left = (left[:, None] * channels + each).reshape(-1)
    right = (right[:, None] * channels + each).reshape(-1)
    across = np.repeat(across, channels)
    upper = _mixed(flat[top], left, right, across)
    lower = _mixed(flat[bottom], left, right, across)
    lower -= upper
    lower *= down[:, None]
    upper += lower
    np.rint(upper, out=upper)
    out.reshape(upper.shape)[...] = upper
    return out


def _neighbours(
    count: int, wanted: int, sampling: Sampling
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Give the two input places for each output place, and how far it is between."""
    step = np.float32(count) / np.float32(wanted)
    if sampling == "ends" and wanted > 1:
        step = np.float32(count - 1) / np.float32(wanted - 1)
    at = np.arange(wanted, dtype=np.float32)
    if sampling == "centre":
        at = (at + np.float32(0.5)) * step - np.float32(0.5)
    else:
        at *= step
    below = np.floor(at)
    low, high = (
        np.clip(place.astype(np.intp), 0, count - 1) for place in (below, np.ceil(at))
    )
    return low, high, at - below


def _mixed(
    rows: Pixels,
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    across: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Mix the values at two places of each row: float32 [rows, places]."""
    mixed = rows.take(left, axis=1).astype(np.float32)
    others = rows.take(right, axis=1).astype(np.float32)
    others -= mixed
    others *= across
    mixed += others
    return mixed


def source_window(shape: tuple[int, ...], size: tuple[int, int], how: Resize) -> Box:
    """Tell which part of a picture ``resize`` shows, to map boxes back.

    Args:
        shape: (H, W, ...) of the picture.
        size: (height, width) that it is brought to.
        how: as for ``resize``.

    Returns:
        (ymin, xmin, ymax, xmax) in the picture's own normalised coordinates. Inside
        0..1 where it is cropped, outside where it is padded. A normalised ``y`` in
        the resized image is ``ymin + y * (ymax - ymin)`` in the picture.
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


def encode_png(pixels: Pixels) -> bytes:
    """Wrap pixels as a PNG, for graphs that take an encoded image.

    Written here and stored without compression: the bytes go no further than the next
    process, and Pillow tries five filters a row, which takes ten times as long.

    Args:
        pixels: uint8 [H, W, C], C 1 or 3.

    Returns:
        The file's content, a little larger than the pixels.
    """
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 0  # the filter that does nothing
    rows[:, 1:] = pixels.reshape(height, -1)
    return b"".join(
        (
            PNG_SIGNATURE,
            _chunk(b"IHDR", struct.pack(">II", width, height) + PNG_KINDS[channels]),
            _chunk(b"IDAT", zlib.compress(rows.data, 0)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Frame a PNG chunk: length, kind, content, checksum of the last two."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return (
        struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", checksum)
    )
