"""A photo with boxes and words drawn over it."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageDraw, ImageFont

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
# One colour a label, by its checksum, as on the page (static/page.css has the same).
# White has a contrast of 4.5 and more on each.
TONES = (
    "#e12412",
    "#276b19",
    "#04449e",
    "#d91296",
    "#5b6117",
    "#025346",
    "#a43bef",
    "#934822",
    "#025609",
    "#4b66f0",
    "#aa285e",
    "#375102",
    "#0b808b",
    "#9528ab",
    "#6a3f03",
    "#0b8634",
    "#5246d4",
    "#96041c",
    "#3d830b",
    "#1f6385",
    "#87037c",
    "#87730b",
    "#196a48",
    "#4c06d9",
)
_WHITE = (255, 255, 255)


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
    back = colour(mark.label)
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
    pen.text((at_x + line, at_y + line), words, fill=_WHITE, font=font)


def colour(label: str) -> tuple[int, int, int]:
    """Return a label's colour, on which white can be read: RGB, 0 to 255 each."""
    tone = TONES[zlib.crc32(label.encode("utf-8", "replace")) % len(TONES)]
    red, green, blue = ImageColor.getrgb(tone)[:3]
    return red, green, blue
