"""The format of an upload, by its content, and its opener.

Pillow opens all but HEIC, for which it needs the package ``pillow-heif``; some of its
builds lack AVIF.
"""

from __future__ import annotations

import mmap
from functools import cache
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, cast

from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    WebPImagePlugin,
    features,
)

from modelserver.core.errors import NotAnImage
from modelserver.decoder.bmp_files import open_bmp
from modelserver.decoder.memory_files import MemoryFile
from modelserver.decoder.png_files import PngFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import ImageFile

Data = bytes | memoryview | mmap.mmap

OPENERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "PNG": PngFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": open_bmp,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# Brands of their files: still images, and sequences that have one too.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
# Sizes of the headers that follow the file header of a BMP, which has just two letters
# of magic: without them any text that starts with "BM" would count as one.
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
_HEAD_BYTES = 64


@cache
def boxed_formats() -> tuple[str, ...]:
    """Return which of AVIF and HEIC the installed packages can decode."""
    there = {
        "AVIF": features.check("avif"),
        "HEIC": find_spec("pillow_heif") is not None,
    }
    return tuple(name for name, is_there in there.items() if is_there)


def format_of(data: Data) -> str:
    """Return the format by the first bytes, never by a name.

    Raises:
        NotAnImage: it is unknown.
    """
    head = bytes(data[:_HEAD_BYTES])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    size = int.from_bytes(head[14:18], "little")
    if head.startswith(b"BM") and size in _BMP_HEADERS:
        return "BMP"
    boxed = _brand(head)
    if boxed in boxed_formats():
        return str(boxed)
    raise NotAnImage(boxed_formats())


def _brand(head: bytes) -> str | None:
    """Return AVIF or HEIC by a file's first bytes; ``None`` for other formats."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = (head[at : at + 4] for at in range(16, end - 3, 4))
    words = (_BRANDS.get(word) for word in (head[8:12], *compatible))
    return next(filter(None, words), None)


def open_image(data: Data, name: str) -> ImageFile.ImageFile:
    """Open an upload of a format other than JPEG; nothing is decoded yet.

    Pillow chooses the error for a broken one.
    """
    return _opener(name)(file_of(data))


def file_of(data: Data) -> IO[bytes]:
    """Return a file for Pillow to read from."""
    return cast("IO[bytes]", MemoryFile(data))


def _opener(name: str) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    return heic_opener() if name == "HEIC" else OPENERS[name]


@cache
def heic_opener() -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    """Import the package for HEIC, when the first one comes."""
    import pillow_heif  # noqa: PLC0415 - optional, and few photos need it

    # They are of no use here, and each is work.
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    opener: Callable[[IO[bytes]], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return opener
