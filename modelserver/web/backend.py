"""The objects behind an app: models, uploads and the service over both."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, cast

from flask import current_app

from modelserver.core.errors import RequestError, StartError
from modelserver.core.metrics import Metrics, ModelMetrics, ProcessMetrics
from modelserver.core.process_limits import resident_bytes
from modelserver.engine import discovery, self_test
from modelserver.engine.catalogue import Registry, State
from modelserver.engine.catalogue.hot_folder import HotFolder
from modelserver.engine.decoders import InlineDecoders, limits_of
from modelserver.engine.loader import Loader
from modelserver.engine.runners import cards, probe
from modelserver.engine.runners.cards import memory_by_process
from modelserver.engine.service import Service
from modelserver.engine.uploads import Spool
from modelserver.web import startup_hint, traces
from modelserver.web.origins import Origins

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Entry
    from modelserver.engine.discovery import Discovery
    from modelserver.engine.models import Model
    from modelserver.engine.service import Evaluation
    from modelserver.tasks import Task

log = logging.getLogger(__name__)

_NO_GPU = "REQUIRE_GPU is set and there is no NVIDIA driver with a visible GPU."
_MORE_S = 5.0
# At most so many requests with arriving uploads count as images to come: many slow
# clients must not look like many images.
_MOST_COMING = 16


class Backend:
    """The objects behind one app. Thread-safe.

    Attributes:
        tasks: those it serves.
        traces: their maker, ``None`` if none are wanted.
        unread_headers: headers for other sites' pages, for answers to requests that
            were not read; ``None`` if they depend on the request.

    Args:
        tasks: whose models this app serves.
        settings: the server's.

    Raises:
        StartError: ``REQUIRE_GPU`` is set and no GPU is visible.
    """

    def __init__(self, tasks: Sequence[Task[Any]], settings: Settings) -> None:
        self._survey = survey = cards.survey()
        if settings.require_gpu and not survey.cards:
            unwanted = ("CUDA_VISIBLE_DEVICES says to use none.",) * survey.unwanted
            raise StartError(" ".join((_NO_GPU, *survey.problems, *unwanted)))
        self.tasks = tuple(tasks)
        self.settings = settings
        self.unread_headers = Origins(settings.cors_origins).unread_headers()
        self.spool = Spool(settings.upload_folder)
        self._decoders = InlineDecoders(limits_of(settings))
        self.registry: Registry[Model] = Registry(
            self_test.checked(
                Loader(settings, survey, self._decoders),
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
        self.metrics = Metrics(
            lambda: sample(
                self.registry, gpus=bool(survey.cards), signs=bool(survey.no_gpu)
            ),
            [state.value for state in State],
            lambda: [ProcessMetrics("server", 1, resident_bytes(os.getpid()))],
        )
        self.traces: traces.Traces | None = None
        self.service = Service(self.registry, settings, self._observe, self._decoders)
        self._started = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Sweep old uploads and start loading the models. Idempotent; returns soon.

        Raises:
            StartError: the upload folder cannot be used, or a GPU is required and
                TensorFlow uses none; nothing has started.
        """
        if self._started:
            return
        with self._lock:
            if self._started:
                return
            try:
                self.spool.sweep()
            except RequestError as error:
                raise StartError(
                    f"UPLOAD_FOLDER={str(self.settings.upload_folder)!r} cannot be "
                    f"used: {error.__cause__ or error}"
                ) from error
            self._look_at_cards()
            for files in self._folder.scan_first():
                self.registry.add(files)
            self._folder.start()
            self.traces = traces.start(os.environ)
            self._started = True

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

    def refusal(self, handled: int) -> RequestError | None:
        """Return how a photo for any model would be refused now.

        Cheap, and a hint only: a photo that is not refused here may be refused later.
        ``None`` while a model is unloaded: the photo might be for that one. ``None``
        also if the headers for other sites' pages depend on the request.

        Args:
            handled: requests that are being handled; some have yet to take their slot.
        """
        if self.unread_headers is None:
            return None
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

    def count_refusal(self, error: RequestError, start: bytes) -> None:
        """Count a photo that was answered without the app.

        Args:
            start: of its request: verb and route.
        """
        routes = [task.endpoint.route for task in self.tasks]
        matches = (
            route for route in routes if start.startswith(f"POST {route}".encode())
        )
        route = next(matches, routes[0])
        self.metrics.count_answer(route, "", error.status)
        self.metrics.count_refusal(error.slug)

    def count_unreadable(self, status: int) -> None:
        """Count a request that no app could read."""
        self.metrics.count_answer("", "", status)

    def _observe(self, evaluation: Evaluation[Any]) -> None:
        task = evaluation.task
        self.metrics.count_evaluation(
            evaluation.title,
            evaluation.timings.seconds(),
            evaluation.batch,
            task.scores(task.answered(evaluation.result)),
        )
        if self.traces is not None:
            self.traces.add_evaluation(evaluation)

    def greet(self, address: object) -> None:
        """Log a line to try once a model serves; see ``startup_hint``. Returns at once.

        Args:
            address: the server's own, as a socket's ``getsockname`` gives it.
        """
        threading.Thread(
            target=startup_hint.greet,
            args=(self.registry, self.settings),
            kwargs={"address": address},
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
        """End all models. Idempotent; does nothing if nothing was started."""
        self._folder.close()
        self.registry.close()
        self._decoders.close()
        if self.traces is not None:
            self.traces.close()


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
    model = entry.loaded
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


def backend() -> Backend:
    """Return the backend of the app that serves the present request."""
    return cast("Backend", current_app.extensions["modelserver"])
