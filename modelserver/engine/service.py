"""The one use case: an upload and a model's name in, what the model sees out."""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from modelserver import decoder
from modelserver.core.errors import BadModelOutput, DeadlinePassed, Overloaded
from modelserver.core.logs import bind, report
from modelserver.engine import admission
from modelserver.engine.queue import Caller
from modelserver.tasks import classification, detection
from modelserver.tasks.options import Options

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from modelserver.core.messages import ImageResult, Mark, Outputs, PictureFormat
    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Registry
    from modelserver.engine.models import Model, Prepared, Window
    from modelserver.engine.queue import Completion
    from modelserver.tasks.classification import Classification
    from modelserver.tasks.detection import Detection

R = TypeVar("R")
Parse: TypeAlias = "Callable[[Model, Outputs, Window], R]"
"""Makes a result of what a model gave for one image."""
Prepare: TypeAlias = "Callable[[Model], Prepared]"
"""Gives an image in the form that a model takes."""

_PLAIN = Options()
# Of the classes that are parsed where none are asked for, for the log.
_TOP = 5


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

    def seconds(self) -> dict[str, float]:
        """Return what each stage took in seconds, by its name, in their order."""
        return {
            "decode": self.decode / 1000,
            "queue": self.queue / 1000,
            "run": self.run / 1000,
            "post": self.post / 1000,
        }


@dataclass(frozen=True)
class Evaluation(Generic[R]):
    """What a model sees in a photo.

    Attributes:
        width, height: of the upright photo, in pixels.
        batch: images that were run together.
        orientation: the EXIF orientation that was applied, 1 to 8.
        digest: SHA-256 of the model's graph, labels and sidecar.
        started: when decoding began, in seconds of ``time.perf_counter``.
    """

    model: str
    result: R
    timings: Timings
    width: int
    height: int
    batch: int = 1
    orientation: int = 1
    digest: str = ""
    started: float = 0.0


class Begun(NamedTuple):
    """An image that is with its model; whoever began it ends it or closes ``stack``.

    Attributes:
        started, decoded: when it had its place, and when it was ready to run.
        stack: what is given back: its place, the model's share, the lease.
    """

    name: str
    digest: str
    model: Model
    prepared: Prepared
    future: Future[Completion[ImageResult]]
    caller: Caller
    started: float
    decoded: float
    stack: ExitStack


def _unobserved(_evaluation: Evaluation[Any]) -> None:
    """Tell nobody."""


