"""The one use case: an upload and a model's name in, what the model sees out."""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from modelserver.core.errors import BadModelOutput, DeadlinePassed, Overloaded
from modelserver.core.logs import bind, report
from modelserver.engine import admission
from modelserver.engine.decoders import InlineDecoders, Photo, limits_of, wait
from modelserver.engine.evaluations import submit
from modelserver.engine.queue import Caller
from modelserver.tasks.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.core.messages import ImageResult, Mark, Outputs, PictureFormat
    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Registry
    from modelserver.engine.decoders import Data, Decoders, Prepared
    from modelserver.engine.evaluations import Submitted
    from modelserver.engine.models import Model
    from modelserver.engine.queue import Completion
    from modelserver.tasks import Metadata, Task

R = TypeVar("R")
Prepare: TypeAlias = "Callable[[Model], Prepared]"
"""Gives an image in the form that a model takes."""

_PLAIN = Options()


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

    def __str__(self) -> str:
        return (
            f"{self.total:.1f} ms (decode {self.decode:.1f}, queue {self.queue:.1f}, "
            f"run {self.run:.1f}, post {self.post:.1f})"
        )

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
        task: the task that was done.
        title: the model's name, with its kind where another kind has that name, too.
        result: as ``task.parse`` gave it.
        width, height: of the upright photo, in pixels.
        batch: images that were run together.
        orientation: the EXIF orientation that was applied, 1 to 8.
        digest: SHA-256 of the model's graph, labels and sidecar.
        started: when decoding began, in seconds of ``time.perf_counter``.
    """

    task: Task[R]
    model: str
    result: R
    timings: Timings
    width: int
    height: int
    batch: int = 1
    orientation: int = 1
    digest: str = ""
    started: float = 0.0
    title: str = ""


class InFlight(NamedTuple):
    """An image that is with its model; whoever began it ends it or closes ``stack``.

    Attributes:
        title: as of an :class:`Evaluation`.
        digest: SHA-256 of the model's graph, labels and sidecar.
        stack: gives back its queue slot, the model's share and the lease.
    """

    task: Task[Any]
    name: str
    title: str
    digest: str
    metadata: Metadata
    submitted: Submitted
    caller: Caller
    stack: ExitStack


def _unobserved(_evaluation: Evaluation[Any]) -> None:
    """Tell nobody."""


class Service:
    """Evaluates photos. Thread-safe.

    Args:
        registry: the models.
        settings: the server's.
        observe: told of every evaluation, in the thread that asked for it.
        decoders: decode the photos; by default in threads of this process.
    """

    def __init__(
        self,
        registry: Registry[Model],
        settings: Settings,
        observe: Callable[[Evaluation[Any]], None] = _unobserved,
        decoders: Decoders | None = None,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._observe = observe
        self.decoders = decoders or InlineDecoders(limits_of(settings))
        self._shares = admission.Shares.of(
            admission.threads(settings), lambda: len(registry)
        )

    def has_threads(self, total: int) -> None:
        """Share so many threads among the models, not as many as the settings say."""
        self._shares.resize(total)

    def evaluate(
        self,
        task: Task[R],
        name: str,
        data: Data | Photo,
        caller: Caller | None = None,
        options: Options = _PLAIN,
    ) -> Evaluation[R]:
        """Return what a model of a task sees in a photo.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        caller = caller or self._patient()
        image = self.begin(task, name, methodcaller("prepare", data, caller), caller)
        return self.end(image, options)

    def draw(
        self,
        data: Data | Photo,
        marks: Sequence[Mark],
        form: PictureFormat,
        caller: Caller,
    ) -> bytes:
        """Return an upright photo, in full, with marks over it, as a file.

        Raises:
            RequestError: the photo is too large to be decoded in full, or is damaged;
                or the caller's time is over before there is memory for it.
        """
        photo = data if isinstance(data, Photo) else Photo.of(data)
        try:
            drawing = self.decoders.draw(photo, marks, form, caller.until)
            return wait(drawing, caller)
        except Overloaded:
            if not caller.remaining_s(time.perf_counter()):
                raise DeadlinePassed(caller.seconds) from None
            raise

    def _patient(self) -> Caller:
        """Return a caller who waits for as long as a request may take."""
        timeout_s = self._settings.request_timeout_s
        return Caller(timeout_s, time.perf_counter() + timeout_s)

    def loaded(self, task: Task[Any], names: Sequence[str]) -> list[Model]:
        """Return those of some models of a task that are loaded at the moment."""
        entries = self._registry.of(task.kind)
        return [
            entry.loaded
            for entry in entries
            if entry.name in names and entry.loaded is not None
        ]

    def begin(
        self,
        task: Task[Any],
        name: str,
        prepare: Prepare,
        caller: Caller | None = None,
    ) -> InFlight:
        """Give a model an image: take a place, decode, and queue it.

        Raises:
            RequestError: see the tree in ``errors``; nothing is held then.
        """
        caller = caller or self._patient()
        if title := self._registry.title(name, task.kind):
            bind(model=title)
        with ExitStack() as stack:
            # In this order: a name that nobody serves must not count as one that is.
            version = stack.enter_context(self._registry.lease(name, task.kind))
            stack.enter_context(self._shares.count(title))
            model = version.loaded
            slot = model.queue.admit(caller)
            stack.callback(model.queue.leave, slot)
            submitted = submit(model, prepare, slot)
            return InFlight(
                task,
                name,
                title,
                version.snapshot.digest,
                model.metadata,
                submitted,
                caller,
                stack.pop_all(),
            )

    def end(self, image: InFlight, options: Options = _PLAIN) -> Evaluation[Any]:
        """Wait for an image's outputs, within the caller's time, and parse them.

        Raises:
            RequestError: see the tree in ``errors``. Everything is given back.
        """
        prepared, _, started, decoded = image.submitted
        bind(model=image.title)
        with image.stack:
            done = _result(image)
            ran = time.perf_counter()
            result = self._parsed(image, done.result.outputs, options)
        parsed = time.perf_counter()
        if image.caller.remaining_s(parsed) <= 0:
            raise DeadlinePassed(image.caller.seconds)
        timings = Timings(
            decode=(decoded - started) * 1000,
            queue=done.queue_ms + done.runner_ms - done.result.run_ms,
            run=done.result.run_ms,
            post=(parsed - ran) * 1000,
        )
        report(f"{image.title} {timings}")
        seen = Evaluation(
            image.task,
            image.name,
            result,
            timings,
            prepared.width,
            prepared.height,
            done.batch,
            prepared.orientation,
            image.digest,
            started,
            image.title,
        )
        self._observe(seen)
        return seen

    def _parsed(self, image: InFlight, outputs: Outputs, options: Options) -> Any:
        """Make results of arrays; with ``DEBUG``, tell all that is in them."""
        task, settings = image.task, self._settings
        metadata, window = image.metadata, image.submitted.prepared.window
        try:
            if settings.debug:
                for line in task.lines(task.everything(outputs, metadata, window)):
                    report(f"{image.title} {line}")
            return task.parse(outputs, metadata, window, options, settings)
        except (ValueError, KeyError) as error:
            raise BadModelOutput(image.name, str(error)) from error


def _result(image: InFlight) -> Completion[ImageResult]:
    caller = image.caller
    try:
        # From now: others of the same request may have been waited for meanwhile.
        left_s = caller.remaining_s(time.perf_counter())
        return image.submitted.future.result(left_s)
    except FutureTimeoutError:
        raise DeadlinePassed(caller.seconds) from None
