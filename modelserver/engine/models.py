"""One model that serves: its files, labels, runner and queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from modelserver import decoder
from modelserver.core.errors import ModelNotReady
from modelserver.core.pixels import sample
from modelserver.decoder import DecodedImage, Limits
from modelserver.engine.queue import Batcher, Completion, QueueSlot
from modelserver.tasks import Metadata
from modelserver.tasks.task import WHOLE

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.core.frames import Frame
    from modelserver.core.messages import Facts, ImageResult, Runner
    from modelserver.core.settings import Settings
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tasks.labels import LabelMap
    from modelserver.tasks.task import Box

# A detector's own resizer is bilinear without smoothing: fed an image of twice its size
# or more it sees the same as from the full photo (docs/benchmarks.md has the figures).
_REDUCE_TO = 2
# Of a decoded image: RGB.
_CHANNELS = 3


class Prepared(NamedTuple):
    """An upload that is ready to run.

    Attributes:
        width, height: of the upright photo, in pixels.
        window: ymin xmin ymax xmax of the part that the graph is shown, in the
            photo's normalised coordinates.
        orientation: the EXIF orientation that was applied, 1 to 8.
    """

    frame: Frame
    width: int
    height: int
    window: Box
    orientation: int = 1


class Model:
    """A loaded model. Thread-safe; the code that loaded it closes it.

    Attributes:
        files: the files that it was loaded from.
        facts: the outcome of its load.
        labels: its label map.
        offset: a classifier's label id = output index + offset.
        runner: runs its graph.
        ended: resolves once the model can serve no more.
        queue: admits its images, forms batches of them and counts them.
    """

    def __init__(
        self,
        files: ModelFiles,
        facts: Facts,
        label_map: LabelMap,
        runner: Runner,
        settings: Settings,
        *,
        offset: int = 0,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the parts; ``on_close`` is called once, when the model is closed."""
        self.files = files
        self.facts = facts
        self.labels = label_map
        self.offset = offset
        self.runner = runner
        self.ended = runner.ended
        self._on_close: Callable[[], None] | None = on_close
        self._full_decode = settings.full_decode
        self._limits = Limits(
            max_pixels=settings.max_image_pixels,
            max_header_pixels=settings.max_header_pixels,
        )
        self.queue: Batcher[Frame, ImageResult] = Batcher(
            runner.run,
            run_slots=facts.slots + runner.ahead,
            max_batch=facts.max_batch,
            capacity=settings.queue_length,
            max_wait_s=settings.max_queue_wait_s,
            key=lambda frame: frame.pixels.shape,
            unusual=lambda result: result.first,
            delay_s=settings.batch_delay_ms / 1000,
        )

    @property
    def metadata(self) -> Metadata:
        """The data by which its outputs are parsed."""
        return Metadata(self.facts.signature, self.labels, self.offset)

    def prepare(self, data: bytes | memoryview | mmap.mmap) -> Prepared:
        """Decode an upload into memory that the runner reads.

        All decoded pixels lie in the runner's arena, so the images in flight never
        take more than ``MAX_PIXELS_IN_FLIGHT`` allows, however large the graph's input
        is.

        Returns:
            With a frame that the caller gives to :meth:`submit` or releases.

        Raises:
            RequestError: it is no image, too large, broken, or there is no room.
        """
        frame, image = self.decode(data)
        if self._fed_as_decoded:
            return self._describe(frame, image)
        try:
            return self.fit(image)
        finally:
            frame.release()

    def fit(self, image: DecodedImage) -> Prepared:
        """Copy an image that was decoded before; as :meth:`prepare` for the rest."""
        if self._fed_as_decoded:
            frame = self.runner.allocate(image.pixels.shape)
            frame.pixels[...] = image.pixels
        else:
            frame = self._resize(image.pixels)
        return self._describe(frame, image)

    @property
    def _fed_as_decoded(self) -> bool:
        """Whether the graph is fed the decoded pixels as they are."""
        facts = self.facts
        anything = facts.signature.size is None and facts.sampling is None
        return anything and facts.signature.channels == _CHANNELS

    @property
    def at_least(self) -> tuple[int, int] | None:
        """Height and width to decode at least; ``None`` for a full decode."""
        signature = self.facts.signature
        target = signature.size or signature.inner_size
        # A crop from a square is measured in the whole photo, to the pixel.
        if target is None or self._full_decode or signature.crop_from:
            return None
        return _REDUCE_TO * target[0], _REDUCE_TO * target[1]

    def decode(
        self, data: bytes | memoryview | mmap.mmap
    ) -> tuple[Frame, DecodedImage]:
        """Decode into a frame, which the caller releases; as :meth:`prepare`."""
        frames: list[Frame] = []

        def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            frames.append(self.runner.allocate(shape))
            return frames[-1].pixels

        try:
            image = decoder.decode(
                data, limits=self._limits, at_least=self.at_least, allocate=allocate
            )
        except BaseException:
            for frame in frames:
                frame.release()
            raise
        # A decoder may have tried one frame, failed, and fallen back to another.
        for frame in frames[:-1]:
            frame.release()
        # The same memory, but a photo that was turned has its sides changed.
        frames[-1].pixels = image.pixels
        return frames[-1], image

    def _resize(self, pixels: NDArray[np.uint8]) -> Frame:
        """Bring an image to the size and the channels that the graph takes."""
        signature = self.facts.signature
        sampling, inner_size = self.facts.sampling, signature.inner_size
        fed = signature.size or (inner_size if sampling else None) or pixels.shape[:2]
        frame = self.runner.allocate((*fed, signature.channels))
        try:
            if signature.channels != _CHANNELS:
                pixels = decoder.to_gray(pixels)
            if signature.size is None and sampling is not None:
                sample(pixels, fed, sampling, out=frame.pixels)
            elif signature.crop_from:
                decoder.crop_from(pixels, signature.crop_from, fed, out=frame.pixels)
            else:
                decoder.resize(pixels, fed, signature.resize, out=frame.pixels)
        except BaseException:
            frame.release()
            raise
        return frame

    def _describe(self, frame: Frame, image: DecodedImage) -> Prepared:
        size, window = self.facts.signature.size, WHOLE
        if size is not None:
            how = self.facts.signature.resize
            window = decoder.source_window(image.pixels.shape, size, how)
        width, height = image.width, image.height
        return Prepared(frame, width, height, window, image.orientation)

    def submit(
        self, frame: Frame, slot: QueueSlot[Frame, ImageResult] | None = None
    ) -> Future[Completion[ImageResult]]:
        """Queue a frame; it is released when the future is done, however that ends.

        Args:
            slot: from ``queue.admit``, taken before anything was decoded; without one
                it is taken now.

        Raises:
            Overloaded: the queue is full; the frame is released.
        """
        try:
            future = self.queue.submit(frame, slot)
        except BaseException:
            frame.release()
            raise
        future.add_done_callback(lambda _: frame.release())
        return future

    def close(self) -> None:
        """Fail the images that wait, end the runner, free its memory. Idempotent."""
        self.queue.close(ModelNotReady(self.files.name, "closing"))
        self.runner.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
