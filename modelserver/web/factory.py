"""The application factory."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.datastructures import ImmutableDict

from modelserver.core.settings import Settings
from modelserver.tasks import Task
from modelserver.web import access, api, page, problems, request_metrics
from modelserver.web.backend import Backend
from modelserver.web.dialects import table
from modelserver.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class _App(Flask):
    """Flask, less its own answers to OPTIONS, which would allow nothing."""

    default_config = ImmutableDict(
        {**Flask.default_config, "PROVIDE_AUTOMATIC_OPTIONS": False}
    )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as it is: none here is a coroutine's.

        Flask looks at each hook anew for each request.
        """
        return func


def create_app(
    tasks: Task[Any] | Sequence[Task[Any]], settings: Settings | None = None
) -> Flask:
    """Make an app for the models of one task, or of several on one port.

    Starts no thread and no process: call ``app.extensions["modelserver"].start()`` in
    the process that serves; the first request does it otherwise. The models are closed
    at this process's exit.

    Args:
        tasks: the first one's port is the default.
        settings: read from the environment when not given.

    Raises:
        StartError: a setting is wrong, or a GPU is required and there is none.
    """
    tasks = (tasks,) if isinstance(tasks, Task) else tuple(tasks)
    if settings is None:
        settings = Settings.from_environ(port=tasks[0].endpoint.port)
    backend = Backend(tasks, settings)
    app = _App("modelserver.web")
    # A byte more than is allowed: Werkzeug refuses a body that has reached the limit
    # when it is asked for more.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_mb * 1024 * 1024 + 1
    # A path that a proxy's rule for /metrics does not see must not be /metrics here.
    app.url_map.merge_slashes = False
    app.extensions["modelserver"] = backend
    backend.dialects = table.spoken(settings.dialects, backend.tasks)
    routing = table.Routing(backend.dialects)
    routing.install(app)
    request_metrics.install(app, backend)
    access.install(app, backend)
    problems.install(app, backend)
    app.register_blueprint(api.blueprint(backend.tasks))
    app.register_blueprint(page.blueprint(backend.tasks))
    app.register_blueprint(document.blueprint(app))
    routing.register(app)
    atexit.register(backend.close)
    return app
