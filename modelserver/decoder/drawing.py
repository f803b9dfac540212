"""A photo with boxes and words drawn over it."""

from __future__ import annotations

import colorsys
import io
import zlib
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from modelserver.decoder.decoders import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.core.messages import Mark, PictureFormat
    from modelserver.core.messages.decodes import Limits
    from modelserver.decoder.decoders import Data

# Of the photo's shorter side: a line that is seen, and letters that are read.
_LINE, _LETTERS = 1 / 250, 1 / 30
_LEAST_LETTERS, _MOST_LETTERS = 10, 48
_JPEG_QUALITY = 90
_HALF = 127.5


def annotate(
    data: Data, limits: Limits, marks: Sequence[Mark], form: PictureFormat
) -> bytes:
    """Return an upload, decoded in full and upright, with marks over it, as a file.

    Thread-safe.

    Raises:
        ImageTooLarge, UndecodableImage, NotAnImage: as ``decode``.
    """
    return draw(decode(data, limits=limits).pixels, marks, form)


def draw(
    pixels: NDArray[np.uint8], marks: Sequence[Mark], form: PictureFormat
) -> bytes:
    """Return a photo with boxes and their words over it, as a file.

    Args:
        pixels: uint8 [height, width, 3], RGB; it is not changed.
        marks: the first one lies uppermost.
    """
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    side = min(image.size)
    font = ImageFont.load_default(
        min(max(side * _LETTERS, _LEAST_LETTERS), _MOST_LETTERS)
    )
    for mark in reversed(marks):
        _draw_one(pen, image.size, mark, font, max(1, round(side * _LINE)))
    file = io.BytesIO()
    image.save(file, form, quality=_JPEG_QUALITY)
    return file.getvalue()


def _draw_one(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    mark: Mark,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
) -> None:
    (width, height), (x1, y1, x2, y2) = size, mark.box
    left, top = round(x1 * (width - 1)), round(y1 * (height - 1))
    right, bottom = round(x2 * (width - 1)), round(y2 * (height - 1))
    back, ink = colours(mark.label)
    # A model may give a box whose sides are the wrong way round.
    corners = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    pen.rectangle(corners, outline=back, width=line)
    # Words of several lines, or with control characters, would leave their box.
    words = " ".join(mark.words.split())
    box = pen.textbbox((0, 0), words, font=font)
    text_width, text_height = box[2] + 2 * line, box[3] + 2 * line
    at_x = max(0, min(corners[0], width - text_width))
    at_y = corners[1] - text_height if corners[1] >= text_height else corners[1]
    pen.rectangle((at_x, at_y, at_x + text_width, at_y + text_height), fill=back)
    pen.text((at_x + line, at_y + line), words, fill=ink, font=font)


def colours(label: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return a label's colour, and black or white, whichever is read better on it."""
    hue = zlib.crc32(label.encode("utf-8", "replace")) % 360 / 360
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.5, 1))
    # Relative luminance by ITU-R BT.601, as good as any for two choices.
    bright = (299 * red + 587 * green + 114 * blue) / 1000 > _HALF
    return (red, green, blue), (0, 0, 0) if bright else (255, 255, 255)
