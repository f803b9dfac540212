"""Photos for the proof, made of the samples that set-up lays down."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance, ImageOps

if TYPE_CHECKING:
    from pathlib import Path

# Five sizes, as phones, cameras and screenshots send them side by side.
SIZES = ((640, 480), (480, 640), (800, 600), (512, 512), (1024, 576))
_QUALITY = 90
_MOST_CUT = 0.2


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
    choose, made = random.Random(1), []  # noqa: S311 - the same each time
    for number in range(count):
        buffer, photo = io.BytesIO(), originals[number % len(originals)]
        part = _variant(photo, choose).resize(size or SIZES[number % len(SIZES)])
        part.save(buffer, "JPEG", quality=_QUALITY)
        made.append(buffer.getvalue())
    return made


def _variant(photo: Image.Image, choose: random.Random) -> Image.Image:
    cut = choose.uniform(0, _MOST_CUT)
    width, height = (round(side * (1 - cut)) for side in photo.size)
    left = choose.randint(0, photo.width - width)
    top = choose.randint(0, photo.height - height)
    part = photo.crop((left, top, left + width, top + height))
    part = ImageEnhance.Brightness(part).enhance(choose.uniform(0.7, 1.3))
    return ImageOps.mirror(part) if choose.random() < 1 / 2 else part
