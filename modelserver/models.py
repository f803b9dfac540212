"""One model that serves: its files, its labels, its runner and its queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from modelserver import images, labels
from modelserver.batching import Batcher, Done
from modelserver.errors import ModelNotReady
from modelserver.images import Limits, Picture
from modelserver.runners import (
    Answer,
    Facts,
    Frame,
    InlineRunner,
    Job,
    ProcessRunner,
    Runner,
)

if TYPE_CHECKING:
    import mmap
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.discovery import ModelFiles
    from modelserver.labels import LabelMap
    from modelserver.settings import Settings

log = logging.getLogger(__name__)

# A detector's own resizer is bilinear without smoothing: fed an image of twice its size
# or more it sees the same as from the full photo (docs/benchmarks.md has the figures).
_REDUCE_TO = 2
# Of a decoded image: RGB.
_CHANNELS = 3
# Room beside the decoded photos for what they were resized to.
_FITTED_BYTES = 64 << 20
Window: TypeAlias = tuple[float, float, float, float]
_WHOLE: Window = (0.0, 0.0, 1.0, 1.0)


class Prepared(NamedTuple):
    """An upload that is ready to run.

    Attributes:
        width, height: of the upright photo, in pixels.
        window: ymin xmin ymax xmax of what the graph is shown, in the photo's
            normalised coordinates.
    """

    frame: Frame
    width: int
    height: int
    window: Window


class Model:
    """A loaded model. Thread-safe; whoever loaded it closes it.

    Attributes:
        files: what it was loaded from.
        facts: what loading it found out.
        labels: its label map.
        offset: a classifier's label id = output index + offset.
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
    ) -> None:
        self.files = files
        self.facts = facts
        self.labels = label_map
        self.offset = offset
        self._runner = runner
        self._full_decode = settings.full_decode
        self._limits = Limits(
            max_pixels=settings.max_image_pixels,
            max_header_pixels=settings.max_header_pixels,
        )
        self._batcher: Batcher[Frame, Answer] = Batcher(
            runner.run,
            slots=facts.slots + runner.ahead,
            max_batch=facts.max_batch,
            capacity=settings.queue_length,
            key=lambda frame: frame.pixels.shape,
            delay_s=settings.batch_delay_ms / 1000,
        )

    @property
    def ended(self) -> Future[str]:
        """Resolves once the model can serve no more."""
        return self._runner.ended

    def prepare(self, data: bytes | memoryview | mmap.mmap) -> Prepared:
        """Decode an upload into memory that the runner reads.

        Whatever is decoded lies in the runner's arena, so the images in flight never
        take more than ``MAX_PIXELS_IN_FLIGHT`` allows, of whatever size the graph is
        fed.

        Returns:
            With a frame to be given to :meth:`submit` or released.

        Raises:
            RequestError: it is no image, too large, broken, or there is no room.
        """
        signature = self.facts.signature
        target = signature.size or signature.inner_size
        at_least = None
        if target is not None and not self._full_decode:
            at_least = (_REDUCE_TO * target[0], _REDUCE_TO * target[1])
        frame, picture = self._decode(data, at_least)
        if signature.size is None and signature.channels == _CHANNELS:
            return Prepared(frame, picture.width, picture.height, _WHOLE)
        try:
            fitted = self._fitted(picture.pixels)
        finally:
            frame.release()
        return Prepared(fitted, picture.width, picture.height, self._window(picture))

    def _decode(
        self,
        data: bytes | memoryview | mmap.mmap,
        at_least: tuple[int, int] | None,
    ) -> tuple[Frame, Picture]:
        frames: list[Frame] = []

        def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            frames.append(self._runner.allocate(shape))
            return frames[-1].pixels

        try:
            picture = images.decode(
                data, limits=self._limits, at_least=at_least, allocate=allocate
            )
        except BaseException:
            for frame in frames:
                frame.release()
            raise
        # A decoder may have tried one frame, failed, and fallen back to another.
        for frame in frames[:-1]:
            frame.release()
        # The same memory, but a photo that was turned has its sides changed.
        frames[-1].pixels = picture.pixels
        return frames[-1], picture

    def _fitted(self, pixels: NDArray[np.uint8]) -> Frame:
        """Bring a picture to the size and the channels that the graph takes."""
        signature = self.facts.signature
        height, width = signature.size or pixels.shape[:2]
        frame = self._runner.allocate((height, width, signature.channels))
        try:
            if signature.channels != _CHANNELS:
                pixels = images.to_gray(pixels)
            images.resize(pixels, (height, width), signature.resize, out=frame.pixels)
        except BaseException:
            frame.release()
            raise
        return frame

    def _window(self, picture: Picture) -> Window:
        """Return which part of a picture the graph is shown."""
        signature = self.facts.signature
        if signature.size is None:
            return _WHOLE
        shape = picture.pixels.shape
        return images.source_window(shape, signature.size, signature.resize)

    def submit(self, frame: Frame) -> Future[Done[Answer]]:
        """Queue a frame; it is released when the future is done, however that ends.

        Raises:
            Overloaded: the queue is full; the frame is released.
        """
        try:
            future = self._batcher.submit(frame)
        except BaseException:
            frame.release()
            raise
        future.add_done_callback(lambda _: frame.release())
        return future

    def close(self) -> None:
        """Fail what waits, end the runner and free its memory. Idempotent."""
        self._batcher.close(ModelNotReady(self.files.name, "closing"))
        self._runner.close()


