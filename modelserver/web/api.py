"""The routes that answer in JSON."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from modelserver.core import contract
from modelserver.core.errors import BadRequest, ModelError, ModelFailed
from modelserver.engine.batch_requests import BatchRequest
from modelserver.engine.catalogue import State
from modelserver.tasks import TASKS, labels
from modelserver.tasks.options import Options, read_options
from modelserver.web.answers import (
    accepted_format,
    answer,
    answer_drawing,
    answer_one,
    answer_several,
)
from modelserver.web.backend import backend
from modelserver.web.callers import caller, own_limit
from modelserver.web.forms import read_form, require
from modelserver.web.model_reports import describe, report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask import Response

    from modelserver.engine.catalogue import Entry
    from modelserver.engine.models import Model
    from modelserver.engine.queue import Caller
    from modelserver.tasks import Task
    from modelserver.web.backend import Backend
    from modelserver.web.forms import File

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
    names, files = require(
        form, lambda: [entry.name for entry in server.registry.of(task.kind)]
    )
    # The model's name alone asks for nothing.
    options = read_options(form.fields) if len(form.fields) > 1 else Options()
    options = _with_labels(server, task, options, names)
    picture = accepted_format()
    single = len(names) == len(files) == 1 and names[0] != EVERY
    if not single:
        if picture is not None:
            raise BadRequest(
                "A picture is answered to one file and one model only; for several "
                "ask for JSON, with Accept: application/json."
            )
        return _several(server, task, names, files, who=who, options=options)
    data = files[0].upload.data
    evaluation = server.service.evaluate(task, names[0], data(), who, options)
    if picture is None:
        return answer_one(evaluation, options)
    return answer_drawing(evaluation, data(), picture, who, server.service)


def _with_labels(
    server: Backend, task: Task[Any], options: Options, names: Sequence[str]
) -> Options:
    """Return the options with the labels that the asked models have.

    If one of them is not loaded, or has no label map, any label may be one of its.

    Raises:
        UnknownLabel: none of the models has one that was asked for.
    """
    if options.labels is None:
        return options
    entries = server.registry.of(task.kind)
    models = [e.loaded for e in entries if EVERY in names or e.name in names]
    known: list[str] = []
    for loaded in models:
        if loaded is None or not loaded.labels.names:
            return options
        known += loaded.labels.names.values()
    return options.among(known) if models else options


def _several(
    server: Backend,
    task: Task[Any],
    names: Sequence[str],
    files: Sequence[File],
    *,
    who: Caller,
    options: Options,
) -> Response:
    if EVERY in names:
        # In an empty folder the name itself is reported as not found.
        names = [entry.name for entry in server.registry.of(task.kind)] or names
    photos = [file.upload.data() for file in files]
    request_of_all = BatchRequest(server.service, task, who, options)
    outcomes = request_of_all.evaluate(photos, names)
    pairs = [(file.name, name) for file in files for name in names]
    return answer_several(task, pairs, outcomes, options, server.metrics)


def models() -> Response:
    """``GET /models``: every model found, with its state."""
    return answer(contract.Models([describe(entry) for entry in backend().registry]))


def model(name: str) -> Response:
    """``GET /models/<name>``: all that is known of one model.

    If two kinds have a model of that name, ``?kind=`` chooses one.
    """
    return answer(report(_entry(name)))


def model_labels(name: str) -> Response:
    """``GET /models/<name>/labels``: the ids and names of its label map."""
    entry = _entry(name)
    if entry.loaded is not None:
        names = entry.loaded.labels.names
    else:
        try:
            with entry.files.open_all() as files:
                names = labels.read_labels(files.labels).names
        except ModelError as error:
            raise ModelFailed(name) from error
    listed = [contract.Label(number, label) for number, label in names.items()]
    return answer(contract.Labels(listed))


def _entry(name: str) -> Entry[Model]:
    """Return a model by its name, and by ``?kind=`` if that is given.

    Raises:
        BadRequest: there is no such kind.
        AmbiguousModel, ModelNotFound: as the registry's.
    """
    kind = request.args.get("kind")
    if kind is not None and kind not in TASKS:
        raise BadRequest(f"kind={kind[:200]!r} is none of {', '.join(TASKS)}.")
    return backend().registry.entry(name, TASKS[kind].kind if kind else None)


def livez() -> Response:
    """``GET /livez``: the front is alive."""
    return answer(contract.Live(live=True))


def readyz() -> Response:
    """``GET /readyz``: 200 once no model is in its first load and one serves.

    With ``STRICT_READY`` all that are not unloaded must serve.
    """
    server = backend()
    registry, settings = server.registry, server.settings
    ready = registry.ready
    states = {entry.title: entry.state for entry in registry}
    if settings.strict_ready:
        ready = ready and set(states.values()) <= {State.READY, State.UNLOADED}
    named: dict[str, Any] = {name: state.value for name, state in states.items()}
    ill: dict[str, Any] = {e.title: word for e in registry if (word := degraded(e))}
    # Probes carry no token, and the names are not for everybody.
    hidden = bool(settings.api_token)
    body = contract.Ready(
        ready=ready,
        models=dict(Counter(named.values())) if hidden else named,
        degraded=dict(Counter(ill.values())) if hidden else ill,
    )
    response = answer(body, 200 if ready else 503)
    if not ready:
        response.headers["Retry-After"] = _RETRY_S
    return response


def degraded(entry: Entry[Model]) -> str:
    """Return the fault of a model in a word or two; empty if there is none."""
    if entry.state is State.FAILED:
        return "failed" if entry.retry_at is None else "circuit open"
    if entry.state is State.LOADING and entry.reason:
        return "restarting"
    return "reload failed" if entry.reload_error else ""
