"""A BMP as Pillow opens it, or, of the kinds that Pillow does not know, as we do.

Browsers and Windows show those too: any masks of colours and of alpha in 16 or 32 bits,
palettes of four colours, palettes longer than they need be, the short header of OS/2.
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, Image, ImageFile

# A name for Pillow's registry of decoders.
_NAME = "bmp_rare"
_CORE, _SHORT, _INFO, _OS2 = 12, 16, 40, 64
_WITH_ALPHA = 56
# wingdi.h: BI_RGB, BI_BITFIELDS, and Windows CE's BI_ALPHABITFIELDS.
_PLAIN, _MASKS, _MASKS_AND_ALPHA = 0, 3, 6
_HEADER_AT, _MASKS_AT = 14, 54
_PALETTE_BITS = (1, 2, 4, 8)
# Which masks Pillow reads as they are meant: red, green, blue, alpha.
_USUAL = {
    16: {(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)},
    32: {
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0, 0, 0, 0),
    },
}
_BYTE_BITS, _BYTE_MAX = 8, 255
# Pixels that are taken out of their words at a time.
_AT_ONCE = 1 << 18

Pixels = npt.NDArray[np.uint8]


class _Header(NamedTuple):
    """What a BMP says of itself; ``masks`` of red, green, blue and alpha, or none."""

    size: int
    width: int
    height: int
    bits: int
    compression: int
    colours: int
    pixels_at: int
    masks: tuple[int, ...]

    @property
    def masks_end(self) -> int:
        """Where the header and the masks that follow it end."""
        behind = 4 * len(self.masks) if self.size == _INFO else 0
        return _HEADER_AT + self.size + behind

    @property
    def has_alpha(self) -> bool:
        return self.masks[3:] not in {(), (0,)}

    @property
    def line_bytes(self) -> int:
        """How many bytes a line of pixels takes, filled up to whole words."""
        return (self.width * self.bits + 31) // 32 * 4

    def is_rare(self) -> bool:
        """Return whether Pillow refuses it, or sees something else in it."""
        if self.masks:
            four = (*self.masks, 0)[:4]
            rare = self.bits in _USUAL and four not in _USUAL[self.bits]
            return rare or self.compression == _MASKS_AND_ALPHA
        in_palette = self.compression == _PLAIN and self.bits in _PALETTE_BITS
        long = in_palette and self.colours > 1 << self.bits
        return self.size == _SHORT or long or (in_palette and self.bits == 2)  # noqa: PLR2004 - in no header before Windows CE


def open_bmp(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open a BMP; no pixel is decoded yet.

    Raises:
        Exception: of Pillow's choice, for a broken one.
    """
    start = file.tell()
    try:
        rare = _read_header(file).is_rare()
    except struct.error:
        rare = False
    file.seek(start)
    return _RareBmp(file) if rare else BmpImagePlugin.BmpImageFile(file)


def _read_header(file: IO[bytes]) -> _Header:
    """Read the header.

    Raises:
        struct.error: the file ends in it.
    """
    head = file.read(_MASKS_AT + 16)
    pixels_at, size = struct.unpack_from("<II", head, 10)
    if size == _CORE:
        width, height, _, bits = struct.unpack_from("<4H", head, 18)
        return _Header(size, width, height, bits, _PLAIN, 0, pixels_at, ())
    width, height, _, bits = struct.unpack_from("<iiHH", head, 18)
    if size == _SHORT:
        return _Header(size, width, height, bits, _PLAIN, 0, pixels_at, ())
    (compression,) = struct.unpack_from("<I", head, 30)
    (colours,) = struct.unpack_from("<I", head, 46)
    masks: tuple[int, ...] = ()
    if compression in {_MASKS, _MASKS_AND_ALPHA} and size != _OS2:
        alpha = size >= _WITH_ALPHA or compression == _MASKS_AND_ALPHA
        masks = struct.unpack_from("<4I" if alpha else "<3I", head, _MASKS_AT)
    return _Header(size, width, height, bits, compression, colours, pixels_at, masks)


