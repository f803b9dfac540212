"""The API as a document: ``/openapi.json``, and ``/docs`` for people."""

from __future__ import annotations

import html
import re
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Blueprint, Response, render_template, request

from modelserver.web.problems import PROBLEM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask

# Of the contract: a new one when an answer changes unasked.
_VERSION = "1"
_VERBS = ("GET", "POST")
# Stands for the server's own address in the page that is kept.
_ADDRESS = "http://address.invalid"


def blueprint(app: Flask) -> Blueprint:
    """Return the routes that describe an app's routes.

    Both are made once: they take no token, and a stranger's ten milliseconds of the
    interpreter would be photos.
    """
    routes = Blueprint("documents", __name__)
    made = cache(partial(document, app))

    @cache
    def content() -> bytes:
        return msgspec.json.encode(made())

    def openapi() -> Response:
        """``GET /openapi.json``: this app's routes."""
        return Response(content(), content_type="application/json")

    # A server has one root, which no client chooses.
    @lru_cache(maxsize=1)
    def page(root: str) -> str:
        return _page(app, made(), root)

    def show() -> str:
        """``GET /docs``: the same for people."""
        address = html.escape(request.url_root.rstrip("/"))
        return page(request.script_root).replace(_ADDRESS, address)

    routes.add_url_rule("/openapi.json", view_func=openapi)
    routes.add_url_rule("/docs", view_func=show)
    return routes


def _page(app: Flask, spec: dict[str, Any], root: str) -> str:
    """Return the page of an app's description.

    Args:
        root: what all of the server's paths begin with, behind a proxy.
    """
    served = app.extensions["modelserver"]
    # Shown first.
    routes = sorted(
        (
            (verb, path, operation)
            for path, verbs in spec["paths"].items()
            for verb, operation in verbs.items()
        ),
        key=lambda route: (route[0] != "post", route[1]),
    )
    return render_template(
        "docs.html",
        spec=spec,
        routes=routes,
        problem=PROBLEM,
        address=_ADDRESS,
        root=root,
        paths={task.kind: task.endpoint.route for task in served.tasks},
        token=bool(served.settings.api_token),
    )


def document(*apps: Flask) -> dict[str, Any]:
    """Return the description of all routes of some apps.

    A route that ``operations`` does not describe is left out.
    """
    # Nothing of this is needed to answer photos, so it costs nothing at the start.
    from apispec import APISpec  # noqa: PLC0415

    from modelserver.web.openapi import (  # noqa: PLC0415
        dialect_operations,
        operations,
        schemas,
    )

    spec = APISpec(
        title="ModelServer",
        version=_VERSION,
        openapi_version="3.1.0",
        info={"description": "POST a photo, get labels, confidences and boxes."},
        servers=[{"url": "/"}],
        security=[{}, {"bearer": []}, {"key": []}],
    )
    served = [app.extensions["modelserver"].tasks for app in apps]
    tasks = [*dict.fromkeys(task for each in served for task in each)]
    dialects = [app.extensions["modelserver"].dialects for app in apps]
    spoken = [*dict.fromkeys(dialect for each in dialects for dialect in each)]
    for name, schema in schemas.components(tasks, spoken).items():
        spec.components.schema(name, schema)
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme(
        "key", {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    )
    described = operations.all_operations(tasks) | dialect_operations.of(spoken)
    for path, verbs in sorted(_paths(apps).items()):
        by_verb = {
            verb: described[endpoint]
            for verb, endpoint in sorted(verbs.items())
            if endpoint in described
        }
        if by_verb:
            spec.path(path, operations=by_verb)
    return spec.to_dict()


def _paths(apps: Iterable[Flask]) -> dict[str, dict[str, str]]:
    """Return each path's methods and the endpoints behind them."""
    paths: dict[str, dict[str, str]] = {}
    for app in apps:
        for rule in app.url_map.iter_rules():
            # Flask writes a parameter as <name>, OpenAPI as {name}.
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            for verb in (rule.methods or set()) & set(_VERBS):
                # A dialect's route on the path of an own one comes later.
                paths.setdefault(path, {}).setdefault(verb.lower(), rule.endpoint)
    return paths
