"""The one use case: a photo and models' names in, what the models see in it out.

A request goes its way in the engine's loop, as a chain of calls without a thread: a
place in each model's queue, a decode, a run, the answer. However it ends, each of its
models gives everything back once.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from modelserver.core import logs
from modelserver.core.errors import (
    BadModelOutput,
    BadRequest,
    ClientGone,
    DeadlinePassed,
    InternalError,
    Overloaded,
    RequestError,
)
from modelserver.core.logs import report
from modelserver.core.messages import Array
from modelserver.core.messages.requests import Seen, refused
from modelserver.engine import admission
from modelserver.engine.queue import Caller
from modelserver.tasks import TASKS
from modelserver.tasks.options import Options, wished

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from modelserver.core.messages import ImageResult, Mark, Outputs
    from modelserver.core.messages.requests import Evaluate, ToDoor
    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Registry
    from modelserver.engine.catalogue.entries import Version
    from modelserver.engine.decoders import Decoders, Photo, Prepared
    from modelserver.engine.loop import Loop
    from modelserver.engine.models import Model
    from modelserver.engine.queue import Completion, QueueSlot
    from modelserver.tasks import Task
    from modelserver.tasks.task import Box

log = logging.getLogger(__name__)

# Errors of those who waited in vain: once their time is over, that is the reason.
_WAITED = (DeadlinePassed, Overloaded, CancelledError)

Reply: TypeAlias = "Callable[[ToDoor], object]"
"""Sends an answer to the door that asked; called in the engine's loop."""


class Timings(NamedTuple):
    """Milliseconds that each stage of one evaluation took.

    Attributes:
        wait: for room ahead of its model, and for a decoder.
        queue: for a run slot, decoded.
    """

    wait: float
    decode: float
    queue: float
    run: float
    post: float

    def __str__(self) -> str:
        return (
            f"{sum(self):.1f} ms (wait {self.wait:.1f}, decode {self.decode:.1f}, "
            f"queue {self.queue:.1f}, run {self.run:.1f}, post {self.post:.1f})"
        )


class Observation(NamedTuple):
    """An evaluation that has ended well, for those who count.

    Attributes:
        title: the model's name, with its kind where another kind has that name, too.
        batch: images that were run together.
        scores: the labels that were answered, with their confidences.
    """

    title: str
    timings: Timings
    batch: int
    scores: Sequence[tuple[str, float]]


class Part:
    """One model of a request: what it holds until it is answered.

    Attributes:
        began, decoded: when it was admitted, and when its photo was decoded.
    """

    __slots__ = (
        "began",
        "decoded",
        "decoding",
        "given_back",
        "model",
        "name",
        "prepared",
        "request",
        "slot",
        "title",
        "version",
    )

    def __init__(
        self,
        request: Request,
        name: str,
        title: str,
        version: Version[Model],
        slot: QueueSlot[Any, ImageResult],
    ) -> None:
        self.request = request
        self.name = name
        self.title = title
        self.version = version
        self.model = version.loaded
        self.slot = slot
        self.given_back = False
        self.decoding: Future[Any] | None = None
        self.prepared: Prepared | None = None
        self.began = time.perf_counter()
        self.decoded = 0.0


class Request:
    """One photo for some models. For the loop's thread.

    Attributes:
        parts: those that were not answered yet.
        due: those whose decode is to be begun.
        begun: whether all of its models were asked for a place.
        on_end: called once all models have answered.
        gone: nobody waits for it any more.
    """

    __slots__ = (
        "begun",
        "caller",
        "due",
        "gone",
        "message",
        "on_end",
        "options",
        "parts",
        "photo",
        "reply",
        "task",
        "timer",
    )

    def __init__(
        self, message: Evaluate, task: Task[Any], photo: Photo, reply: Reply
    ) -> None:
        self.message = message
        self.task = task
        self.photo = photo
        self.reply = reply
        self.options = wished(message.wish)
        self.gone = False
        self.caller = Caller(message.seconds, message.until, lambda: self.gone)
        self.parts: list[Part] = []
        self.due: list[Part] = []
        self.begun = False
        self.timer: Any = None
        self.on_end: Callable[[], object] = _ignore


