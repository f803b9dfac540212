"""What an app serves from: models, uploads and the service over both."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, cast

from flask import current_app

from modelserver.core.errors import RequestError, StartError
from modelserver.core.metrics import Metrics
from modelserver.engine import discovery, self_test
from modelserver.engine.catalogue import Registry, State
from modelserver.engine.catalogue.hot_folder import HotFolder
from modelserver.engine.loader import Loader
from modelserver.engine.runners import cards, probe
from modelserver.engine.service import Service
from modelserver.engine.uploads import Spool
from modelserver.web import startup_hint, traces
from modelserver.web.origins import Origins
from modelserver.web.samplers import read_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from modelserver.core.settings import Settings
    from modelserver.engine.discovery import Discovery
    from modelserver.engine.models import Model
    from modelserver.engine.service import Evaluation
    from modelserver.tasks import Task

log = logging.getLogger(__name__)

_NO_GPU = "REQUIRE_GPU is set and there is no NVIDIA driver with a visible GPU."
_MORE_S = 5.0
# Of the requests whose uploads are still arriving no more are taken for ones that come
# soon: many slow clients must not look like many images.
_MOST_COMING = 16


class Backend:
    """The objects behind one app. Thread-safe.

    Attributes:
        tasks: what it serves.
        traces: what makes them, ``None`` where nobody asked for any.
        unread_headers: what answers to requests that were not read have in their heads
            for other sites' pages; ``None`` where that cannot be told unread.

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
        self.registry: Registry[Model] = Registry(
            self_test.checked(
                Loader(settings, survey),
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
            self._discover, self.registry, every_s=settings.reload_s
        )
        self.metrics = Metrics(
            lambda: read_all(
                self.registry, gpus=bool(survey.cards), signs=bool(survey.no_gpu)
            ),
            [state.value for state in State],
        )
        self.traces: traces.Traces | None = None
        self.service = Service(self.registry, settings, self._observe)
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
        """Say which cards there are; ask TensorFlow itself where one is required.

        Raises:
            StartError: it uses none.
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
        """Tell how a photo would be refused that came now, whatever its model.

        Cheap, and a hint only: a photo that is not refused here may be refused later.
        None is while a model waits to be asked for: it might be this one's. None is,
        either, where the page that asks could not read the refusal.

        Args:
            handled: requests that are being handled; some are yet to take their place.
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
        asked = (one for one in routes if start.startswith(f"POST {one}".encode()))
        route = next(asked, routes[0])
        self.metrics.answered(route, "", error.status)
        self.metrics.refused(error.slug)

    def count_unreadable(self, status: int) -> None:
        """Count a request that no app could be given."""
        self.metrics.answered("", "", status)

    def _observe(self, evaluation: Evaluation[Any]) -> None:
        task = evaluation.task
        self.metrics.evaluated(
            evaluation.title,
            evaluation.timings.seconds(),
            evaluation.batch,
            task.scores(task.answered(evaluation.result)),
        )
        if self.traces is not None:
            self.traces.evaluated(evaluation)

    def greet(self, address: object, *, tls: bool) -> None:
        """Log a line to try once a model serves; see ``greeting``. Returns at once.

        Args:
            address: what is listened at, as a socket's ``getsockname`` tells.
            tls: whether TLS is spoken there.
        """
        threading.Thread(
            target=startup_hint.greet,
            args=(self.registry, self.settings),
            kwargs={"address": address, "tls": tls},
            name="greet",
            daemon=True,
        ).start()

    def rescan(self) -> None:
        """Look at the model folder at once; what lies still is loaded.

        Returns at once, and may be called from a signal's handler.
        """
        self._folder.rescan()

    @property
    def hint(self) -> str:
        """What to say where there is no model: what is there and what is missing."""
        hint = self._folder.hint or discovery.hint(*self.tasks)
        return f"{hint[0].upper()}{hint[1:]}."

    def _discover(self) -> Discovery:
        return discovery.discover(self.settings.model_folder, *self.tasks)

    def close(self) -> None:
        """End all models. Idempotent; does nothing where nothing was started."""
        self._folder.close()
        self.registry.close()
        if self.traces is not None:
            self.traces.close()


def backend() -> Backend:
    """Return the backend of the app that serves the present request."""
    return cast("Backend", current_app.extensions["modelserver"])
