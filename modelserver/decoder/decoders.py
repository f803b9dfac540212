"""Decodes an upload: which format, which decoder, into whose memory.

JPEG goes through simplejpeg (libjpeg-turbo without detours), straight into the memory
that the caller allocates; it passes libjpeg's warnings on, and Pillow does not.
Pillow reads its header, decodes the JPEGs of odd sampling, which simplejpeg does not
know (``watched_jpegs`` looks for their damage), and decodes the other formats. Its
plugins are called by name and not through ``Image.open``: that would take phones' JPEGs
for MPO, and would apply a pixel limit of its own that is global to the process and
warns on stderr.
"""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, JpegImagePlugin

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import bmp_runs, jpeg_markers, png_chunks, watched_jpegs
from modelserver.decoder.formats import file_of, format_of, open_image
from modelserver.decoder.memory_files import TooManyParts
from modelserver.decoder.orientation import UPRIGHT, copy_upright, orientation_of, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import ImageFile

    from modelserver.core.messages.decodes import Limits

Pixels = npt.NDArray[np.uint8]
Allocate = Callable[[tuple[int, ...]], Pixels]
Expect = Callable[[float], object]
Data = bytes | memoryview | mmap.mmap

log = logging.getLogger(__name__)

# Of the n/8 scales libjpeg-turbo has fast code for 1/8, 2/8 and 4/8, and 3/8 costs no
# more than 4/8. 5/8, 6/8 and 7/8 take 1.2 to 1.9 times as long as a full decode, so
# they are used only if the full size is over the pixel limit.
FAST_REDUCTION = 2.0
ANY_REDUCTION = 1.0
# BI_RLE8 and BI_RLE4 (wingdi.h), of which each run may be one pixel.
RUN_LENGTH = frozenset({1, 2})
MOST_RUN_PIXELS = 2_000_000
# Processor time by the header, of photos: nanoseconds a pixel, measured. A JPEG of
# several scans takes some more for each; run lengths are filled in Python.
_NS_A_PIXEL = {
    "JPEG": 4.0,
    "reduced": 2.5,
    "PNG": 26.0,
    "WebP": 26.0,
    "GIF": 14.0,
    "BMP": 7.0,
    "AVIF": 28.0,
    "HEIC": 86.0,
}
_NS_A_SCAN, _NS_A_RUN_PIXEL = 1.5, 125.0
# This shows through transparent pixels: a cut-out on a web page or on paper is on
# white, and dropping alpha instead would show colours that no viewer has ever shown.
BACKGROUND = "white"


@dataclass(frozen=True)
class DecodedImage:
    """A decoded upload.

    Attributes:
        pixels: uint8 [H, W, 3] RGB, C-contiguous, upright: the array that ``allocate``
            gave. Smaller than ``height`` x ``width`` after a reduced decode.
        width: pixels of the upright upload, before any reduction.
        height: pixels of the upright upload, before any reduction.
        orientation: the EXIF orientation that was applied, 1 to 8.
        format: ``JPEG``, ``PNG`` or another of ``formats``, by content.
    """

    pixels: Pixels
    width: int
    height: int
    orientation: int
    format: str


def _new(shape: tuple[int, ...]) -> Pixels:
    """Allocate in this process's own memory."""
    return np.empty(shape, np.uint8)


def anything(_seconds: float) -> None:
    """Take a photo whatever it costs."""


def decode(
    data: Data,
    *,
    limits: Limits,
    at_least: tuple[int, int] | None = None,
    allocate: Allocate = _new,
    expect: Expect = anything,
) -> DecodedImage:
    """Decode an image to upright RGB.

    Args:
        data: the whole upload; not kept.
        limits: checked from the header, before anything is decoded.
        at_least: (height, width) in upright pixels that are enough. A JPEG is then
            decoded at the smallest fast scale that keeps both sides at least this
            long, other formats in full. ``None`` decodes in full.
        allocate: takes the shape (H, W, 3) and gives the C-contiguous uint8 array to
            decode into, such as shared memory. Called once; a second time, and its
            first array is then not used, for a JPEG that only Pillow can decode.
            Its errors pass through.
        expect: told the seconds of processor time that it may take, by its header,
            before anything is decoded; its errors pass through, too.

    Returns:
        The image; of an animation, its first frame.

    Raises:
        NotAnImage: the content has no known format.
        UndecodableImage: it is one of them, but broken, cut short or too long a strip.
        ImageTooLarge: more pixels than ``limits`` allow.
    """
    name = format_of(data)
    if name == "JPEG":
        return _Jpeg(data, limits, at_least).decode(allocate, expect)
    image = _open(data, name, limits)
    pixels = image.size[0] * image.size[1]
    in_runs = name == "BMP" and image.info.get("compression") in RUN_LENGTH
    expect(pixels * (_NS_A_RUN_PIXEL if in_runs else _NS_A_PIXEL[name]) / 1e9)
    return _by_pillow(image, name, limits, allocate)


