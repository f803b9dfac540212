"""The routes that answer in JSON."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, g, request

from modelserver.core import contract
from modelserver.core.errors import BadRequest, ModelFailed
from modelserver.core.messages.questions import Readiness
from modelserver.tasks import TASKS
from modelserver.tasks.options import Options, read_options
from modelserver.web.answers import (
    accepted_format,
    answer,
    answer_one,
    answer_several,
)
from modelserver.web.backend import backend
from modelserver.web.callers import caller, own_limit
from modelserver.web.forms import read_form, require
from modelserver.web.html_answers import models_page, wants_page
from modelserver.web.photo_requests import PhotoRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Response

    from modelserver.tasks import Task

# For a model's name: each model that this app has.
EVERY = "*"
# When to ask again whether the models are there: a default one loads in some seconds.
_RETRY_S = "2"


def blueprint(tasks: Iterable[Task[Any]]) -> Blueprint:
    """Return the routes of an app that serves some tasks."""
    routes = Blueprint("api", __name__)
    for task in tasks:
        asked = task.endpoint
        view = partial(evaluate, task)
        routes.add_url_rule(asked.route, asked.word, view, methods=["POST"])
    routes.add_url_rule("/models", view_func=models)
    routes.add_url_rule("/models/<name>", view_func=model)
    routes.add_url_rule("/models/<name>/labels", view_func=model_labels)
    routes.add_url_rule("/livez", view_func=livez)
    routes.add_url_rule("/readyz", view_func=readyz)
    return routes


def evaluate(task: Task[Any]) -> Response:
    """``POST`` to a task's route: answer what models see in photos."""
    server = backend()
    own_s = own_limit()
    form = read_form(request, server.spool)
    who = caller(server.settings.request_timeout_s, own_s)
    names, files = require(form, lambda: server.ask("names", list[str], of=task.kind))
    # The model's name alone asks for nothing.
    options = read_options(form.fields) if len(form.fields) > 1 else Options()
    asked = PhotoRequest(server.link, task, who, options, g.request_id)
    picture = accepted_format()
    if len(names) == len(files) == 1 and names[0] != EVERY:
        return answer_one(asked.one(files[0].upload, names[0], picture), picture)
    if picture is not None:
        raise BadRequest(
            "A picture is answered to one file and one model only; for several "
            "ask for JSON, with Accept: application/json."
        )
    if EVERY in names:
        # In an empty folder the name itself is reported as not found.
        names = server.ask("names", list[str], of=task.kind) or names
    outcomes = asked.several([file.upload for file in files], names)
    pairs = [(file.name, name) for file in files for name in names]
    return answer_several(task, pairs, outcomes, server.link)


def models() -> Response:
    """``GET /models``: every model found, with its state."""
    found = backend().ask("models", contract.Models)
    if wants_page():
        return models_page([_about(each.name, each.kind) for each in found.models])
    return answer(found)


def model(name: str) -> Response:
    """``GET /models/<name>``: all that is known of one model.

    If two kinds have a model of that name, ``?kind=`` chooses one.
    """
    if wants_page():
        return models_page([_about(name, _kind())])
    return answer(backend().ask("model", contract.ModelReport, name=name, of=_kind()))


def _about(name: str, kind: str) -> tuple[contract.ModelReport, contract.Labels | None]:
    """Return all that is known of one model, and its labels if they can be read."""
    server = backend()
    report = server.ask("model", contract.ModelReport, name=name, of=kind)
    try:
        return report, server.ask("labels", contract.Labels, name=name, of=kind)
    except ModelFailed:
        return report, None


def model_labels(name: str) -> Response:
    """``GET /models/<name>/labels``: the ids and names of its label map."""
    return answer(backend().ask("labels", contract.Labels, name=name, of=_kind()))


def _kind() -> str:
    """Return the kind that the query names; empty if it names none.

    Raises:
        BadRequest: there is no such kind.
    """
    kind = request.args.get("kind")
    if kind is not None and kind not in TASKS:
        raise BadRequest(f"kind={kind[:200]!r} is none of {', '.join(TASKS)}.")
    return kind or ""


def livez() -> Response:
    """``GET /livez``: this door is alive."""
    return answer(contract.Live(live=True))


def readyz() -> Response:
    """``GET /readyz``: 200 once no model is in its first load and one serves.

    With ``STRICT_READY`` all that are not unloaded must serve.
    """
    server = backend()
    found = server.ask("ready", Readiness)
    # Probes carry no token, and the names are not for everybody.
    hidden = bool(server.settings.api_token)
    states: dict[str, Any] = dict(found.states)
    ill: dict[str, Any] = dict(found.degraded)
    body = contract.Ready(
        ready=found.ready,
        models=dict(Counter(states.values())) if hidden else states,
        degraded=dict(Counter(ill.values())) if hidden else ill,
    )
    response = answer(body, 200 if found.ready else 503)
    if not found.ready:
        response.headers["Retry-After"] = _RETRY_S
    return response