class Service:
    """Evaluates photos. Thread-safe.

    Args:
        registry: the models.
        settings: the server's.
        observe: told of every evaluation, in the thread that asked for it.
    """

    def __init__(
        self,
        registry: Registry[Model],
        settings: Settings,
        observe: Callable[[Evaluation[Any]], None] = _unobserved,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._observe = observe
        self._shares = admission.Shares.of(
            admission.threads(settings), lambda: len(registry)
        )

    def has_threads(self, total: int) -> None:
        """Share so many threads among the models, not as many as the settings say."""
        self._shares.resize(total)

    def detect(
        self,
        name: str,
        data: bytes | memoryview | mmap.mmap,
        caller: Caller | None = None,
        options: Options = _PLAIN,
    ) -> Evaluation[list[Detection]]:
        """Find the objects that are asked for, best first.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        begun = self.begin(name, lambda model: model.prepare(data), caller)
        return self.end(begun, self.finds(options))

    def classify(
        self,
        name: str,
        data: bytes | memoryview | mmap.mmap,
        caller: Caller | None = None,
        options: Options = _PLAIN,
    ) -> Evaluation[list[Classification]]:
        """Return the best class and those that are asked for, best first.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        begun = self.begin(name, lambda model: model.prepare(data), caller)
        return self.end(begun, self.tells(options))

    def draw(
        self,
        data: bytes | memoryview | mmap.mmap,
        marks: Sequence[Mark],
        form: PictureFormat,
        caller: Caller,
    ) -> bytes:
        """Return an upright photo, in full, with marks over it, as a file.

        Raises:
            RequestError: the photo is too large to be decoded in full, or is damaged;
                or the caller's time is over before there is memory for it.
        """
        limits = decoder.Limits(
            max_pixels=self._settings.max_image_pixels,
            max_header_pixels=self._settings.max_header_pixels,
        )
        try:
            return decoder.annotate(data, limits, marks, form, _left(caller))
        except Overloaded:
            _left(caller)
            raise

    def finds(self, options: Options = _PLAIN) -> Parse[list[Detection]]:
        """Return what makes detections of arrays: those that the options want.

        Nothing below ``SCORE_FLOOR`` is found, or below ``MIN_CONFIDENCE`` where that
        is lower: a graph may have been loaded to give no more than that.
        """
        settings = self._settings
        least = settings.min_confidence
        if options.min_confidence is not None:
            floor = min(settings.score_floor, least)
            least = max(options.min_confidence, floor)

        def parse(model: Model, outputs: Outputs, window: Window) -> list[Detection]:
            signature = model.facts.signature
            if settings.debug:
                for one in detection.detections_of(
                    signature, outputs, model.labels, window=window
                ):
                    where = f"{one.label} {one.confidence} {list(one.box)}"
                    report(f"{model.files.name} {where}")
            found = detection.detections_of(
                signature, outputs, model.labels, least, window
            )
            return detection.select(found, options)

        return parse

    def tells(self, options: Options = _PLAIN) -> Parse[list[Classification]]:
        """Return what makes classes of arrays: five, or as many as are asked for."""
        top = max(options.top_k or 0, _TOP)

        def parse(
            model: Model, outputs: Outputs, _window: Window
        ) -> list[Classification]:
            signature = model.facts.signature
            best = classification.classes_of(
                signature, outputs, model.labels, model.offset, top
            )
            if self._settings.debug:
                for one in best[:_TOP]:
                    report(f"{model.files.name} {one.label} {one.confidence}")
            return best

        return parse

    def begin(self, name: str, prepare: Prepare, caller: Caller | None = None) -> Begun:
        """Give a model an image: take a place, decode, and queue it.

        Raises:
            RequestError: see the tree in ``errors``; nothing is held then.
        """
        timeout_s = self._settings.request_timeout_s
        caller = caller or Caller(timeout_s, time.perf_counter() + timeout_s)
        if name in self._registry:
            bind(model=name)
        with ExitStack() as stack:
            # In this order: a name that nobody serves must not count as one that is.
            version = stack.enter_context(self._registry.version(name))
            stack.enter_context(self._shares.one(name))
            started = time.perf_counter()
            model = version.loaded
            slot = model.queue.admit(caller)
            stack.callback(model.queue.leave, slot)
            prepared = prepare(model)
            decoded = time.perf_counter()
            future = model.submit(prepared.frame, slot)
            digest = version.snapshot.digest
            return Begun(
                name,
                digest,
                model,
                prepared,
                future,
                caller,
                started,
                decoded,
                stack.pop_all(),
            )

    def end(self, begun: Begun, parse: Parse[R]) -> Evaluation[R]:
        """Wait for an image's outputs, within the caller's time, and parse them.

        Raises:
            RequestError: see the tree in ``errors``. Everything is given back.
        """
        name, prepared = begun.name, begun.prepared
        bind(model=name)
        with begun.stack:
            done = _result(begun)
            ran = time.perf_counter()
            try:
                result = parse(begun.model, done.result.outputs, prepared.window)
            except (ValueError, KeyError) as error:
                raise BadModelOutput(name, str(error)) from error
        parsed = time.perf_counter()
        if begun.caller.remaining_s(parsed) <= 0:
            raise DeadlinePassed(begun.caller.seconds)
        timings = Timings(
            decode=(begun.decoded - begun.started) * 1000,
            queue=done.queue_ms + done.runner_ms - done.result.run_ms,
            run=done.result.run_ms,
            post=(parsed - ran) * 1000,
        )
        report(
            f"{name} {timings.total:.1f} ms (decode {timings.decode:.1f}, "
            f"queue {timings.queue:.1f}, run {timings.run:.1f}, "
            f"post {timings.post:.1f})"
        )
        seen = Evaluation(
            name,
            result,
            timings,
            prepared.width,
            prepared.height,
            done.batch,
            prepared.orientation,
            begun.digest,
            begun.started,
        )
        self._observe(seen)
        return seen


def _left(caller: Caller) -> float:
    if left := caller.remaining_s(time.perf_counter()):
        return left
    raise DeadlinePassed(caller.seconds)


def _result(begun: Begun) -> Completion[ImageResult]:
    caller = begun.caller
    try:
        # From now: others of the same request may have been waited for meanwhile.
        return begun.future.result(caller.remaining_s(time.perf_counter()))
    except FutureTimeoutError:
        raise DeadlinePassed(caller.seconds) from None
