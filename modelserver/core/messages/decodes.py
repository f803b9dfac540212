"""Messages between the engine, decoders and their template; limits of images.

A decoder does one job at a time. The engine says how many pixels a job may take; a
decoder asks if it needs more, or if its job turns out to be costly, and then waits for
``Go`` or ``Drop``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from modelserver.core.errors import ImageTooLarge, UndecodableImage
from modelserver.core.messages.requests import Refused, Tensor
from modelserver.core.messages.runs import Mark, PictureFormat
from modelserver.core.signatures import Resize, Sampling

# A JPEG of more than one scan is held whole as coefficients, 2 bytes a sample, at any
# scale it is decoded at: a few hundred bytes can ask for a gigabyte. Twice the pixels
# that may be decoded lets the 50-megapixel photos of phones through.
BUFFERED_SHARE = 2
# Each scan of a JPEG is work over the whole image, for which 40 bytes are enough:
# measured, 1.5 ns a pixel and scan, so this is some 4 s. Programs write 10 to 14 scans,
# and a phone's file with a second photo inside has twice as many.
MOST_SCANNED_PIXELS = 2_500_000_000
MOST_SCANS = 1_000
# Of a decoded image: RGB.
_CHANNELS = 3


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """The largest images that are decoded.

    Attributes:
        max_pixels: width x height of the decoded image, after a reduced decode; 3 bytes
            each. The default holds the photos of cameras, at 75 MB.
        max_header_pixels: width x height that the header may claim, for images that
            a reduced decode brings under ``max_pixels``.
        max_side: pixels of the longer side; an image above it is a strip that no model
            is made for.
    """

    max_pixels: int = 25_000_000
    max_header_pixels: int = 200_000_000
    max_side: int = 30_000

    def check_header(self, width: int, height: int, *, buffered: bool = False) -> None:
        """Refuse an image that its header alone rules out.

        Args:
            width: pixels, as stored.
            height: pixels, as stored.
            buffered: the decoder must hold the whole image at full size to give any
                part or reduction of it, as with a progressive JPEG.

        Raises:
            ImageTooLarge: too many pixels.
            UndecodableImage: a side is too long.
        """
        limit = self.max_header_pixels
        if buffered:
            limit = min(limit, BUFFERED_SHARE * self.max_pixels)
        if width * height > limit:
            raise ImageTooLarge(width, height, limit)
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


class Fit(msgspec.Struct, frozen=True, array_like=True):
    """The form in which a model is fed an image.

    Attributes:
        size: (height, width) in pixels, ``None`` for any.
        at_least: (height, width) in upright pixels that are enough to decode; ``None``
            for a full decode.
        channels: 3 for RGB, 1 for gray.
        resize: how an image of another shape is brought to ``size``.
        crop_from: see ``Signature``.
        sampling: resize as TensorFlow would, by these points, and not by ``resize``.
    """

    size: tuple[int, int] | None = None
    at_least: tuple[int, int] | None = None
    channels: int = _CHANNELS
    resize: Resize = "stretch"
    crop_from: int | None = None
    sampling: Sampling | None = None

    @property
    def as_decoded(self) -> bool:
        """Whether the decoded pixels are fed as they are."""
        return self.size is None and self.channels == _CHANNELS


class Fitted(msgspec.Struct, frozen=True, array_like=True):
    """An image in the form in which a model is fed it.

    Attributes:
        shape: of its frame: height, width, channels.
        width, height: of the upright photo, in pixels.
        window: ymin xmin ymax xmax of the part that the model is shown, in the photo's
            normalised coordinates.
        orientation: the EXIF orientation that was applied, 1 to 8.
        format: by content, such as ``JPEG``.
    """

    shape: tuple[int, int, int]
    width: int
    height: int
    window: tuple[float, float, float, float]
    orientation: int
    format: str


class Decode(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Engine to decoder, with the upload's descriptor: decode a photo.

    Attributes:
        number: of the job.
        nbytes: of the upload.
        pixels: that may be taken for each fit without asking.
        costly: the decoder may take its time.
        free: offsets of frames that nobody reads any more.
    """

    number: int
    nbytes: int
    limits: Limits
    fits: tuple[Fit, ...]
    pixels: tuple[int, ...]
    costly: bool = False
    free: tuple[int, ...] = ()


class Draw(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Engine to decoder, with the upload's descriptor: draw marks on a photo."""

    number: int
    nbytes: int
    limits: Limits
    marks: tuple[Mark, ...]
    form: PictureFormat
    free: tuple[int, ...] = ()


class Go(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Engine to decoder: the job may have what it wants."""

    number: int


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Engine to decoder: end the job."""

    number: int


class Free(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Engine to decoder: offsets of frames that nobody reads any more."""

    offsets: tuple[int, ...]


class Copy(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Engine to decoder, with the upload's descriptor: copy numbers out of it."""

    number: int
    nbytes: int
    tensor: Tensor
    free: tuple[int, ...] = ()


ToDecoder: TypeAlias = Decode | Draw | Copy | Go | Drop | Free

_Bytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)]


class Started(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Decoder to engine, with its memory's descriptor: ready for a job.

    Attributes:
        nbytes: of the memory.
        filtered: its system calls are.
    """

    nbytes: _Bytes
    filtered: bool


class Wants(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Decoder to engine: the job needs so many pixels for a fit, or is costly."""

    number: int
    fit: _Bytes
    pixels: _Bytes
    costly: bool


class Placed(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """An image in the decoder's memory."""

    offset: _Bytes
    fitted: Fitted


class Decoded(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Decoder to engine: for each fit an image, or why there is none."""

    number: int
    images: tuple[Placed | Refused, ...]


class Drawn(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Decoder to engine: a file lies in its memory."""

    number: int
    offset: _Bytes
    nbytes: _Bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Decoder to engine: the job came to nothing."""

    number: int
    error: Refused


class Copied(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Decoder to engine: the numbers lie in its memory."""

    number: int
    offset: _Bytes


ToEngine: TypeAlias = Started | Wants | Decoded | Drawn | Copied | Failed


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Engine to template, with one end of a socket: make a decoder.

    Attributes:
        number: of the decoder.
        memory_bytes: for frames.
        work_bytes: of memory that it may take beside.
    """

    number: int
    memory_bytes: int
    work_bytes: int


class Spawned(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Template to engine, with the decoder's pidfd: there it is."""

    number: int
    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class NotSpawned(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Template to engine: the system has no room for one more process."""

    number: int
    reason: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Template to engine: how a decoder ended, such as ``SIGSEGV``."""

    pid: int
    how: str


FromTemplate: TypeAlias = Spawned | NotSpawned | Ended
