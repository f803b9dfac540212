"""Decodes a JPEG by Pillow, and notices whether its pixels are all there.

Pillow hides libjpeg's warnings, but it tells how far libjpeg has read. With the last
pixel of a scan, or of a restart interval, libjpeg begins to pass over bytes up to the
next marker (where there is one scan, Pillow stops); before that it takes what it
decodes. So each stretch of coded pixels is given without the marker behind it, and
libjpeg must be done neither before the stretch's end nor later. Nothing is decoded
twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile

from modelserver.decoder import jpeg_markers

if TYPE_CHECKING:
    from modelserver.decoder.jpeg_markers import Stretch

# A name for Pillow's registry of decoders.
NAME = "watched_jpeg"
# libjpeg takes 57 bits at a time or none (jdhuff.h, MIN_GET_BITS), so the last pixels
# wait for up to seven bytes that they do not need. All ones are no Huffman code: where
# pixels are missing, these bytes last for two blocks of 8 x 8 at most.
_REFILL = b"\xff\0" * 7
_REFILL_BYTES = 8
# Frames in arithmetic coding, which libjpeg decodes from whole files only.
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


class _Damaged(ValueError):
    """Pixels are missing, or there is more than the pixels."""


class _WatchedDecoder(ImageFile.PyDecoder):
    """Pillow's own decoder of JPEG, given its data in stretches. For one image."""

    _pulls_fd = True

    def decode(self, _buffer: object) -> tuple[int, int]:
        """Decode the file that ``setfd`` was given, from its start to its end.

        Raises:
            ValueError: some of the pixels are not in the file.
        """
        if self.fd is None or self.im is None:
            raise ValueError("there is no file or no image")
        self._left, self._complete = b"", False
        layout, colours, ended, *scaling = self.args
        self._inner: Any = Image.core.jpeg_decoder(  # type: ignore[attr-defined]
            self.mode, layout, colours, *scaling
        )
        self._inner.setimage(self.im, self.state.extents())
        data = self.fd.read()
        content = jpeg_markers.without_tail(data, ended=ended)
        ended, data = ended and content is data, bytes(content)
        if jpeg_markers.frame_of(data) in _ARITHMETIC:
            _, error = self._inner.decode(data)
            return -1, error
        at = 0
        for stretch in jpeg_markers.stretches(data, ended=ended):
            self._take(data, at, stretch)
            at = stretch.end
        self._give(data[at:])
        if not self._complete:
            raise _Damaged
        return -1, 0

    def _take(self, data: bytes, at: int, stretch: Stretch) -> None:
        """Decode what is between the stretches, and then a stretch."""
        # More than a refill before the last bytes that may be needed.
        early = max(stretch.start, stretch.least_end - _REFILL_BYTES)
        early -= data[early - 1] == jpeg_markers.FILL
        # A zero belongs to the 0xFF before it.
        end = min(early + 1 + (data[early] == jpeg_markers.FILL), stretch.end)
        if self._is_done(data[at:early], data[early:end]):
            raise _Damaged
        if not self._has_all(data, end, stretch):
            raise _Damaged
        # Who waits for a restart is not done; others pass over it, too.
        if stretch.restart and not self._is_done(stretch.restart, b"\0"):
            raise _Damaged

    def _has_all(self, data: bytes, at: int, stretch: Stretch) -> bool:
        """Return whether the pixels end before what is surely junk, or with it."""
        latest, end = stretch.most_end, stretch.end
        if at < latest < end:
            if self._is_done(data[at : latest - 1], data[latest - 1 : latest]):
                return True
            at = max(latest, end - _REFILL_BYTES)
            if self._is_done(data[latest:at], b""):
                return False
        return self._is_done(data[at:end] + _REFILL, b"\0")

    def _is_done(self, piece: bytes, more: bytes) -> bool:
        """Give a piece and a byte more, and return whether both were passed over.

        A byte more is not enough for a refill, so it waits if there are pixels to come.
        """
        done = self._give(piece)
        return self._give(more) and done

    def _give(self, piece: bytes) -> bool:
        """Give a piece, and return whether nothing of it waits to be decoded.

        With the last row of an image of one scan Pillow reads no further.
        """
        if self._complete:
            return True
        self._left += piece
        number, error = self._inner.decode(self._left)
        if error:
            raise _Damaged(error)
        self._complete = number < 0
        self._left = b"" if self._complete else self._left[number:]
        return not self._left


Image.register_decoder(NAME, _WatchedDecoder)
