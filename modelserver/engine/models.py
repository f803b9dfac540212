"""One model that serves: its files, its labels, its runner and its queue."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from modelserver import decoder
from modelserver.core import findings
from modelserver.core.errors import DeviceFailed, ModelNotReady
from modelserver.core.messages import AssignedCard, Facts, ImageResult, Job, Runner
from modelserver.core.opened_files import Held
from modelserver.core.pixels import sample
from modelserver.decoder import DecodedImage, Limits
from modelserver.engine.queue import Batcher, Completion, QueueSlot
from modelserver.engine.runners import environment
from modelserver.engine.runners.cards import NO_CARDS
from modelserver.engine.runners.placement import Placement, expected_bytes
from modelserver.engine.runners.process import ProcessRunner
from modelserver.runner.inline import InlineRunner
from modelserver.tasks import Metadata, labels

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.core.frames import Frame
    from modelserver.core.settings import Settings
    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.runners.cards import Card, Survey
    from modelserver.tasks.labels import LabelMap

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
        orientation: the EXIF orientation that was applied, 1 to 8.
    """

    frame: Frame
    width: int
    height: int
    window: Window
    orientation: int = 1


class Model:
    """A loaded model. Thread-safe; whoever loaded it closes it.

    Attributes:
        files: what it was loaded from.
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
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Store what was loaded; ``closed`` is called once, when it is closed."""
        self.files = files
        self.facts = facts
        self.labels = label_map
        self.offset = offset
        self.runner = runner
        self.ended = runner.ended
        self._closed: Callable[[], None] | None = closed
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
            unusual=lambda answer: answer.first,
            delay_s=settings.batch_delay_ms / 1000,
        )

    @property
    def metadata(self) -> Metadata:
        """What its outputs are read by."""
        return Metadata(self.facts.signature, self.labels, self.offset)

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
        frame, picture = self.decode(data)
        if self._takes_any:
            return self._prepared(frame, picture)
        try:
            return self.fit(picture)
        finally:
            frame.release()

    def fit(self, picture: DecodedImage) -> Prepared:
        """Copy a picture that was decoded before; as :meth:`prepare` for the rest."""
        if self._takes_any:
            frame = self.runner.allocate(picture.pixels.shape)
            frame.pixels[...] = picture.pixels
        else:
            frame = self._fitted(picture.pixels)
        return self._prepared(frame, picture)

    @property
    def _takes_any(self) -> bool:
        """Whether the graph is fed whatever was decoded."""
        facts = self.facts
        anything = facts.signature.size is None and facts.sampling is None
        return anything and facts.signature.channels == _CHANNELS

    @property
    def at_least(self) -> tuple[int, int] | None:
        """Height and width to decode at least; ``None`` for a full decode."""
        signature = self.facts.signature
        target = signature.size or signature.inner_size
        # What crops from a square is measured from the whole photo, to the pixel.
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
            picture = decoder.decode(
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
        frames[-1].pixels = picture.pixels
        return frames[-1], picture

    def _fitted(self, pixels: NDArray[np.uint8]) -> Frame:
        """Bring a picture to the size and the channels that the graph takes."""
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

    def _prepared(self, frame: Frame, picture: DecodedImage) -> Prepared:
        size, window = self.facts.signature.size, _WHOLE
        if size is not None:
            how = self.facts.signature.resize
            window = decoder.source_window(picture.pixels.shape, size, how)
        width, height = picture.width, picture.height
        return Prepared(frame, width, height, window, picture.orientation)

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
        """Fail what waits, end the runner and free its memory. Idempotent."""
        self.queue.close(ModelNotReady(self.files.name, "closing"))
        self.runner.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


class Loader:
    """Loads models, spreading them over the cards. Thread-safe.

    Args:
        settings: the server's.
        survey: the cards that may be used.
    """

    def __init__(self, settings: Settings, survey: Survey = NO_CARDS) -> None:
        self._settings = settings
        self._no_gpu = survey.no_gpu
        cards = survey.cards
        if settings.isolation == "inline":
            cards = environment.together(cards)
        self._cards = cards
        self._placement = Placement(cards)

    def __call__(self, files: ModelFiles) -> Model:
        """Load one model; blocks until it is warm.

        Raises:
            ModelError: with the reason for ``/models``.
        """
        with files.opened() as opened:
            label_map = labels.read_labels(opened.labels)
            for warning in label_map.warnings:
                log.warning("%s: %s", files.name, warning)
            runner, facts, card = self._placed(opened)
        left = partial(self._placement.left, files.name, card)
        try:
            return self._model(files, facts, label_map, runner, left)
        except BaseException:
            runner.close()
            left()
            raise

    def _expected(self, files: ModelFiles) -> int:
        """Return the bytes of a card that a model will about take."""
        try:
            size = files.graph.stat().st_size
        except OSError:  # gone; the load will say so
            size = 0
        return expected_bytes(size, self._settings.gpu_memory_mb)

    def _placed(self, files: ModelFiles) -> tuple[Runner, Facts, Card | None]:
        """Open a model's runner on the card that it is given."""
        card = self._placement.take(files.name, self._expected(files))
        try:
            runner = self._runner(files, card)
            facts = runner.open()
        except DeviceFailed:
            self._placement.failed(files.name, card)
            raise
        except BaseException:
            self._placement.left(files.name, card)
            raise
        self._placement.loaded(files.name, card)
        return runner, facts, card

    def _model(
        self,
        files: ModelFiles,
        facts: Facts,
        label_map: LabelMap,
        runner: Runner,
        closed: Callable[[], None],
    ) -> Model:
        offset = 0
        signature = facts.signature
        alignment = labels.alignment_of(label_map, signature)
        if alignment is not None:
            level = logging.WARNING if alignment.warning else logging.INFO
            log.log(level, "%s: %s", files.name, alignment.sentence)
            offset = alignment.offset
        _tell(files.name, facts)
        log.info(
            "%s is ready on %s after %.1f s: %d runs side by side, batches up to %d",
            files.name,
            facts.device,
            facts.load_ms / 1000,
            facts.slots,
            facts.max_batch,
        )
        return Model(
            files,
            facts,
            label_map,
            runner,
            self._settings,
            offset=offset,
            closed=closed,
        )

    def _runner(self, files: ModelFiles, card: Card | None) -> Runner:
        settings = self._settings
        job = Job(
            name=files.name,
            kind=files.kind,
            graph=str(files.graph.absolute()),
            sidecar=str(files.sidecar.absolute()) if files.sidecar else None,
            slots=settings.slots,
            max_batch=settings.max_batch,
            card=AssignedCard(
                gpu=card.gpu if card else None,
                words=card.words if card else "",
                missing=self._no_gpu,
                required=settings.require_gpu,
                memory_mb=settings.gpu_memory_mb,
            ),
            rewrite=settings.rewrite_graphs,
            suppression_on_cpu=settings.suppression_on_cpu,
            score_floor=_score_floor(settings),
            memory_mb=settings.model_memory_mb,
            trusted=settings.trusted_models,
            export=files.export(),
            held={
                role: path.descriptor
                for role, path in (("graph", files.graph), ("sidecar", files.sidecar))
                if isinstance(path, Held)
            },
        )
        arena_bytes = _CHANNELS * settings.max_pixels_in_flight + _FITTED_BYTES
        if settings.isolation == "inline":
            environment.show(self._cards)
            return InlineRunner(job, arena_bytes=arena_bytes)
        return ProcessRunner(
            job,
            arena_bytes=arena_bytes,
            load_timeout_s=settings.load_timeout_s,
            gpu_load_timeout_s=settings.gpu_load_timeout_s,
            run_timeout_s=settings.run_timeout_s,
        )


def _tell(name: str, facts: Facts) -> None:
    """Log what loading a model found out; loudly what may make its answers wrong."""
    signature = facts.signature
    loud = [
        one
        for one in findings.of_guesses(name, signature)
        if one.code == "scaling-guessed"
    ]
    said = {one.message for one in loud}
    for note in facts.notes:
        if note not in said:
            log.info("%s: %s", name, note)
    for one in (*loud, *findings.of_scaling(name, signature)):
        level = logging.INFO if one.level == "note" else logging.WARNING
        log.log(level, "%s: %s; %s", name, one.message, one.fix)
    for one in facts.findings:
        if one.message not in facts.notes:
            level = logging.INFO if one.level == "note" else logging.WARNING
            log.log(level, "%s: %s", name, one.message)


def _score_floor(settings: Settings) -> float:
    """Return below which score nobody will see a detection; 0 where all are seen."""
    if settings.debug:
        return 0.0
    return min(settings.score_floor, settings.min_confidence)