def _ignore() -> None:
    """Tell nobody."""


class Service:
    """Evaluates photos. For the loop's thread.

    Args:
        registry: the models.
        settings: the server's.
        decoders: make pixels of photos.
        loop: the engine's.
        observe: told of every evaluation.
    """

    def __init__(
        self,
        registry: Registry[Model],
        settings: Settings,
        decoders: Decoders,
        loop: Loop,
        observe: Callable[[Observation], None],
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._decoders = decoders
        self._loop = loop
        self._observe = observe
        self._shares = admission.Shares.of(
            admission.threads(settings), lambda: len(registry)
        )

    def evaluate(self, message: Evaluate, photo: Photo, reply: Reply) -> Request | None:
        """Have models look at a photo, and reply once for each.

        Args:
            photo: closed once it is of no more use.

        Returns:
            The request, for :meth:`leave`; ``None`` if it was answered already.
        """
        try:
            task = TASKS.get(message.kind)
            if task is None:
                raise BadRequest(f"There is no task {message.kind[:50]!r}.")
            if message.tensor is not None and len(message.models) != 1:
                raise BadRequest("Numbers are for one model.")
            request = Request(message, task, photo, reply)
            names = message.among or message.models
            request.options = self._with_labels(request, names)
        except RequestError as error:
            photo.close()
            reply(refused(message.number, error))
            return None
        for name in message.models:
            self._admit(request, name)
        if not request.parts:
            photo.close()
            return None
        left_s = max(0.0, message.until - time.perf_counter())
        request.timer = self._loop.after(left_s, self._expire, request)
        self._decode(request)
        return request

    def _with_labels(self, request: Request, names: Sequence[str]) -> Options:
        """Return the options with the labels that the asked models have.

        If one of them is not loaded, or has no label map, any label may be one of its.

        Raises:
            UnknownLabel: none of the models has one that was asked for.
        """
        options = request.options
        if options.labels is None:
            return options
        entries = self._registry.of(request.task.kind)
        models = [entry.loaded for entry in entries if entry.name in names]
        known: list[str] = []
        for loaded in models:
            if loaded is None or not loaded.labels.names:
                return options
            known += loaded.labels.names.values()
        return options.among(known) if models else options

    def _admit(self, request: Request, name: str) -> None:
        """Take all that a model needs for a photo, or say why there is none."""
        kind, title, entered = request.task.kind, "", False
        try:
            # In this order: a name that nobody serves must not count as one that is.
            raw = request.message.tensor is not None
            title, version = self._registry.take(name, kind, raw=raw)
            try:
                if request.message.tensor is not None:
                    version.loaded.check(request.message.tensor)
                self._shares.enter(title)
                entered = True
                slot = version.loaded.queue.admit(request.caller)
            except BaseException:
                if entered:
                    self._shares.leave(title)
                self._registry.give_back(version)
                raise
        except RequestError as error:
            title = title or self._title(name, kind)
            request.reply(refused(request.message.number, error, name, title))
            return
        part = Part(request, name, title, version, slot)
        request.parts.append(part)
        part.model.queue.prepare(slot, partial(self._loop.soon, self._is_due, part))

    def _title(self, name: str, kind: str) -> str:
        try:
            return self._registry.title(name, kind)
        except RequestError:
            return ""

    def _is_due(self, part: Part) -> None:
        """Decode a photo for a model, now that there is room before its queue."""
        request = part.request
        if part in request.parts:
            request.due.append(part)
            if request.begun:
                self._decode(request)

    def _decode(self, request: Request) -> None:
        """Decode a photo once for all models that have room for it now."""
        request.begun = True
        parts, request.due = request.due, []
        if not parts:
            return
        try:
            future = self._begin_decode(request, parts)
        except RequestError as error:
            for part in parts:
                self._refuse(part, error)
            return
        for part in parts:
            part.decoding = future
        future.add_done_callback(
            partial(self._loop.soon, self._decoded, request, parts)
        )

    def _begin_decode(
        self, request: Request, parts: Sequence[Part]
    ) -> Future[list[Prepared | RequestError]]:
        photo, message = request.photo, request.message
        rooms = [part.model.room for part in parts]
        if message.tensor is not None:
            return self._decoders.copy(photo, message.tensor, rooms[0], message.until)
        fits = [part.model.fit for part in parts]
        return self._decoders.decode(photo, fits, rooms, message.until)

    def _decoded(
        self,
        request: Request,
        parts: list[Part],
        future: Future[list[Prepared | RequestError]],
    ) -> None:
        """Queue a decoded photo for its models."""
        now = time.perf_counter()
        error = ClientGone() if future.cancelled() else future.exception()
        found = [error] * len(parts) if error is not None else future.result()
        for part, prepared in zip(parts, found, strict=True):
            part.decoding = None
            if isinstance(prepared, BaseException):
                if isinstance(prepared, Overloaded) and len(parts) > 1:
                    # There may be room for it once, if not for all at a time.
                    self._is_due(part)
                else:
                    self._refuse(part, prepared)
            elif part in request.parts:
                part.decoded, part.prepared = now, prepared
                self._submit(part, prepared)
            else:
                prepared.frame.release()
        self._close_if_done(request)

    def _submit(self, part: Part, prepared: Prepared) -> None:
        try:
            future = part.model.submit(prepared.frame, part.slot)
        except RequestError as error:
            self._refuse(part, error)
            return
        future.add_done_callback(partial(self._loop.soon, self._ran, part))

    def _ran(self, part: Part, future: Future[Completion[ImageResult]]) -> None:
        """Answer for a model that has run, or could not."""
        if part not in part.request.parts:
            return
        logs.bind(request_id=part.request.message.request_id, model=part.title)
        try:
            self._answer(part, future.result())
        except CancelledError:
            self._refuse(part, ClientGone())
        except Exception as error:  # noqa: BLE001 - a request's edge: somebody waits
            self._refuse(part, error)
        finally:
            logs.unbind()

    def _answer(self, part: Part, done: Completion[ImageResult]) -> None:
        """Parse a model's outputs and reply.

        Raises:
            RequestError: they are of no use, or the caller's time is over.
        """
        request, prepared = part.request, part.prepared
        if prepared is None:
            raise TypeError("a photo that was not decoded has run")
        ran = time.perf_counter()
        task, picture = request.task, request.message.picture
        result: Any = None
        answer = b""
        if request.message.tensor is not None:
            answer = _packed(done.result.outputs, request.message.tensor.outputs)
        else:
            result = self._parsed(part, prepared.window, done.result.outputs)
        if picture is None and not answer:
            size = (prepared.width, prepared.height)
            answer = msgspec.json.encode(task.answer(result, size, request.options))
        parsed = time.perf_counter()
        if parsed >= request.message.until:
            raise DeadlinePassed(request.message.seconds)
        timings = Timings(
            wait=max(0.0, (part.decoded - part.began) * 1000 - prepared.decode_ms),
            decode=prepared.decode_ms,
            queue=done.queue_ms + done.runner_ms - done.result.run_ms,
            run=done.result.run_ms,
            post=(parsed - ran) * 1000,
        )
        report(f"{part.title} {timings}")
        scores = task.scores(task.answered(result)) if result is not None else ()
        self._observe(Observation(part.title, timings, done.batch, scores))
        seen = _seen(part, prepared, answer, done.batch, timings)
        if not scores and request.message.tensor is None:
            below = self._below(part, prepared.window, done.result.outputs)
            seen = msgspec.structs.replace(seen, below=below)
        if picture is None:
            self._end(part)
            request.reply(seen)
        else:
            self._draw(part, list(task.marks(result)), seen)

    def _parsed(self, part: Part, window: Box, outputs: Outputs) -> Any:
        """Make results of arrays; with ``DEBUG``, tell all that is in them."""
        task, settings = part.request.task, self._settings
        metadata = part.model.metadata
        try:
            if settings.debug:
                for line in task.lines(task.everything(outputs, metadata, window)):
                    report(f"{part.title} {line}")
            return task.parse(outputs, metadata, window, part.request.options, settings)
        except (ValueError, KeyError) as error:
            raise BadModelOutput(part.name, str(error)) from error

    def _below(self, part: Part, window: Box, outputs: Outputs) -> int | None:
        """Count, and report, what is too unsure for an answer that is empty."""
        request, settings = part.request, self._settings
        metadata = part.model.metadata
        found = request.task.below(outputs, metadata, window, request.options, settings)
        if found is None:
            return None
        count, least = found
        report(f"{part.title} found nothing of {least:g} or more, and {count} below")
        return count

    def _draw(self, part: Part, marks: list[Mark], seen: Seen) -> None:
        """Reply with the photo and the marks on it; its place is given back before."""
        request = part.request
        self._give_back(part)
        picture = request.message.picture or "JPEG"
        try:
            part.decoding = self._decoders.draw(
                request.photo, marks, picture, request.message.until
            )
        except RequestError as error:
            self._refuse(part, error)
            return
        part.decoding.add_done_callback(
            partial(self._loop.soon, self._drawn, part, seen)
        )

    def _drawn(self, part: Part, seen: Seen, future: Future[bytes]) -> None:
        part.decoding = None
        if part in part.request.parts:
            try:
                seen = msgspec.structs.replace(seen, picture=future.result())
            except (Exception, CancelledError) as error:  # noqa: BLE001 - as in _ran
                self._refuse(part, error)
                return
            self._end(part)
            part.request.reply(seen)
        self._close_if_done(part.request)

    def _refuse(self, part: Part, error: BaseException) -> None:
        """Reply why there is no answer of a model; nothing if there was a reply."""
        request, message = part.request, part.request.message
        if part not in request.parts:
            return
        if time.perf_counter() >= message.until and isinstance(error, _WAITED):
            error = DeadlinePassed(message.seconds)
        if not isinstance(error, RequestError):
            log.error("request %s failed", message.request_id, exc_info=error)
            error = InternalError(message.request_id)
        self._end(part)
        request.reply(refused(message.number, error, part.name, part.title))

    def leave(self, request: Request) -> None:
        """Do no more for a request whose client has gone. Idempotent.

        An image that is in its queue by then is left out once its turn has come.
        """
        request.gone = True
        for part in list(request.parts):
            if part.prepared is None or part.decoding is not None:
                part.model.queue.counts[ClientGone.slug] += 1
                self._refuse(part, ClientGone())

    def drop(self, request: Request) -> None:
        """Give back at once all that a request holds, as its door has gone. Idempotent.

        Unlike :meth:`leave`, whose client is one of many: a door's requests may fill
        all queues. What runs by now ends by itself.
        """
        request.gone = True
        for part in list(request.parts):
            self._refuse(part, ClientGone())

    def _expire(self, request: Request) -> None:
        """End a request whose caller's time is over."""
        for part in list(request.parts):
            part.model.queue.counts[DeadlinePassed.slug] += part.prepared is None
            self._refuse(part, DeadlinePassed(request.message.seconds))

    def _end(self, part: Part) -> None:
        """Give back all that a part holds, and end its decode if it is under way."""
        request = part.request
        request.parts.remove(part)
        self._give_back(part)
        decoding = part.decoding
        if decoding is not None and not any(
            other.decoding is decoding for other in request.parts
        ):
            decoding.cancel()
        self._close_if_done(request)

    def _give_back(self, part: Part) -> None:
        if not part.given_back:
            part.given_back = True
            part.model.queue.leave(part.slot)
            self._shares.leave(part.title)
            self._registry.give_back(part.version)

    def _close_if_done(self, request: Request) -> None:
        """Drop the photo once no model and no decoder needs it any more."""
        if not request.parts:
            request.timer.cancel()
            request.photo.close()
            request.on_end()


def _packed(outputs: Outputs, wanted: Sequence[str]) -> bytes:
    """Return the outputs of a raw run as msgpack."""
    names = wanted or outputs
    return msgspec.msgpack.encode({name: Array.pack(outputs[name]) for name in names})


def _seen(
    part: Part, prepared: Prepared, answer: bytes, batch: int, timings: Timings
) -> Seen:
    return Seen(
        part.request.message.number,
        part.name,
        part.title,
        answer,
        prepared.width,
        prepared.height,
        prepared.orientation,
        batch,
        part.version.snapshot.digest,
        *timings,
        part.began,
        device=part.model.facts.device,
    )
