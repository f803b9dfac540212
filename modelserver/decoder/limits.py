"""How large an image may be: decided from its header, before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from modelserver.core.errors import ImageTooLarge, UndecodableImage

# A JPEG of more than one scan is held whole as coefficients, 2 bytes a sample, whatever
# the scale it is decoded at: a few hundred bytes can ask for a gigabyte. Twice the
# pixels that may be decoded lets the 50-megapixel photos of phones through.
BUFFERED_SHARE = 2
# Each scan of a JPEG is work over the whole image, for which 40 bytes are enough:
# measured, 1.5 ns a pixel and scan, so this is some 4 s. Programs write 10 to 14 scans,
# and a phone's file with a second picture inside has twice as many.
MOST_SCANNED_PIXELS = 2_500_000_000
MOST_SCANS = 1_000


@dataclass(frozen=True)
class Limits:
    """The largest images that are decoded.

    Attributes:
        max_pixels: width x height of what is really decoded, after a reduced decode;
            3 bytes each. The default holds what cameras make, at 75 MB.
        max_header_pixels: width x height that the header may claim, for images that
            a reduced decode brings under ``max_pixels``.
        max_side: pixels of the longer side; above it an image is a strip of which no
            model makes sense.
    """

    max_pixels: int = 25_000_000
    max_header_pixels: int = 200_000_000
    max_side: int = 30_000

    def check_header(self, width: int, height: int, *, buffered: bool = False) -> None:
        """Refuse what the header alone rules out.

        Args:
            width: pixels, as stored.
            height: pixels, as stored.
            buffered: the decoder must hold the whole image at full size to give any
                part or reduction of it, as with a progressive JPEG.

        Raises:
            ImageTooLarge: too many pixels.
            UndecodableImage: a side is too long.
        """
        most = self.max_header_pixels
        if buffered:
            most = min(most, BUFFERED_SHARE * self.max_pixels)
        if width * height > most:
            raise ImageTooLarge(width, height, most)
        if max(width, height) > self.max_side:
            raise UndecodableImage(
                f"it is {width} x {height} pixels, and a side may have "
                f"{self.max_side} at most."
            )

    def most_scans(self, width: int, height: int) -> int:
        """Return how many scans a JPEG of some size may have."""
        return min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, width * height))

    def check_decoded(self, pixels: int, width: int, height: int) -> None:
        """Refuse an image of which too many pixels would be decoded.

        Args:
            pixels: how many would be, after a reduction.
            width: pixels of the whole image, for the message.
            height: pixels of the whole image, for the message.

        Raises:
            ImageTooLarge: more than ``max_pixels``.
        """
        if pixels > self.max_pixels:
            raise ImageTooLarge(width, height, self.max_pixels)