class Loader:
    """Loads models, spreading them over the GPUs. Thread-safe.

    Args:
        settings: the server's.
        gpus: the visible GPUs; models take them in turn.
    """

    def __init__(self, settings: Settings, gpus: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self._gpus = gpus
        self._places: dict[str, int] = {}

    def __call__(self, files: ModelFiles) -> Model:
        """Load one model; blocks until it is warm.

        Raises:
            ModelError: with the reason for ``/models``.
        """
        label_map = labels.read_labels(files.labels)
        for warning in label_map.warnings:
            log.warning("%s: %s", files.name, warning)
        runner = self._runner(files)
        facts = runner.open()
        try:
            return self._model(files, facts, label_map, runner)
        except BaseException:
            runner.close()
            raise

    def _model(
        self, files: ModelFiles, facts: Facts, label_map: LabelMap, runner: Runner
    ) -> Model:
        offset = 0
        signature = facts.signature
        if signature.kind == "classification" and signature.classes is not None:
            alignment = labels.align(
                label_map, signature.classes, signature.label_offset
            )
            level = logging.WARNING if alignment.warning else logging.INFO
            log.log(level, "%s: %s", files.name, alignment.sentence)
            offset = alignment.offset
        for note in facts.notes:
            log.info("%s: %s", files.name, note)
        log.info(
            "%s is ready on %s after %.1f s: %d runs side by side, batches up to %d",
            files.name,
            facts.device,
            facts.load_ms / 1000,
            facts.slots,
            facts.max_batch,
        )
        return Model(files, facts, label_map, runner, self._settings, offset=offset)

    def _runner(self, files: ModelFiles) -> Runner:
        settings = self._settings
        job = Job(
            name=files.name,
            kind=files.kind,
            graph=str(files.graph.resolve()),
            sidecar=str(files.sidecar.resolve()) if files.sidecar else None,
            slots=settings.slots,
            max_batch=settings.max_batch,
            gpu=self._gpu(files.name),
            require_gpu=settings.require_gpu,
            rewrite=settings.rewrite_graphs,
            score_floor=_score_floor(settings),
        )
        arena_bytes = _CHANNELS * settings.max_pixels_in_flight + _FITTED_BYTES
        if settings.isolation == "inline":
            return InlineRunner(job, arena_bytes=arena_bytes)
        return ProcessRunner(
            job,
            arena_bytes=arena_bytes,
            load_timeout_s=settings.load_timeout_s,
            log_format=settings.log_format,
        )

    def _gpu(self, name: str) -> str | None:
        """Return the model's GPU: the same at every load, the next one at its first."""
        if not self._gpus:
            return None
        place = self._places.setdefault(name, len(self._places))
        return self._gpus[place % len(self._gpus)]


def _score_floor(settings: Settings) -> float:
    """Return below which score nobody will see a detection; 0 where all are seen."""
    if settings.debug:
        return 0.0
    return min(settings.score_floor, settings.min_confidence)
