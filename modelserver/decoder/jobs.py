"""The jobs of a decoder: a photo to what models are fed, a photo with marks on it.

Plain functions, for a decoder's process, a thread of the engine or a command line.
Thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from modelserver import decoder
from modelserver.core.errors import RequestError
from modelserver.core.messages.decodes import Fitted
from modelserver.core.pixels import sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.core.frames import Frame
    from modelserver.core.messages import Mark, PictureFormat
    from modelserver.core.messages.decodes import Fit, Limits
    from modelserver.decoder import DecodedImage
    from modelserver.decoder.decoders import Data, Expect

    Allocate = Callable[[tuple[int, ...]], Frame]

_CHANNELS = 3
_WHOLE = (0.0, 0.0, 1.0, 1.0)


class Ready(NamedTuple):
    """An image that a model can be fed; whoever asked for it releases the frame."""

    frame: Frame
    fitted: Fitted


class _Decoded(NamedTuple):
    """Pixels in a frame, decoded for at least so many."""

    frame: Frame
    image: DecodedImage
    at_least: tuple[int, int] | None


def prepare(
    data: Data,
    fits: Sequence[Fit],
    limits: Limits,
    allocates: Sequence[Allocate],
    expect: Expect = decoder.anything,
) -> list[Ready | RequestError]:
    """Decode a photo in the form of each of some models.

    It is decoded once for all that would be given the same pixels alone.

    Args:
        data: the upload; not kept.
        fits: what each model is fed.
        limits: checked from the header, before anything is decoded.
        allocates: cuts a frame for an array of some shape, one function a fit; may
            raise a RequestError. A model's frame holds the decoded pixels for a while
            where it is fed others.
        expect: called before each decode; see ``decode``.

    Returns:
        For each model its image, or why there is none.
    """
    job = _Job(data, limits, expect)
    try:
        return [
            job.fit(fit, allocate)
            for fit, allocate in zip(fits, allocates, strict=True)
        ]
    except BaseException:
        job.fail()
        raise
    finally:
        job.end()


class _Job:
    """One photo on its way to some models. For one thread."""

    def __init__(self, data: Data, limits: Limits, expect: Expect) -> None:
        self._data = data
        self._limits = limits
        self._expect = expect
        self._decoded: list[_Decoded] = []
        # Frames of results, which outlive the job.
        self._given: list[Frame] = []

    def fit(self, fit: Fit, allocate: Allocate) -> Ready | RequestError:
        try:
            decoded = self._serving(fit, allocate)
            if not fit.as_decoded:
                frame = _resize(decoded.image.pixels, fit, allocate)
            elif decoded.frame in self._given:
                frame = allocate(decoded.image.pixels.shape)
                frame.pixels[...] = decoded.image.pixels
            else:
                frame = decoded.frame
        except RequestError as error:
            return error
        self._given.append(frame)
        return Ready(frame, _describe(frame, decoded.image, fit))

    def _serving(self, fit: Fit, allocate: Allocate) -> _Decoded:
        for decoded in self._decoded:
            if serves(decoded.image, decoded.at_least, fit.at_least):
                return decoded
        frame, image = self._decode(fit.at_least, allocate)
        self._decoded.append(_Decoded(frame, image, fit.at_least))
        return self._decoded[-1]

    def _decode(
        self, at_least: tuple[int, int] | None, allocate: Allocate
    ) -> tuple[Frame, DecodedImage]:
        """Decode into a frame."""
        frames: list[Frame] = []

        def allocate_pixels(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            frames.append(allocate(shape))
            return frames[-1].pixels

        try:
            image = decoder.decode(
                self._data,
                limits=self._limits,
                at_least=at_least,
                allocate=allocate_pixels,
                expect=self._expect,
            )
        except BaseException:
            for frame in frames:
                frame.release()
            raise
        # A decoder may have tried one frame, failed, and fallen back to another.
        for frame in frames[:-1]:
            frame.release()
        # The same memory, but a photo that was turned has its sides changed.
        frames[-1].turn(image.pixels)
        return frames[-1], image

    def end(self) -> None:
        """Give back the frames that no result lies in."""
        for decoded in self._decoded:
            if decoded.frame not in self._given:
                decoded.frame.release()

    def fail(self) -> None:
        """Give back the results, too."""
        for frame in self._given:
            frame.release()


def serves(
    image: DecodedImage, given: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> bool:
    """Return whether another decode would give the very same pixels.

    Args:
        given: the least height and width that the image was decoded for.
        wanted: those that the other one would be decoded for.
    """
    if image.format != "JPEG" or given == wanted:
        return True
    whole = image.pixels.shape[:2] == (image.height, image.width)
    return whole and decoder.decodes_in_full(image.width, image.height, wanted)


def _resize(pixels: NDArray[np.uint8], fit: Fit, allocate: Allocate) -> Frame:
    """Bring an image to the size and the channels that a model is fed."""
    size = fit.size or (pixels.shape[0], pixels.shape[1])
    frame = allocate((*size, fit.channels))
    try:
        if fit.channels != _CHANNELS:
            pixels = decoder.to_gray(pixels)
        if fit.sampling is not None:
            sample(pixels, size, fit.sampling, out=frame.pixels)
        elif fit.crop_from:
            decoder.crop_from(pixels, fit.crop_from, size, out=frame.pixels)
        else:
            decoder.resize(pixels, size, fit.resize, out=frame.pixels)
    except BaseException:
        frame.release()
        raise
    return frame


def _describe(frame: Frame, image: DecodedImage, fit: Fit) -> Fitted:
    window = _WHOLE
    # What is sampled as the graph itself would is still the whole photo.
    if fit.size is not None and fit.sampling is None:
        window = decoder.source_window(image.pixels.shape, fit.size, fit.resize)
    height, width, channels = frame.pixels.shape
    return Fitted(
        (height, width, channels),
        image.width,
        image.height,
        window,
        image.orientation,
        image.format,
    )


def draw(
    data: Data, limits: Limits, marks: Sequence[Mark], form: PictureFormat
) -> bytes:
    """Return a photo, decoded in full and upright, with marks over it, as a file.

    Raises:
        RequestError: it is no image, too large to be decoded in full, or broken.
    """
    return decoder.annotate(data, limits, marks, form)
