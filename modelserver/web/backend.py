"""What an app serves from: models, uploads and the service over both."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, cast

from flask import current_app

from modelserver import discovery
from modelserver.errors import RequestError, StartError
from modelserver.models import Loader, Model
from modelserver.registry import Registry
from modelserver.runners.devices import visible_gpus
from modelserver.service import Service
from modelserver.uploads import Spool

if TYPE_CHECKING:
    from modelserver.discovery import ModelFiles
    from modelserver.settings import Settings
    from modelserver.signatures import Kind

log = logging.getLogger(__name__)


class Backend:
    """The objects behind one app. Thread-safe.

    Args:
        kind: which models this app serves.
        settings: the server's.

    Raises:
        StartError: ``REQUIRE_GPU`` is set and no GPU is visible.
    """

    def __init__(self, kind: Kind, settings: Settings) -> None:
        gpus = visible_gpus()
        if settings.require_gpu and not gpus:
            raise StartError(
                "REQUIRE_GPU is set and there is no NVIDIA driver with a visible GPU."
            )
        self.kind = kind
        self.settings = settings
        self.spool = Spool(settings.upload_folder)
        self.registry: Registry[Model] = Registry(
            Loader(settings, gpus),
            hint=discovery.hint(kind),
            loads=os.cpu_count() or 1,
            rescan=self._rescan,
        )
        self.service = Service(self.registry, settings)
        self._started = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Sweep old uploads and start loading the models. Idempotent; returns soon.

        Raises:
            StartError: the upload folder cannot be used; nothing has started.
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
            found = discovery.discover(self.settings.model_folder, self.kind)
            for warning in found.warnings:
                log.warning("%s", warning)
            for files in found.models:
                self.registry.add(files)
            self._started = True

    def _rescan(self, name: str) -> ModelFiles | None:
        found = discovery.discover(self.settings.model_folder, self.kind)
        return next((files for files in found.models if files.name == name), None)

    def close(self) -> None:
        """End all models. Idempotent; does nothing where nothing was started."""
        self.registry.close()


def backend() -> Backend:
    """Return the backend of the app that serves the present request."""
    return cast("Backend", current_app.extensions["modelserver"])
