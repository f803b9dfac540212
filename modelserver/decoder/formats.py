"""Which format an upload has, by its content, and what opens it.

Pillow opens all but HEIC, for which it needs the package ``pillow-heif``; AVIF is left
out of some of Pillow's builds.
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
# Their pictures lie in boxes that say what is to be decoded; see ``containers``.
BOXED = frozenset({"AVIF", "HEIC"})
# Sizes of the headers that follow the file header of a BMP, which has just two letters
# of magic: without them any text that starts with "BM" would count as one.
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
_HEAD_BYTES = 64


@cache
def boxed_formats() -> tuple[str, ...]:
    """Return which of AVIF and HEIC can be decoded by what is installed."""
    there = {
        "AVIF": features.check("avif"),
        "HEIC": find_spec("pillow_heif") is not None,
    }
    return tuple(name for name, is_there in there.items() if is_there)


def format_of(data: Data) -> str:
    """Tell the format by the first bytes, never by a name.

    Raises:
        NotAnImage: it is none that can be decoded.
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


def opened(data: Data, name: str) -> ImageFile.ImageFile:
    """Open an upload of a format other than JPEG; nothing is decoded yet.

    What it raises for a broken one is Pillow's affair.
    """
    return _opener(name)(watched(data, name))


def watched(data: Data, name: str) -> IO[bytes]:
    """Give Pillow a file to read from."""
    if name == "BMP":
        return cast("IO[bytes]", WatchedFile(data, free_reads=RUN_READS))
    return cast("IO[bytes]", WatchedFile(data))


def _opener(name: str) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    return _heic_opener() if name == "HEIC" else OPENERS[name]


@cache
def _heic_opener() -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    """Import what HEIC needs, when the first one comes."""
    import pillow_heif  # noqa: PLC0415 - optional, and few photos need it

    # They are of no use here, and each is work.
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    opener: Callable[[IO[bytes]], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return opener
