"""The engine: models, their queues, and all that is asked of them by doors."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from modelserver.core.errors import InternalError, RequestError, StartError
from modelserver.core.messages.requests import (
    Ask,
    Counts,
    Evaluate,
    Gone,
    Told,
    refused,
)
from modelserver.core.metrics import Metrics, ModelMetrics, ProcessMetrics
from modelserver.core.process_limits import resident_bytes
from modelserver.engine import discovery, questions, self_test, startup_hint
from modelserver.engine.catalogue import Registry, State
from modelserver.engine.catalogue.hot_folder import HotFolder
from modelserver.engine.decoder_processes import make_decoders
from modelserver.engine.decoders import Photo
from modelserver.engine.loader import Loader
from modelserver.engine.loop import Loop
from modelserver.engine.runners import cards, probe
from modelserver.engine.runners.cards import memory_by_process
from modelserver.engine.service import Service
from modelserver.engine.uploads import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from modelserver.core.messages.requests import ToDoor, ToEngine
    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Entry
    from modelserver.engine.discovery import Discovery
    from modelserver.engine.models import Model
    from modelserver.engine.service import Observation, Request
    from modelserver.tasks import Task

log = logging.getLogger(__name__)

_NO_GPU = "REQUIRE_GPU is set and there is no NVIDIA driver with a visible GPU."
_MORE_S = 5.0
# At most so many requests with arriving uploads count as images to come: many slow
# clients must not look like many images.
_MOST_COMING = 16


class Engine:
    """Serves models to doors. Thread-safe, but for what :meth:`door` returns.

    Attributes:
        tasks: those it serves.
        loop: where requests go their way.
        registry: the models.
        metrics: of models, and of the doors' answers.
        processes: samples the server's processes, but for those of models.

    Args:
        tasks: whose models are served.
        settings: the server's.

    Raises:
        StartError: ``REQUIRE_GPU`` is set and no GPU is visible.
    """

    def __init__(self, tasks: Sequence[Task[Any]], settings: Settings) -> None:
        self._since = time.monotonic()
        self._survey = survey = cards.survey()
        if settings.require_gpu and not survey.cards:
            unwanted = ("CUDA_VISIBLE_DEVICES says to use none.",) * survey.unwanted
            raise StartError(" ".join((_NO_GPU, *survey.problems, *unwanted)))
        self.tasks = tuple(tasks)
        self.settings = settings
        self.loop = Loop()
        self._decoders = make_decoders(settings, self.loop, lambda: len(self.registry))
        self.registry: Registry[Model] = Registry(
            self_test.checked(
                Loader(settings, survey, self._decoders, self.loop),
                settings.min_confidence,
                settings.load_timeout_s,
            ),
            hint=lambda: self.hint,
            loads=os.cpu_count() or 1,
            max_models=settings.max_models,
            # Longer than a request may take.
            drain_s=settings.request_timeout_s + _MORE_S,
        )
        self._folder = HotFolder(
            self.discover, self.registry, every_s=settings.reload_s
        )
        self.processes: Callable[[], Sequence[ProcessMetrics]] = _this_process
        self.metrics = Metrics(
            lambda: sample(
                self.registry, gpus=bool(survey.cards), signs=bool(survey.no_gpu)
            ),
            [state.value for state in State],
            self._sample_processes,
            self._decoders.sample,
        )
        self.service = Service(
            self.registry, settings, self._decoders, self.loop, self._observe
        )
        # Questions may wait for disks and for a driver: the loop must not.
        self._asked = ThreadPoolExecutor(1, "questions")
        self._started = self._greeted = self._closed = False
        self._lock = threading.Lock()

    def _sample_processes(self) -> list[ProcessMetrics]:
        """Sample the processes, those of decoders too."""
        pids = self._decoders.pids
        decoders = [ProcessMetrics.of("decoder", pids)] if pids else []
        return [*self.processes(), *decoders]

    def start(self) -> None:
        """Sweep old uploads and start loading the models. Idempotent; returns soon.

        Raises:
            StartError: the upload folder cannot be used, or a GPU is required and
                TensorFlow uses none; nothing has started.
        """
        with self._lock:
            if self._started:
                return
            self._sweep_uploads()
            self._look_at_cards()
            self.loop.start()
            self._decoders.start()
            for files in self._folder.scan_first():
                self.registry.add(files)
            self._folder.start()
            self._started = True

    def _sweep_uploads(self) -> None:
        """Make the upload folder, and remove what crashed processes left in it.

        Here, and not in each door: there may be several.

        Raises:
            StartError: it cannot be used.
        """
        folder = self.settings.upload_folder
        try:
            Spool(folder).sweep()
        except RequestError as error:
            raise StartError(
                f"UPLOAD_FOLDER={str(folder)!r} cannot be used: "
                f"{error.__cause__ or error}"
            ) from error

    def _look_at_cards(self) -> None:
        """Log which cards there are; ask TensorFlow itself if one is required.

        Raises:
            StartError: TensorFlow uses none.
        """
        measured = cards.memory(self._survey.cards) if self._survey.cards else {}
        for card in self._survey.cards:
            log.info("%s", cards.describe(card, measured[card.gpu]))
        for problem in self._survey.problems:
            log.warning("%s", problem)
        if self.settings.require_gpu:
            reason = probe.ask(self._survey.cards)
            if reason:
                raise StartError(f"REQUIRE_GPU is set, and no GPU is used. {reason}")

    def door(self, send: Callable[[ToDoor], object]) -> DoorSession:
        """Return what takes a door's messages.

        Args:
            send: sends an answer to it; called in the loop.
        """
        return DoorSession(self, send)

    def ask(self, message: Ask, send: Callable[[ToDoor], object]) -> None:
        """Answer a question, in a thread of its own."""
        self._asked.submit(self._answer, message, send)

    def _answer(self, message: Ask, send: Callable[[ToDoor], object]) -> None:
        answer: ToDoor
        try:
            answer = Told(message.number, questions.answer(self, message))
        except RequestError as error:
            answer = refused(message.number, error)
        except Exception:  # a thread's edge: a door waits
            log.exception("a question about %s failed", message.topic)
            answer = refused(message.number, InternalError(str(message.number)))
        self.loop.call(send, answer)

    def refusal(self, handled: int) -> RequestError | None:
        """Return how a photo for any model would be refused now.

        Cheap, and a hint only: a photo that is not refused here may be refused later.
        ``None`` while a model is unloaded: the photo might be for that one.

        Args:
            handled: requests that are being handled; some have yet to take their slot.
        """
        entries = list(self.registry)
        if any(entry.state is State.UNLOADED for entry in entries):
            return None
        models = [entry.loaded for entry in entries if entry.loaded is not None]
        coming = handled - sum(model.queue.inside for model in models)
        coming = max(0, min(coming, _MOST_COMING))
        refusal: RequestError | None = None
        for model in models:
            refusal = model.queue.refusal(coming)
            if refusal is None:
                return None
        return refusal

    def _observe(self, seen: Observation) -> None:
        seconds = {
            stage: milliseconds / 1000
            for stage, milliseconds in seen.timings._asdict().items()
        }
        self.metrics.count_evaluation(seen.title, seconds, seen.batch, seen.scores)

    def greet(self, address: object) -> None:
        """Log a line to try once a model serves; the first time only.

        Args:
            address: a door's own, as a socket's ``getsockname`` gives it.
        """
        if self._greeted:
            return
        self._greeted = True
        threading.Thread(
            target=startup_hint.greet,
            args=(self.registry, self.settings),
            kwargs={"address": address, "since": self._since},
            name="greet",
            daemon=True,
        ).start()

    def rescan(self) -> None:
        """Scan the model folder at once; files that no longer change are loaded.

        Returns at once, and may be called from a signal's handler.
        """
        self._folder.rescan()

    @property
    def hint(self) -> str:
        """The hint if there is no model: the files that are there and those missing."""
        hint = self._folder.hint or discovery.hint(*self.tasks)
        return f"{hint[0].upper()}{hint[1:]}."

    def discover(self) -> Discovery:
        """Look which models are in the folder now; none of them is loaded."""
        return discovery.discover(self.settings.model_folder, *self.tasks)

    def close(self) -> None:
        """End all models. Idempotent."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        self._folder.close()
        self.registry.close()
        self._asked.shutdown(wait=False)
        self._decoders.close()
        self.loop.stop()


