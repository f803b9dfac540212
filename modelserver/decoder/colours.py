"""Any mode that a decoder gives, brought to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

# What shows through transparent pixels: a cut-out on a web page or on paper is on
# white, and dropping alpha instead would show colours that no viewer has ever shown.
BACKGROUND = "white"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to mode ``RGB``.

    Gray and palette images are widened; transparency is laid over white; CMYK becomes
    RGB by Pillow's plain inversion; 16-bit gray is scaled, value / 257 rounded (16-bit
    colour already lost its low byte in Pillow's PNG reader).

    Args:
        image: loaded, of any mode that JPEG, PNG, WebP, GIF or BMP come in.

    Returns:
        The image itself where it is plain RGB, else a new one.
    """
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    coloured = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, BACKGROUND)
    canvas.paste(coloured, mask=coloured)
    return canvas


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8; Pillow's own conversion clips everything above 255."""
    values = np.asarray(image)
    scaled = values.astype(np.uint32)
    # value / 257 rounded; in place, as this may be 25 million pixels.
    scaled += 128
    scaled //= 257
    gray = scaled.astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")
