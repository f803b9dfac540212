"""Unpacks the run lengths of a BMP, as Windows does.

Pillow's own decoder knows no line that is empty or that a jump leaves out, nor an image
that ends early; it fills lines pixel by pixel, and begins words where the file and not
the pixels have them.
"""

from __future__ import annotations

from PIL import Image, ImageFile

# A name for Pillow's registry of decoders.
NAME = "bmp_runs"
# After a zero (wingdi.h, "Bitmap Compression"); more are that many pixels as they are.
_END_OF_LINE, _END, _JUMP = 0, 1, 2
# So many codes that bring no pixel may come with each line.
_FREE_CODES = 8
# Some programs fill each line up to whole words; more beyond it is damage.
_BEYOND = 8
_BYTES = [bytes((value,)) for value in range(256)]
_HALVES = [bytes((value >> 4, value & 0xF)) for value in range(256)]


def unpack(data: bytes, size: tuple[int, int], *, halves: bool) -> bytearray:
    """Return a byte a pixel, line by line, the lowest line first.

    Pixels that the file leaves out have the palette's first colour, as in Pillow.

    Args:
        data: the coded pixels, and what follows them.
        size: (width, height).
        halves: two pixels are a byte (BI_RLE4).

    Raises:
        ValueError, IndexError: the data ends early, or leaves the lines.
    """
    width, height = size
    pixels = bytearray(width * height)
    spread = _HALVES if halves else _BYTES
    at = x = start = 0
    for _ in range(width * height + _FREE_CODES * (height + 1)):
        # Of the last line nothing but its end may be missing.
        last = at >= len(data) and x >= width and start + width == len(pixels)
        if last or start >= len(pixels):
            return pixels
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            run = spread[value] * count
        elif value > _JUMP:
            count, run = value, _plain(data, at, value, halves=halves)
            # Each begins with a word of two bytes.
            packed = value + 1 >> 1 if halves else value
            at += packed + (packed & 1)
        elif value == _JUMP:
            x, start, at = x + data[at], start + width * data[at + 1], at + 2
            continue
        elif value == _END:
            return pixels
        else:
            x, start = 0, start + width
            continue
        fits = max(0, min(count, width - x))
        pixels[start + x : start + x + fits] = run[:fits]
        x += count
        if x > width + _BEYOND:
            break
    raise ValueError("the run lengths leave the lines, or never end")


def _plain(data: bytes, at: int, count: int, *, halves: bool) -> bytes:
    """Return pixels that lie in the file as they are."""
    run = data[at : at + (count + 1 >> 1 if halves else count)]
    if halves:
        run = b"".join([_HALVES[byte] for byte in run])
    if len(run) < count:
        raise IndexError("the pixels end early")
    return run


class _RunDecoder(ImageFile.PyDecoder):
    """A decoder of Pillow's, for one image."""

    _pulls_fd = True

    def decode(self, _buffer: object) -> tuple[int, int]:
        """Decode the file that ``setfd`` was given, from the pixels on.

        Raises:
            ValueError, IndexError: see :func:`unpack`.
        """
        if self.fd is None:
            raise ValueError("there is no file")
        _, halves, direction = self.args
        size = (self.state.xsize, self.state.ysize)
        pixels = unpack(self.fd.read(), size, halves=halves)
        layout = "L" if self.mode in {"1", "L"} else "P"
        self.set_as_raw(bytes(pixels), layout, (0, direction))
        return -1, 0


Image.register_decoder(NAME, _RunDecoder)
