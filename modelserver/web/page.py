"""The page for browsers: pick a model, drop a photo, see the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from modelserver.core.errors import ModelNotReady
from modelserver.core.messages.questions import PageModels
from modelserver.web.backend import backend
from modelserver.web.page_files import PageFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.tasks import Task

# Below it a detector's answers are noise; the page asks for no more than it can show.
_LOWEST_CONFIDENCE = 0.05


def blueprint(tasks: Sequence[Task[Any]]) -> Blueprint:
    """Return the page's routes for an app that serves some tasks."""
    routes = Blueprint("page", __name__)
    files = PageFiles(routes)

    def show() -> str:
        settings = backend().settings
        # The names are not for everybody.
        token = bool(settings.api_token)
        found = PageModels() if token else _models()
        return render_template(
            "page.html",
            files=files,
            task=tasks[0],
            several=len(tasks) > 1,
            slides=any(task.slides for task in tasks),
            paths={
                task.kind: request.script_root + task.endpoint.route for task in tasks
            },
            root=request.script_root,
            token=token,
            models=found.models if found else [],
            unknown=token or found is None,
            hint=found.hint if found else "",
            min_confidence=settings.min_confidence,
            lowest=min(_LOWEST_CONFIDENCE, settings.min_confidence),
            max_upload_mb=settings.max_upload_mb,
        )

    routes.add_url_rule("/", "show", show)
    for task in tasks:
        routes.add_url_rule(task.endpoint.route, "show", show)
    return routes


def _models() -> PageModels | None:
    """Return the models, or ``None`` if the engine is away: the page asks again."""
    try:
        return backend().ask("page", PageModels)
    except ModelNotReady:
        return None
