"""The one use case: an upload and a model's name in, what the model sees out."""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from modelserver import classification, detection
from modelserver.errors import BadModelOutput, DeadlinePassed
from modelserver.logs import report

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from modelserver.classification import Classification
    from modelserver.detection import Detection
    from modelserver.models import Model, Window
    from modelserver.registry import Registry
    from modelserver.runners import Outputs
    from modelserver.settings import Settings

R = TypeVar("R")


@dataclass(frozen=True)
class Timings:
    """Milliseconds that each stage of one evaluation took."""

    decode: float
    queue: float
    run: float
    post: float

    @property
    def total(self) -> float:
        """All stages together."""
        return self.decode + self.queue + self.run + self.post


@dataclass(frozen=True)
class Evaluation(Generic[R]):
    """What a model sees in a photo.

    Attributes:
        width, height: of the upright photo, in pixels.
    """

    model: str
    result: R
    timings: Timings
    width: int
    height: int


class Service:
    """Evaluates photos. Thread-safe.

    Args:
        registry: the models.
        settings: the server's.
    """

    def __init__(self, registry: Registry[Model], settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    def detect(
        self, name: str, data: bytes | memoryview | mmap.mmap
    ) -> Evaluation[list[Detection]]:
        """Find objects with confidence at or above ``MIN_CONFIDENCE``, best first.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        least = self._settings.min_confidence

        def parse(model: Model, outputs: Outputs, window: Window) -> list[Detection]:
            if self._settings.debug:
                for one in detection.parse(outputs, model.labels, window=window):
                    report(f"{name} {one.label} {one.confidence} {list(one.box)}")
            return detection.parse(outputs, model.labels, least, window)

        return self._evaluate(name, data, parse)

    def classify(
        self, name: str, data: bytes | memoryview | mmap.mmap
    ) -> Evaluation[list[Classification]]:
        """Return the five best classes, best first.

        Raises:
            RequestError: see the tree in ``errors``.
        """

        def parse(
            model: Model, outputs: Outputs, _window: Window
        ) -> list[Classification]:
            softmax = model.facts.signature.softmax
            best = classification.parse(
                outputs, model.labels, model.offset, softmax=softmax
            )
            if self._settings.debug:
                for one in best:
                    report(f"{name} {one.label} {one.confidence}")
            return best

        return self._evaluate(name, data, parse)

    def _evaluate(
        self,
        name: str,
        data: bytes | memoryview | mmap.mmap,
        parse: Callable[[Model, Outputs, Window], R],
    ) -> Evaluation[R]:
        model = self._registry.get(name)
        started = time.perf_counter()
        prepared = model.prepare(data)
        decoded = time.perf_counter()
        future = model.submit(prepared.frame)
        timeout_s = self._settings.request_timeout_s
        try:
            done = future.result(timeout_s)
        except FutureTimeoutError:
            future.cancel()
            raise DeadlinePassed(timeout_s) from None
        ran = time.perf_counter()
        try:
            result = parse(model, done.result.outputs, prepared.window)
        except (ValueError, KeyError) as error:
            raise BadModelOutput(name, str(error)) from error
        timings = Timings(
            decode=(decoded - started) * 1000,
            queue=done.queue_ms + done.run_ms - done.result.run_ms,
            run=done.result.run_ms,
            post=(time.perf_counter() - ran) * 1000,
        )
        report(
            f"{name} {timings.total:.1f} ms (decode {timings.decode:.1f}, "
            f"queue {timings.queue:.1f}, run {timings.run:.1f}, "
            f"post {timings.post:.1f})"
        )
        return Evaluation(name, result, timings, prepared.width, prepared.height)