def _open(data: Data, name: str, limits: Limits) -> ImageFile.ImageFile:
    """Open an image for Pillow, and check what its header says."""
    with _translate_errors(name):
        if name == "PNG":
            data = png_chunks.without_extras(data)
        image = open_image(data, name)
    limits.check_header(*image.size)
    if name == "BMP" and image.info.get("compression") in RUN_LENGTH:
        _check_runs(image)
        image.tile = [tile._replace(codec_name=bmp_runs.NAME) for tile in image.tile]
    return image


def decodes_in_full(width: int, height: int, at_least: tuple[int, int] | None) -> bool:
    """Return whether a JPEG of an upright size is decoded in full for ``at_least``."""
    if at_least is None:
        return True
    half = FAST_REDUCTION
    return at_least[0] > math.ceil(height / half) or at_least[1] > math.ceil(
        width / half
    )


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn Pillow's errors into the one error for a broken image."""
    try:
        yield
    except TooManyParts as err:
        raise UndecodableImage(f"the {name} data takes too long to read.") from err
    except MemoryError as err:
        raise UndecodableImage("it takes too much memory.") from err
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        # Pillow's own limit, for parts that are larger than the whole claims to be.
        raise UndecodableImage(
            f"the {name} header asks for too large an area."
        ) from err
    except Exception as err:
        if str(err).startswith("Unsupported BMP"):
            # Whole, but with colour masks or a compression that Pillow does not know.
            raise UndecodableImage(
                "it is a rare kind of BMP, which is not supported; save it as PNG."
            ) from err
        # Broad, because Pillow's plugins name no set of errors for hostile bytes and a
        # new one must not become the client's 500. Only Pillow and the readers of its
        # output run in here.
        log.debug("image refused", exc_info=True, extra={"image_format": name})
        raise UndecodableImage(f"the {name} data is damaged or cut short.") from err


def _by_pillow(
    image: ImageFile.ImageFile,
    name: str,
    limits: Limits,
    allocate: Allocate,
    size: tuple[int, int] | None = None,
) -> DecodedImage:
    """Decode an opened image; ``size`` is (width, height) before a reduction."""
    width, height = size or image.size
    columns, rows = image.size
    limits.check_decoded(columns * rows, width, height)
    # First, so that whoever has no room for it says so before Pillow takes its own.
    pixels = allocate((rows, columns, 3))
    with _translate_errors(name):
        covered = image.tile[0][1] if name == "GIF" else None
        image.load()
        # After loading: PNG may hold its EXIF behind the pixels.
        orientation = orientation_of(image.info)
        shown = to_rgb(_drop_unset_alpha(image) if name == "BMP" else image)
        stored = np.asarray(_only(shown, covered))
    if stored.shape != pixels.shape:
        raise UndecodableImage(f"the {name} data is not of the size it claims.")
    if turns(orientation):
        width, height = height, width
        pixels = pixels.reshape(_upright_shape(rows, columns, orientation))
    copy_upright(stored, orientation, pixels)
    return DecodedImage(pixels, width, height, orientation, name)


def _check_runs(image: ImageFile.ImageFile) -> None:
    """Refuse a run-length coded BMP of many pixels: they are filled in Python."""
    width, height = image.size
    if width * height > MOST_RUN_PIXELS:
        raise UndecodableImage(
            f"a run-length coded BMP may have {MOST_RUN_PIXELS:,} pixels at most, and "
            f"it has {width} x {height}; save it as PNG."
        )