class DoorSession:
    """One door's requests. For the loop's thread.

    Args:
        engine: that answers.
        send: sends an answer to the door.
    """

    def __init__(self, engine: Engine, send: Callable[[ToDoor], object]) -> None:
        self._engine = engine
        self._to_door = send
        self._requests: dict[int, Request] = {}

    def take(self, message: ToEngine, descriptors: Sequence[int]) -> None:
        """Take a message; its descriptors belong to this from here on."""
        if isinstance(message, Evaluate) and len(descriptors) == 1:
            self._evaluate(message, descriptors[0])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(message, Gone):
            request = self._requests.pop(message.number, None)
            if request is not None:
                self._engine.service.leave(request)
        elif isinstance(message, Ask):
            self._engine.ask(message, self._send)
        elif isinstance(message, Counts):
            self._engine.metrics.add(message)
        elif isinstance(message, Evaluate):
            raise TypeError("a request comes with one photo")
        else:
            self._engine.greet(message.address)

    def _evaluate(self, message: Evaluate, descriptor: int) -> None:
        photo, service = Photo(descriptor), self._engine.service
        try:
            request = service.evaluate(message, photo, self._send)
        except Exception:  # a request's edge: a door waits
            log.exception("request %s failed", message.request_id)
            photo.close()
            self._send(refused(message.number, InternalError(message.request_id)))
            return
        if request is not None and request.parts:
            self._requests[message.number] = request
            request.on_end = partial(self._requests.pop, message.number, None)

    def _send(self, answer: ToDoor) -> None:
        self._to_door(answer)

    def close(self) -> None:
        """End all requests of a door that has gone. Idempotent; from any thread."""
        self._engine.loop.soon(self._drop_all)

    def _drop_all(self) -> None:
        requests, self._requests = self._requests, {}
        # Each takes itself out of the dict when it ends.
        for request in list(requests.values()):
            self._engine.service.drop(request)