class _RareBmp(ImageFile.ImageFile):
    """A BMP whose pixels are read here. For one thread."""

    format = "BMP"

    def _open(self) -> None:
        """Read the header.

        Raises:
            SyntaxError: there is nothing to show.
            OSError: no viewer can know what the pixels mean.
        """
        assert self.fp is not None  # noqa: S101 - as in Pillow's own
        header = _read_header(self.fp)
        if header.width <= 0 or header.height == 0:
            raise SyntaxError("a BMP without pixels")
        if header.masks:
            known = header.bits in _USUAL and any(header.masks[:3])
            known = known and all(map(_is_one_stretch, header.masks))
        else:
            known = header.bits in {*_PALETTE_BITS, 24}
        if not known:
            raise OSError("Unsupported BMP layout")
        self._mode = "RGBA" if header.has_alpha else "RGB"
        self._size = header.width, abs(header.height)
        self.info["compression"] = header.compression
        palette = b""
        if not header.masks and header.bits in _PALETTE_BITS:
            palette = self._palette(header)
        at = header.pixels_at or header.masks_end + len(palette)
        box = (0, 0, *self._size)
        self.tile = [ImageFile._Tile(_NAME, box, at, (header, palette))]  # noqa: SLF001 - no other way to name one

    def _palette(self, header: _Header) -> bytes:
        """Read the palette: blue, green, red and nothing each."""
        assert self.fp is not None  # noqa: S101 - as above
        most = 1 << header.bits
        if header.colours:
            most = min(most, header.colours)
        start = header.masks_end
        end = start + 4 * most
        if header.pixels_at:
            end = min(end, header.pixels_at)
        self.fp.seek(start)
        return self.fp.read(max(0, end - start))


def _is_one_stretch(mask: int) -> bool:
    """Return whether a mask's bits are neighbours; none are, too."""
    return (mask + (mask & -mask)) & mask == 0


class _RareDecoder(ImageFile.PyDecoder):
    """A decoder of Pillow's, for one image."""

    _pulls_fd = True

    def decode(self, _buffer: object) -> tuple[int, int]:
        """Decode the file that ``setfd`` was given, from the pixels on.

        Raises:
            ValueError: pixels are missing.
        """
        if self.fd is None:
            raise ValueError("there is no file")
        header, palette = self.args
        data = self.fd.read(header.line_bytes * self.state.ysize)
        missing = header.line_bytes * self.state.ysize - len(data)
        # Nobody misses what fills up the last line.
        if missing * _BYTE_BITS > header.line_bytes * _BYTE_BITS - (
            header.width * header.bits
        ):
            raise ValueError("pixels are missing")
        lines = np.frombuffer(data + bytes(missing), np.uint8)
        lines = lines.reshape(-1, header.line_bytes)
        pixels = np.empty((len(lines), header.width, len(self.mode)), np.uint8)
        step = max(1, _AT_ONCE // header.width)
        for at in range(0, len(lines), step):
            _read(lines[at : at + step], header, palette, pixels[at : at + step])
        up = -1 if header.height > 0 else 1
        self.set_as_raw(pixels.tobytes(), self.mode, (0, up))
        return -1, 0


def _read(lines: Pixels, header: _Header, palette: bytes, into: Pixels) -> None:
    """Take some lines' colours out of their bytes."""
    if header.masks:
        words = lines.view(f"<u{header.bits // _BYTE_BITS}")[:, : header.width]
        for channel in range(into.shape[-1]):
            into[..., channel] = _take(words, header.masks[channel])
    elif palette:
        colours = np.zeros((1 << header.bits, 4), np.uint8)
        given = np.frombuffer(palette[: len(palette) // 4 * 4], np.uint8)
        colours[: len(given) // 4] = given.reshape(-1, 4)
        into[...] = colours[_numbers(lines, header), 2::-1]
    else:
        into[...] = lines[:, : 3 * header.width].reshape(into.shape)[..., ::-1]


def _take(words: npt.NDArray[np.unsignedinteger], mask: int) -> npt.NDArray[np.uint32]:
    """Return a mask's values, brought to eight bits as browsers do."""
    if not mask:
        return np.zeros(words.shape, np.uint32)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = (words.astype(np.uint32) & np.uint32(mask)) >> np.uint32(shift)
    if most > _BYTE_MAX:
        return values >> np.uint32(most.bit_length() - _BYTE_BITS)
    return (values * np.uint32(_BYTE_MAX) + np.uint32(most // 2)) // np.uint32(most)


def _numbers(lines: Pixels, header: _Header) -> Pixels:
    """Return each pixel's number in the palette."""
    each = _BYTE_BITS // header.bits
    shifts = np.arange(each, dtype=np.uint8)[::-1] * np.uint8(header.bits)
    numbers = lines[:, :, None] >> shifts & np.uint8((1 << header.bits) - 1)
    return numbers.reshape(len(lines), -1)[:, : header.width]


Image.register_decoder(_NAME, _RareDecoder)