def _only(image: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
    """Show nothing outside a GIF's first frame, as browsers do.

    Pillow shows the palette's first colour there.
    """
    if box is None or box == (0, 0, *image.size):
        return image
    shown = Image.new("RGB", image.size, BACKGROUND)
    shown.paste(image.crop(box), box)
    return shown


def _drop_unset_alpha(image: Image.Image) -> Image.Image:
    """Drop a BMP's alpha if it is 0 everywhere, as some programs leave it.

    As browsers and Windows show such a file, in headers of version 3, 4 and 5.
    """
    if image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        return image.convert("RGB")
    return image


def _upright_shape(height: int, width: int, orientation: int) -> tuple[int, int, int]:
    """Return the shape of the upright array for a stored height and width."""
    return (width, height, 3) if turns(orientation) else (height, width, 3)


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG as Pillow opens it, less its look for a resolution in the EXIF.

    That look reads the whole EXIF by the TIFF plugin, which takes as long as all the
    rest and warns on stderr of damage. Without this override of a private method the
    pixels are the same; a test notices the warnings.
    """

    def _read_dpi_from_exif(self) -> None:
        """Leave the EXIF alone."""


class _Jpeg:
    """One JPEG on its way through simplejpeg, or round it."""

    def __init__(
        self, data: Data, limits: Limits, at_least: tuple[int, int] | None
    ) -> None:
        self.limits = limits
        with _translate_errors("JPEG"):
            self.scan = jpeg_markers.first_scan(data)
            self.data = jpeg_markers.with_end(data, self.scan)
            self.ended = self.data is data
            self.image = self._open()
        self.width, self.height = self.image.size
        self.orientation = orientation_of(self.image.info)
        self.inks = False
        self.smallest = at_least or (0, 0)
        if turns(self.orientation):
            self.smallest = self.smallest[::-1]

    def _open(self) -> _JpegFile:
        """Open it by Pillow, without the metadata if that is what Pillow stumbles over.

        A profile that is too short refuses no photo.
        """
        try:
            return _JpegFile(file_of(self.data))
        except SyntaxError:
            self.data = jpeg_markers.clean(self.data, keep=jpeg_markers.ORIENTED)
            self.scan = jpeg_markers.first_scan(self.data)
            return _JpegFile(file_of(self.data))

    def decode(self, allocate: Allocate, expect: Expect) -> DecodedImage:
        """Decode by simplejpeg, or by Pillow if simplejpeg does not take the image."""
        buffered = self._is_buffered()
        self.limits.check_header(self.width, self.height, buffered=buffered)
        scans = self._count_scans() if buffered else 0
        full = self.smallest == (0, 0) or decodes_in_full(
            self.width, self.height, self.smallest
        )
        each = _NS_A_PIXEL["JPEG" if full else "reduced"] + scans * _NS_A_SCAN
        expect(self.width * self.height * each / 1e9)
        shape = self._reduced_shape()
        pixels = shape and self._by_simplejpeg(*shape, allocate)
        if pixels is None:
            return self._by_pillow(allocate)
        width, height = self.width, self.height
        if turns(self.orientation):
            width, height = height, width
        return DecodedImage(pixels, width, height, self.orientation, "JPEG")

    def _is_buffered(self) -> bool:
        """Return whether the image comes in more than one scan.

        Pillow has read up to the end of the first scan's header, which for an image
        of one scan names every component of the frame.
        """
        count = self.image.layers
        length = 2 * count + 6
        header = bytes((0xFF, 0xDA, 0, length, count))
        at = cast("IO[bytes]", self.image.fp).tell() - length - 2
        return "progressive" in self.image.info or self.data[at : at + 5] != header

    def _count_scans(self) -> int:
        """Count the scans, which may not be too many, and may not lack one."""
        limit = self.limits.most_scans(self.width, self.height)
        found = islice(jpeg_markers.SCAN.finditer(self.data), limit + 1)
        scans = sum(1 for _ in found)
        if scans > limit:
            raise UndecodableImage(f"it has more than {limit} scans.")
        if not jpeg_markers.has_all_scans(self.data, self.image.layers):
            raise UndecodableImage("the JPEG data is damaged or cut short.")
        return scans

    def _scaling(self) -> dict[str, float]:
        """Return simplejpeg's arguments for the smallest scale that is enough."""
        if self.smallest == (0, 0):
            return {}
        fits = self.width * self.height <= self.limits.max_pixels
        return {
            "min_height": self.smallest[0],
            "min_width": self.smallest[1],
            "min_factor": FAST_REDUCTION if fits else ANY_REDUCTION,
        }

    def _reduced_shape(self) -> tuple[int, int] | None:
        """Return the stored (height, width) to decode, ``None`` if Pillow has to."""
        try:
            full = self._header()
            height, width, *_ = simplejpeg.decode_jpeg_header(
                self.data, **self._scaling()
            )
        except (ValueError, KeyError):
            return None
        # Two readers that see two sizes: the file is odd, and Pillow at least checks
        # what it gets against its header.
        if full[:2] != (self.height, self.width):
            return None
        self.inks = full[2] in {"CMYK", "YCCK"}
        self.limits.check_decoded(width * height, self.width, self.height)
        return height, width

    def _header(self) -> tuple[Any, ...]:
        """Read the header, once more without its junk if it has some."""
        try:
            return tuple(simplejpeg.decode_jpeg_header(self.data))
        except ValueError as err:
            if not jpeg_markers.is_warning(str(err)):
                raise
        self.data = jpeg_markers.clean(self.data)
        self.scan = jpeg_markers.first_scan(self.data)
        return tuple(simplejpeg.decode_jpeg_header(self.data))

    def _by_simplejpeg(
        self, height: int, width: int, allocate: Allocate
    ) -> Pixels | None:
        """Decode into the caller's memory; ``None`` if simplejpeg gives up."""
        pixels = allocate(_upright_shape(height, width, self.orientation))
        upright = self.orientation == UPRIGHT
        if self.inks:
            stored = self._from_inks(height, width)
        else:
            stored = self._decode_coded(
                pixels if upright else _new((height, width, 3)), "RGB"
            )
        if stored is not None and stored is not pixels:
            copy_upright(stored, self.orientation, pixels)
        return None if stored is None else pixels

    def _from_inks(self, height: int, width: int) -> Pixels | None:
        """Decode four inks, which Adobe's programs write inverted, to RGB."""
        inks = self._decode_coded(_new((height, width, 4)), "CMYK")
        if inks is None:
            return None
        np.invert(inks, out=inks)
        image = Image.frombuffer("CMYK", (width, height), inks, "raw", "CMYK", 0, 1)
        return np.asarray(to_rgb(image))

    def _decode_coded(self, stored: Pixels, colours: str) -> Pixels | None:
        """Decode the coded pixels as they are stored; ``None`` as above.

        Raises:
            UndecodableImage: some of the pixels are not in the file.
        """
        try:
            # Plain DCT and upsampling: with them the result is Pillow's, bit for bit.
            simplejpeg.decode_jpeg(self.data, colours, buffer=stored, **self._scaling())
        except ValueError as err:
            message = str(err)
            if self._drop_tail(message):
                return self._decode_coded(stored, colours)
            if not jpeg_markers.is_warning(message):
                return None
            if jpeg_markers.tells_of_padding(message):
                # Rare, and Pillow's way looks at each stretch of the pixels.
                return None
            if not jpeg_markers.is_harmless(
                message, self.data, self.scan, ended=self.ended
            ):
                raise UndecodableImage(
                    "the JPEG data is damaged or cut short."
                ) from err
        return stored

    def _drop_tail(self, message: str) -> bool:
        """Drop what libjpeg stumbled over behind pixels without an end, if so."""
        if not jpeg_markers.tells_of_tail(message):
            return False
        data = jpeg_markers.without_tail(self.data, ended=self.ended)
        if len(data) >= len(self.data):
            return False
        self.data, self.ended = data, False
        if self._is_buffered():
            self._count_scans()
        return True

    def _by_pillow(self, allocate: Allocate) -> DecodedImage:
        """Decode an image that simplejpeg refused, at one of Pillow's four scales."""
        height, width = self.smallest
        if height and width:
            self.image.draft(None, (width, height))
        self.image.tile = [
            tile._replace(
                codec_name=watched_jpegs.NAME,
                args=(*cast("tuple[Any, ...]", tile.args), self.ended),
            )
            for tile in self.image.tile
        ]
        size = (self.width, self.height)
        return _by_pillow(self.image, "JPEG", self.limits, allocate, size)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to mode ``RGB``.

    Gray and palette images are widened; transparency is laid over white; CMYK becomes
    RGB by Pillow's plain inversion; 16-bit gray is scaled, value / 257 rounded (16-bit
    colour already lost its low byte in Pillow's PNG reader).

    Args:
        image: loaded, of any mode that JPEG, PNG, WebP, GIF or BMP come in.

    Returns:
        The image itself if it is plain RGB, else a new one.
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
