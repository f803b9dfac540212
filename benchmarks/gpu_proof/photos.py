"""Photos for the proof, made of the samples that set-up lays down."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Five sizes, as phones, cameras and screenshots send them side by side.
SIZES = ((640, 480), (480, 640), (800, 600), (512, 512), (1024, 576))
_QUALITY = 90
# Parts of a photo, as shares of its sides: left, top, right, bottom.
_CROPS = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.8, 0.8),
    (0.2, 0.2, 1.0, 1.0),
    (0.1, 0.0, 0.9, 0.9),
    (0.0, 0.15, 0.85, 1.0),
)
_LIGHTS = (1.0, 0.7, 1.3)


def make(folder: Path, count: int, size: tuple[int, int] | None = None) -> list[bytes]:
    """Make JPEG files of the photos in a folder: parts, mirrored, darker, brighter.

    Args:
        folder: of the samples.
        count: how many to make; the same ones each time.
        size: width and height of all of them; five sizes in turn otherwise.

    Raises:
        SystemExit: there is no photo in the folder.
    """
    originals = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.*"))]
    if not originals:
        raise SystemExit(
            f"There is no photo in {folder}; python -m modelserver models install "
            "--samples lays some down."
        )
    made = []
    variants = _variants(originals)
    for number in range(count):
        buffer = io.BytesIO()
        photo = next(variants).resize(size or SIZES[number % len(SIZES)])
        photo.save(buffer, "JPEG", quality=_QUALITY)
        made.append(buffer.getvalue())
    return made


def _variants(originals: list[Image.Image]) -> Iterator[Image.Image]:
    """Give the photos in turn, each time otherwise; without end."""
    while True:
        for mirrored in (False, True):
            for light in _LIGHTS:
                for crop in _CROPS:
                    for photo in originals:
                        box = [
                            round(share * side)
                            for share, side in zip(crop, photo.size * 2, strict=True)
                        ]
                        part = photo.crop((box[0], box[1], box[2], box[3]))
                        part = ImageEnhance.Brightness(part).enhance(light)
                        yield ImageOps.mirror(part) if mirrored else part
