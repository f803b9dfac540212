"""The orientation of an image, and the one copy that applies it.

Pillow's own ``getexif`` is not used: on damaged EXIF it warns on stderr or raises, by
the process's warning filters, and it needs the whole TIFF plugin for one number. The
result equals that of ``PIL.ImageOps.exif_transpose``; a test compares them.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

UPRIGHT = 1
ORIENTATIONS = range(1, 9)
# Those that exchange width and height.
TURNED = range(5, 9)
ORIENTATION_TAG = 0x0112
# TIFF field types of a whole number, and how one is stored at the start of the field.
NUMBERS = {3: "H", 4: "I"}
BYTE_ORDERS = {b"II": "<", b"MM": ">"}
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Side in pixels of the squares that are copied one by one when an image is turned:
# both a square's source and its target stay in the processor's cache. Measured for
# 0.6 to 12 megapixels: never slower than one strided copy, up to twice as fast.
TILE = 256


def orientation_of(info: Mapping[Any, Any]) -> int:
    """Return an image's orientation from the metadata that Pillow found.

    Args:
        info: ``Image.info``: EXIF in any of its places, else XMP.

    Returns:
        1 to 8 as EXIF numbers them; 1 if there is none, or an invalid one.
    """
    found = _from_exif(_exif(info))
    if found is None:
        found = _from_xmp(info)
    return found if found in ORIENTATIONS else UPRIGHT


def turns(orientation: int) -> bool:
    """Return whether an orientation exchanges width and height."""
    return orientation in TURNED


def copy_upright(
    stored: npt.NDArray[np.uint8], orientation: int, out: npt.NDArray[np.uint8]
) -> None:
    """Copy pixels as stored into an upright array.

    Args:
        stored: uint8 [H, W, 3], rows contiguous.
        orientation: 1 to 8.
        out: uint8 C-contiguous [H, W, 3], or [W, H, 3] if ``turns(orientation)``.
    """
    if orientation == UPRIGHT:
        np.copyto(out, stored)
        return
    # One 3-byte item a pixel: NumPy's inner loop then moves pixels, not single bytes.
    source = _upright_view(stored.view("V3")[..., 0], orientation)
    target = out.view("V3")[..., 0]
    height, width = target.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = np.s_[top : top + TILE, left : left + TILE]
            target[tile] = source[tile]


def _upright_view(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return a view, [H, W] to [H, W] or [W, H], that is upright."""
    view = stored.T if turns(orientation) else stored
    if orientation in {3, 4, 7, 8}:
        view = view[::-1]
    if orientation in {2, 3, 6, 7}:
        view = view[:, ::-1]
    return view


def _exif(info: Mapping[Any, Any]) -> bytes:
    """Find the EXIF block: its own chunk, or ImageMagick's hexadecimal PNG text."""
    exif = info.get("exif")
    if isinstance(exif, bytes):
        return exif
    text = info.get("Raw profile type exif")
    if not isinstance(text, str):
        return b""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _from_exif(exif: bytes) -> int | None:
    """Read the orientation from the first directory; ``None`` if there is none."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = BYTE_ORDERS.get(tiff[:2])
    if order is None:
        return None
    found = None
    try:
        (start,) = struct.unpack_from(order + "4xI", tiff)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == ORIENTATION_TAG and kind in NUMBERS and values == 1:
                (found,) = struct.unpack_from(order + NUMBERS[kind], tiff, entry + 8)
    except struct.error:
        # The directory is cut short: the entries before the cut count.
        return found
    return found


def _from_xmp(info: Mapping[Any, Any]) -> int:
    """Read the orientation out of XMP, which may be text (PNG) or bytes."""
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    match = XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
    return int(match[1]) if match else UPRIGHT
