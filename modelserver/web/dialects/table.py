"""The dialects that there are, and their routes in an app, registered here alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Blueprint, g, request

from modelserver.web.backend import backend
from modelserver.web.dialects.deepstack import DEEPSTACK
from modelserver.web.dialects.dialect import Dialect, Route, by_path
from modelserver.web.dialects.doods import DOODS
from modelserver.web.dialects.open_inference import OPEN_INFERENCE
from modelserver.web.dialects.tensorflow_serving import TENSORFLOW_SERVING
from modelserver.web.forms import read_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask import Flask, Response
    from werkzeug.routing import Rule

    from modelserver.tasks import Task

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OPEN_INFERENCE, DEEPSTACK, TENSORFLOW_SERVING, DOODS)
}
"""Each by the word that the setting ``DIALECTS`` has for it."""


def spoken(words: Iterable[str], tasks: Iterable[Task[Any]]) -> tuple[Dialect, ...]:
    """Return the dialects of an app.

    Args:
        words: as the setting names them.
        tasks: whose models the app serves.
    """
    served = tuple(tasks)
    return tuple(
        DIALECTS[word] for word in words if any(map(DIALECTS[word].serves, served))
    )


class _Other(NamedTuple):
    """A dialect's route on the path of an own one, and its rule."""

    route: Route
    rule: Rule


class Routing:
    """The routes of dialects in one app.

    Args:
        dialects: those that the app speaks.
    """

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = tuple(dialects)
        self._routes: dict[str, tuple[Dialect, Route]] = {}
        self._others: dict[str, list[_Other]] = {}

    def install(self, app: Flask) -> None:
        """Have each request's dialect noted; to be called before any other hook."""
        app.before_request(self._note)

    def register(self, app: Flask) -> None:
        """Add the routes; to be called once the app has its own."""
        for dialect in self._dialects:
            blueprint = Blueprint(dialect.name, __name__)
            for route in dialect.routes:
                self._routes[f"{dialect.name}.{route.endpoint}"] = (dialect, route)
                blueprint.add_url_rule(
                    route.path,
                    route.endpoint,
                    partial(_answer, route),
                    methods=[route.verb],
                )
            app.register_blueprint(blueprint)
        for endpoint, (_, route) in self._routes.items():
            if route.content_type:
                self._share(app, endpoint, route)

    def _share(self, app: Flask, endpoint: str, route: Route) -> None:
        """Note whose path a route shares."""
        (mine,) = app.url_map.iter_rules(endpoint)
        for rule in app.url_map.iter_rules():
            verbs = rule.methods or set()
            if rule is not mine and rule.rule == mine.rule and route.verb in verbs:
                self._others.setdefault(rule.endpoint, []).append(_Other(route, mine))

    def _note(self) -> None:
        """Note the present request's dialect, and tell apart routes that share a path.

        Flask finds the first of two rules; the view of ``request.url_rule`` is called.
        """
        for other in self._others.get(request.endpoint or "", ()):
            if other.route.content_type == request.mimetype:
                request.url_rule = other.rule
        found = self._routes.get(request.endpoint or "")
        if found is not None:
            g.dialect, g.dialect_route = found
        elif request.url_rule is None:
            g.dialect = by_path(self._dialects, request.path)


def _answer(route: Route, **parameters: Any) -> Response:
    """Answer a request by a route's view, with its form if it has one."""
    if route.form is not None:
        parameters["form"] = read_form(request, backend().spool, route.form)
    return route.view(**parameters)
