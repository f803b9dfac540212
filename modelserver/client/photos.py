"""The bytes of an image file, from a path, bytes, a file, Pillow or NumPy.

Neither Pillow nor NumPy is imported unless an image needs it.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

from modelserver.client.errors import BadImage

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image as PillowImage

    from modelserver.client.results import Size


class BinaryFile(Protocol):
    """An open file, or an object with its ``read``."""

    def read(self) -> bytes:
        """Return the rest of it."""
        raise NotImplementedError


Image: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryFile,
    "PillowImage",
    "ndarray[Any, Any]",
]
"""A path, the bytes of an image file, an open file (read from where it stands, and
left open), a Pillow image, or uint8 pixels [height, width, 3 or 4], RGB, or [height,
width]. The last two are sent as PNG, turned as they are: an EXIF orientation counts in
files only."""

_SPEED = 1  # of PNG's nine levels: most of the gain, in a fraction of the time
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_CHANNELS = (3, 4)
_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 swap width and height
_SWAPPED = range(5, 9)
_RANK_OF_GRAY, _RANK_OF_COLOUR = 2, 3


def read(image: Image) -> bytes:
    """Return the bytes of an image file.

    Raises:
        BadImage: it cannot be read, or holds no image.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return _file(Path(image))
    if _is_a("PIL.Image", "Image", image):
        return _png(image)
    if _is_a("numpy", "ndarray", image):
        return _array(image)
    return _open_file(image)


def upright_size(path: Path) -> Size | None:
    """Return width and height of the upright photo, from its file's header.

    Returns:
        ``None`` if there is no Pillow, or it cannot read the file.
    """
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None
    try:
        with Pillow.open(path) as photo:
            width, height = photo.size
            turned = photo.getexif().get(_ORIENTATION) in _SWAPPED
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def _is_a(module: str, name: str, image: object) -> bool:
    """Return whether it is of a class, without importing the class's module."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(image, getattr(imported, name))


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a null byte is a ValueError
        why = getattr(error, "strerror", None) or error
        raise BadImage(f"The photo {str(path)!r} cannot be read: {why}.") from error


def _open_file(file: Any) -> bytes:
    if not hasattr(file, "read"):
        raise BadImage(
            f"A {type(file).__name__} is no photo: give a path, bytes, an open file, a"
            " Pillow image or a NumPy array."
        )
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # a closed file is a ValueError
        raise BadImage(f"The photo's file cannot be read: {error}.") from error
    if not isinstance(data, bytes):
        raise BadImage("The photo's file must be opened in binary mode, as 'rb'.")
    return data


def _png(image: Any) -> bytes:
    fitting = image if image.mode in _PNG_MODES else image.convert("RGB")
    file = io.BytesIO()
    try:
        fitting.save(file, "PNG", compress_level=_SPEED)
    except (OSError, ValueError, SystemError) as error:  # as an image without a pixel
        raise BadImage(f"The image cannot be written as PNG: {error}.") from error
    return file.getvalue()


def _array(pixels: Any) -> bytes:
    colour = pixels.ndim == _RANK_OF_COLOUR and pixels.shape[2] in _CHANNELS
    if pixels.dtype != "uint8" or not (colour or pixels.ndim == _RANK_OF_GRAY):
        shape = list(pixels.shape)
        raise BadImage(
            f"An array {pixels.dtype} {shape} is no photo: uint8 [height, width, 3],"
            " RGB, is."
        )
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise BadImage(
            "Arrays are sent as PNG, which needs Pillow: pip install pillow."
        ) from error
    return _png(Pillow.fromarray(pixels))
