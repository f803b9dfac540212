"""The upload form that a browser shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, render_template

from modelserver.registry import Stage
from modelserver.web.backend import backend

if TYPE_CHECKING:
    from modelserver.signatures import Kind


def blueprint(kind: Kind) -> Blueprint:
    """Return the page's routes for an app of one kind."""
    path = "/detect" if kind == "detection" else "/classify"
    routes = Blueprint("page", __name__)

    def show() -> str:
        # A plain form cannot send a token, and the names are not for everybody.
        token = bool(backend().settings.api_token)
        registry = backend().registry
        names = [e.files.name for e in registry if e.stage is not Stage.FAILED]
        if token:
            names = []
        return render_template("upload.html", path=path, names=names, token=token)

    routes.add_url_rule("/", "show", show)
    routes.add_url_rule(path, "show", show)
    return routes