def _this_process() -> Sequence[ProcessMetrics]:
    return [ProcessMetrics.of("server", [os.getpid()])]


def sample(
    entries: Iterable[Entry[Model]], *, gpus: bool, signs: bool = False
) -> list[ModelMetrics]:
    """Sample every model's metrics.

    Args:
        entries: the models.
        gpus: whether to ask the driver for their processes' memory on GPUs.
        signs: whether there are signs of a GPU, so that a model on the CPU counts as
            one that fell back.
    """
    on_gpus = memory_by_process() if gpus else {}
    return [_sample_one(entry, on_gpus, signs=signs or gpus) for entry in entries]


def _sample_one(
    entry: Entry[Model], on_gpus: Mapping[int, int], *, signs: bool
) -> ModelMetrics:
    model = entry.in_memory
    fallback = None
    if signs and model is not None:
        fallback = int(bool(model.facts.device_reason))
    pid = model.runner.pid if model is not None else None
    return ModelMetrics(
        name=entry.title,
        state=entry.state.value,
        restarts=entry.restarts,
        reloads_failed=entry.reloads_failed,
        waiting=model.queue.waiting if model is not None else 0,
        dropped=dict(model.queue.counts) if model is not None else {},
        resident_bytes=resident_bytes(pid) if pid is not None else None,
        gpu_bytes=on_gpus.get(pid) if pid is not None else None,
        gpu_fallback=fallback,
    )
