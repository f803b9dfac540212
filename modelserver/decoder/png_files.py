"""A PNG as Pillow opens it, which notices rows that are not there.

Pillow is content with packed pixels that end before the last row, and leaves the rest
black. So the row that is written last is marked before, and if the mark is still there
the pixels are counted.
"""

from __future__ import annotations

from PIL import PngImagePlugin

from modelserver.decoder import png_chunks

# A value for each of a pixel's samples; of 1-bit pixels none has the first one.
_MARK = (165, 90, 195, 60)


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG that :func:`png_chunks.without_extras` gave. For one thread."""

    def load_prepare(self) -> None:
        """Mark what is written last."""
        super().load_prepare()
        bands = self.im.bands
        self.im.paste(_MARK[:bands] if bands > 1 else _MARK[0], self._last_part())
        self._marked = self._extrema()

    def load_end(self) -> None:
        """Read what follows the pixels.

        Raises:
            ValueError: some of the pixels are not in the file.
        """
        # They may be equal by chance.
        if self._extrema() == self._marked and not self._has_all_rows():
            raise ValueError("pixels are missing")
        super().load_end()

    def _extrema(self) -> list[object]:
        part = self.im.crop(self._last_part())
        bands = map(part.getband, range(part.bands)) if part.bands > 1 else [part]
        return [band.getextrema() for band in bands]

    def _has_all_rows(self) -> bool:
        file = self.fp
        if file is None:
            return False
        at = file.tell()
        file.seek(0)
        found = png_chunks.has_all_rows(file.read())
        file.seek(at)
        return found

    def _last_part(self) -> tuple[int, int, int, int]:
        """Return the box of what is written last, or of a part of it."""
        width, height = self.size
        if not self.info.get("interlace"):
            return 0, height - 1, width, height
        if height == 1:
            # The last pass has each second column.
            return width > 1, 0, min(width, 2), 1
        row = height // 2 * 2 - 1
        return 0, row, width, row + 1
