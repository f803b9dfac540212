"""The page for browsers: pick a model, drop a photo, see the answer."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request, url_for

from modelserver.core.messages.questions import PageModels
from modelserver.web.backend import backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Response

    from modelserver.tasks import Task

_STATIC = Path(__file__).parent / "static"
# The script's imports, for the browser to fetch at once rather than one after the
# other. Imports name no digests, so browsers ask whether theirs are the same.
_MODULES = (
    "api.js",
    "camera.js",
    "elements.js",
    "model_list.js",
    "snippets.js",
    "storage.js",
)
_DIGEST_LENGTH = 12
# A year, the most that is of use: the address changes with the content.
_FOREVER = "public, max-age=31536000, immutable"
# Below it a detector's answers are noise; the page asks for no more than it can show.
_LOWEST_CONFIDENCE = 0.05


def blueprint(tasks: Sequence[Task[Any]]) -> Blueprint:
    """Return the page's routes for an app that serves some tasks."""
    routes = Blueprint("page", __name__)
    digests = digests_of(_STATIC)

    def asset(name: str) -> str:
        return url_for("static", filename=name, v=digests[name])

    def show() -> str:
        settings = backend().settings
        # The names are not for everybody.
        token = bool(settings.api_token)
        found = PageModels() if token else backend().ask("page", PageModels)
        return render_template(
            "page.html",
            asset=asset,
            modules=_MODULES,
            task=tasks[0],
            several=len(tasks) > 1,
            slides=any(task.slides for task in tasks),
            paths={
                task.kind: request.script_root + task.endpoint.route for task in tasks
            },
            root=request.script_root,
            token=token,
            models=found.models,
            hint=found.hint,
            min_confidence=settings.min_confidence,
            lowest=min(_LOWEST_CONFIDENCE, settings.min_confidence),
            max_upload_mb=settings.max_upload_mb,
        )

    def keep(response: Response) -> Response:
        if request.endpoint == "static" and response.status_code == HTTPStatus.OK:
            name = (request.view_args or {}).get("filename", "")
            if request.args.get("v") == digests.get(name):
                response.headers["Cache-Control"] = _FOREVER
        return response

    routes.add_url_rule("/", "show", show)
    for task in tasks:
        routes.add_url_rule(task.endpoint.route, "show", show)
    routes.after_app_request(keep)
    return routes


def digests_of(folder: Path) -> dict[str, str]:
    """Return a digest of the content of each file in a folder, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST_LENGTH]
        for path in folder.iterdir()
    }
