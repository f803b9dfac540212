"""One model that serves: its files, labels, runner and queue."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import BadRequest, ModelNotReady, UploadTooLarge
from modelserver.core.messages.decodes import Fit
from modelserver.engine.decoders import Photo, Prepared, only, wait
from modelserver.engine.queue import Batcher, Caller, Completion, QueueSlot
from modelserver.tasks import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from concurrent.futures import Future

    from modelserver.core.frames import Frame
    from modelserver.core.messages import Facts, ImageResult, Runner, TensorSpec
    from modelserver.core.messages.requests import Tensor
    from modelserver.core.settings import Settings
    from modelserver.engine.decoders import Data, Decoders
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tasks.labels import LabelMap

# A detector's own resizer is bilinear without smoothing: fed an image of twice its size
# or more it sees the same as from the full photo (docs/benchmarks.md has the figures).
_REDUCE_TO = 2


def fit_of(facts: Facts, *, full_decode: bool = False) -> Fit:
    """Return the form in which a graph is fed an image."""
    signature = facts.signature
    target = signature.size or signature.inner_size
    at_least = None
    # A crop from a square is measured in the whole photo, to the pixel.
    if target is not None and not full_decode and not signature.crop_from:
        at_least = (_REDUCE_TO * target[0], _REDUCE_TO * target[1])
    sampling = facts.sampling if signature.size is None else None
    return Fit(
        size=signature.size or (signature.inner_size if sampling else None),
        at_least=at_least,
        channels=signature.channels,
        resize=signature.resize,
        crop_from=signature.crop_from,
        sampling=sampling,
    )


def likeness(frame: Frame) -> Hashable:
    """Return what frames have in common that are run together.

    Numbers of one image are, next to others of the same shape; those of several are a
    run of their own, whatever their graph does with its batch.
    """
    if frame.dtype is None:
        return frame.shape
    alone = frame.shape[:1] != (1,)
    place = (frame.memory.number, frame.offset) if alone else None
    return frame.shape, frame.dtype, place


def _fits(shape: tuple[int, ...], wanted: TensorSpec) -> bool:
    return len(shape) == len(wanted.shape) and all(
        side == most or most < 0 for side, most in zip(shape, wanted.shape, strict=True)
    )


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{np.dtype(dtype).name} {list(shape)}"


class Model:
    """A loaded model. Thread-safe; the code that loaded it closes it.

    Attributes:
        files: the files that it was loaded from.
        facts: the outcome of its load.
        labels: its label map.
        offset: a classifier's label id = output index + offset.
        runner: runs its graph.
        ended: resolves once the model can serve no more.
        fit: the form in which the graph is fed an image.
        room: where its images in flight lie.
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
        decoders: Decoders,
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
        self.fit = fit_of(facts, full_decode=settings.full_decode)
        self.room = decoders.room(files.name, runner.allocate)
        self._decoders = decoders
        self._most_bytes = settings.max_tensor_mb << 20
        self.queue: Batcher[Frame, ImageResult] = Batcher(
            runner.run,
            run_slots=facts.slots + runner.ahead,
            max_batch=facts.max_batch,
            capacity=settings.queue_length,
            max_wait_s=settings.max_queue_wait_s,
            key=likeness,
            unusual=lambda result: result.first,
            delay_s=settings.batch_delay_ms / 1000,
            prepare_s=lambda: decoders.wait_s,
        )

    @property
    def metadata(self) -> Metadata:
        """The data by which its outputs are parsed."""
        return Metadata(self.facts.signature, self.labels, self.offset)

    def check(self, tensor: Tensor) -> None:
        """Refuse numbers that the graph does not take.

        Raises:
            BadRequest: they are of another type or shape.
            UploadTooLarge: there are more than ``MAX_TENSOR_MB`` of them.
        """
        wanted = next((one for one in self.facts.inputs if one.dtype), None)
        if wanted is None:
            raise BadRequest(
                f"The model {self.files.name} takes files of images, not numbers: send "
                "them as BYTES."
            )
        if tensor.name.removesuffix(":0") not in {"", wanted.name}:
            raise BadRequest(f"The model's input is {wanted.name}.")
        known = {one.name for one in self.facts.outputs if one.dtype}
        if not known.issuperset(tensor.outputs):
            raise BadRequest(f"The model's outputs are {', '.join(sorted(known))}.")
        if tensor.dtype != wanted.dtype or not _fits(tensor.shape, wanted):
            raise BadRequest(
                f"The input {wanted.name} takes "
                f"{_described(wanted.dtype, wanted.shape)}, not "
                f"{_described(tensor.dtype, tensor.shape)}."
            )
        if tensor.nbytes > self._most_bytes:
            raise UploadTooLarge(
                f"A tensor may have {self._most_bytes >> 20} MiB (MAX_TENSOR_MB)."
            )

    def prepare(self, photo: Photo | Data, caller: Caller | None = None) -> Prepared:
        """Decode an upload into memory that the runner reads; waits for it.

        Returns:
            With a frame that the caller gives to :meth:`submit` or releases.

        Raises:
            RequestError: it is no image, too large, broken, or there is no room; or the
                caller waits no more.
        """
        caller = caller or Caller(math.inf, math.inf)
        if not isinstance(photo, Photo):
            photo = Photo.of(photo)
        decoding = self._decoders.decode(photo, [self.fit], [self.room], caller.until)
        found = wait(decoding, caller)
        return only(found)

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
