"""What a dialect consists of, and which one the present request is in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flask import g
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Response
    from werkzeug.datastructures import Headers

    from modelserver.core.contract import Problem
    from modelserver.tasks import Task
    from modelserver.web.forms import FormShape


def _every(_task: Task[Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Route:
    """One verb and path of a dialect. Immutable.

    Attributes:
        path: as Flask writes rules.
        view: answers a request; is called with the parameters of the path, and with
            ``form`` if there is a ``form``.
        summary: its purpose, for the API's description.
        answer: the type of its answer, for the same.
        verb: GET or POST.
        form: how its form is read; ``None`` if it takes none.
        reads_body: it reads a body that is no form.
        is_open: it takes no token, as it shows nothing and costs nothing.
        content_type: of the bodies that are meant, where an own route has the same verb
            and path; else empty.
    """

    path: str
    view: Callable[..., Response]
    summary: str
    answer: Any
    verb: str = "POST"
    form: FormShape | None = None
    reads_body: bool = False
    is_open: bool = False
    content_type: str = ""

    @property
    def endpoint(self) -> str:
        """Its name, less the dialect's; no other route of the dialect has it."""
        return "_".join((self.verb.lower(), *re.findall(r"\w+", self.path)))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One protocol. Immutable.

    Attributes:
        name: in ``DIALECTS`` and in metrics.
        prefixes: beginnings of paths that are nobody else's: errors there look as its
            clients expect them.
        routes: all of them.
        refuse: returns an error's status and its body, to be written as JSON.
        key_header: a header that its clients put the token in.
        key_fields: fields of forms that they put it in.
        serves: tells whether a task can be asked by it; an app without such a task
            has none of its routes.
    """

    name: str
    prefixes: tuple[str, ...]
    routes: tuple[Route, ...]
    refuse: Callable[[Problem], tuple[int, object]]
    key_header: str = ""
    key_fields: tuple[str, ...] = ()
    serves: Callable[[Task[Any]], bool] = field(default=_every)

    def key_of(self, headers: Headers) -> str:
        """Return the token that is in its own header; empty if there is none."""
        return headers.get(self.key_header, "") if self.key_header else ""

    def rule_of(self, verb: str, path: str) -> str:
        """Return the route that a request is for, as it is defined; empty for none."""
        found = [
            route.path
            for route in self.routes
            if route.verb == verb and re.fullmatch(_pattern(route.path), path)
        ]
        # A route of one path goes before one with parameters, as Flask has it.
        return min(found, key=lambda rule: rule.count("<"), default="")

    def has_key_in_form(self, route: Route | None) -> bool:
        """Tell whether a route's form may have the token."""
        return bool(self.key_fields) and route is not None and route.form is not None


class Refusal(Struct, frozen=True):
    """Why there is no answer, and nothing else."""

    error: str


def refuse_plainly(problem: Problem) -> tuple[int, Refusal]:
    """Return an error for the dialects whose clients read one member of it."""
    return problem.status, Refusal(problem.detail)


def current() -> Dialect | None:
    """Return the dialect of the present request; ``None`` if it is in no other's."""
    return cast("Dialect | None", g.get("dialect"))


def current_route() -> Route | None:
    """Return the dialect's route of the present request."""
    return cast("Route | None", g.get("dialect_route"))


def by_path(dialects: Iterable[Dialect], path: str) -> Dialect | None:
    """Return the dialect that a path without a route belongs to."""
    for dialect in dialects:
        for prefix in dialect.prefixes:
            if path == prefix or path.startswith(prefix + "/"):
                return dialect
    return None


def by_request(
    dialects: Iterable[Dialect], verb: str, path: str, content_type: str
) -> Dialect | None:
    """Return the dialect of a request that no app has seen; ``None`` if it is our own.

    Args:
        content_type: of its body, with its parameters.
    """
    spoken = tuple(dialects)
    kind = content_type.partition(";")[0].strip().lower()
    for dialect in spoken:
        for route in dialect.routes:
            if route.content_type and (verb, path, kind) == (
                route.verb,
                route.path,
                route.content_type,
            ):
                return dialect
    return by_path(spoken, path)


def body_routes(
    dialects: Iterable[Dialect],
) -> list[tuple[re.Pattern[str], Dialect, Route]]:
    """Return the routes that read bodies, each with a pattern of its path's end."""
    return [
        (re.compile(_pattern(route.path) + "$"), dialect, route)
        for dialect in dialects
        for route in dialect.routes
        if route.form is not None or route.reads_body
    ]


def _pattern(rule: str) -> str:
    """Return a Flask rule as a regular expression."""
    parts = re.split(r"(<[^>]*>)", rule)
    return "".join(
        re.escape(part)
        if not part.startswith("<")
        else ".+"
        if part.startswith("<path:")
        else "[^/]+"
        for part in parts
    )
