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
    BmpImagePlugin,
    GifImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    features,
)

from modelserver.core.errors import NotAnImage
from modelserver.decoder.containers import brand
from modelserver.decoder.watched_files import RUN_READS, WatchedFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import ImageFile

Data = bytes | memoryview | mmap.mmap

OPENERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# Their images lie in boxes that say how much is decoded; see ``containers``.
BOXED = frozenset({"AVIF", "HEIC"})
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
    boxed = brand(head)
    if boxed in boxed_formats():
        return str(boxed)
    raise NotAnImage(boxed_formats())


def open_image(data: Data, name: str) -> ImageFile.ImageFile:
    """Open an upload of a format other than JPEG; nothing is decoded yet.

    Pillow chooses the error for a broken one.
    """
    return _opener(name)(watch(data, name))


def watch(data: Data, name: str) -> IO[bytes]:
    """Return a file for Pillow to read from."""
    if name == "BMP":
        return cast("IO[bytes]", WatchedFile(data, free_reads=RUN_READS))
    return cast("IO[bytes]", WatchedFile(data))


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
