"""One photo on its way through a model: prepared, submitted, examined.

The service, the self test and the doctor all go this way.
"""

from __future__ import annotations

import time
from operator import methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from modelserver.core.messages import ImageResult
    from modelserver.engine.decoders import Data, Photo, Prepared
    from modelserver.engine.queue import Caller, Completion
    from modelserver.tasks import Metadata, Task


class Evaluable(Protocol):
    """What is needed of a loaded model; see ``models.Model``."""

    @property
    def metadata(self) -> Metadata:
        """The facts that its outputs are read by."""

    def prepare(self, photo: Photo | Data, caller: Caller | None = None) -> Prepared:
        """Decode a photo."""

    def submit(self, frame: Any, slot: Any = None) -> Future[Completion[ImageResult]]:
        """Queue it."""


M = TypeVar("M", bound=Evaluable)


class Submitted(NamedTuple):
    """An image that is with its model.

    Attributes:
        prepared: it, as the model takes it.
        future: the run's result.
        started, decoded: when decoding began and ended, in seconds of
            ``time.perf_counter``.
    """

    prepared: Prepared
    future: Future[Completion[ImageResult]]
    started: float
    decoded: float


def submit(model: M, prepare: Callable[[M], Prepared], slot: Any = None) -> Submitted:
    """Prepare an image and queue it.

    Args:
        prepare: gives the image in the form that the model takes.
        slot: in its queue; without one it is taken now.

    Raises:
        RequestError: it is no image, or there is no room; nothing is held then.
    """
    started = time.perf_counter()
    prepared = prepare(model)
    decoded = time.perf_counter()
    return Submitted(prepared, model.submit(prepared.frame, slot), started, decoded)


class Examined(NamedTuple):
    """All that a model sees in a photo, however unsure, and how long it took.

    Attributes:
        found: as ``Task.everything`` gives it.
    """

    found: Any
    decode_ms: float
    run_ms: float


def examine(
    task: Task[Any], model: Evaluable, data: Data, timeout_s: float
) -> Examined:
    """Have a model say all that it sees in a photo.

    Raises:
        TimeoutError: it took longer than ``timeout_s``.
        RequestError, ValueError, KeyError: it could not.
    """
    image = submit(model, methodcaller("prepare", data))
    result = image.future.result(timeout_s).result
    found = task.everything(result.outputs, model.metadata, image.prepared.window)
    return Examined(found, (image.decoded - image.started) * 1000, result.run_ms)
