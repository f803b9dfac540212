"""Pixels in NumPy alone: sampling as TensorFlow does it, and PNG without a library.

Decoder and runner both use it, so nothing here needs Pillow or TensorFlow.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelserver.core.signatures import Sampling

    Pixels = NDArray[np.uint8]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The rest of IHDR after width and height, by channels: 8 bits; gray or RGB; the only
# compression and filter methods there are; not interlaced.
_PNG_KINDS = {1: bytes((8, 0, 0, 0, 0)), 3: bytes((8, 2, 0, 0, 0))}


def sample(
    pixels: Pixels,
    size: tuple[int, int],
    sampling: Sampling,
    out: Pixels | None = None,
) -> Pixels:
    """Resize as TensorFlow's ``ResizeBilinear`` does, rounded to whole values.

    Each pixel is mixed of the four around one point, however much is shrunk: the same
    arithmetic in float32, so that only the rounding differs, by half a step of 255.

    Args:
        pixels: uint8 [H, W, C], C-contiguous.
        size: (height, width) to reach.
        sampling: the points to look at.
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
    upper = _mix(flat[top], left, right, across)
    lower = _mix(flat[bottom], left, right, across)
    lower -= upper
    lower *= down[:, None]
    upper += lower
    np.rint(upper, out=upper)
    out.reshape(upper.shape)[...] = upper
    return out


def _neighbours(
    count: int, wanted: int, sampling: Sampling
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return two input indices for each output index, and the share between them."""
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
        np.clip(index.astype(np.intp), 0, count - 1) for index in (below, np.ceil(at))
    )
    return low, high, at - below


def _mix(
    rows: Pixels,
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    across: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Mix the values at two indices of each row: float32 [rows, indices]."""
    mixed = rows.take(left, axis=1).astype(np.float32)
    others = rows.take(right, axis=1).astype(np.float32)
    others -= mixed
    others *= across
    mixed += others
    return mixed


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
            _PNG_SIGNATURE,
            _chunk(b"IHDR", struct.pack(">II", width, height) + _PNG_KINDS[channels]),
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
