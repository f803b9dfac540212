"""The routes that answer in JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from modelserver.core.errors import BadRequest, ModelError, ModelFailed, ModelNotFound
from modelserver.engine.batch_requests import Album
from modelserver.engine.catalogue import State
from modelserver.tasks import labels
from modelserver.tasks.options import Options, read_options
from modelserver.web.answers import answer, drawn, one, several, wanted_picture
from modelserver.web.backend import backend
from modelserver.web.callers import caller, own_limit
from modelserver.web.forms import read_form, require
from modelserver.web.model_reports import describe, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Response

    from modelserver.core.signatures import Kind
    from modelserver.engine.catalogue import Entry
    from modelserver.engine.models import Model
    from modelserver.engine.queue import Caller
    from modelserver.engine.service import Parse
    from modelserver.web.forms import File

# For a model's name: each model that this app has.
EVERY = "*"
# When to ask again whether the models are there: a default one loads in some seconds.
_RETRY_S = "2"


def blueprint(kind: Kind) -> Blueprint:
    """Return the routes of an app of one kind."""
    routes = Blueprint("api", __name__)
    if kind == "detection":
        routes.add_url_rule("/detect", view_func=detect, methods=["POST"])
    else:
        routes.add_url_rule("/classify", view_func=classify, methods=["POST"])
    routes.add_url_rule("/models", view_func=models)
    routes.add_url_rule("/models/<name>", view_func=model)
    routes.add_url_rule("/models/<name>/labels", view_func=model_labels)
    routes.add_url_rule("/livez", view_func=livez)
    routes.add_url_rule("/readyz", view_func=readyz)
    return routes


def detect() -> Response:
    """``POST /detect``: the objects in photos, highest confidence first."""
    return evaluate("detection")


def classify() -> Response:
    """``POST /classify``: the classes of photos."""
    return evaluate("classification")


def evaluate(kind: Kind) -> Response:
    """Answer what models see in photos."""
    own_s = own_limit()
    form = read_form(request, backend().spool)
    who = caller(own_s)
    names, files = require(form, (entry.name for entry in backend().registry))
    # The model's name alone asks for nothing.
    options = read_options(form.fields) if len(form.fields) > 1 else Options()
    options = _with_labels(options, names)
    picture = wanted_picture()
    single = len(names) == len(files) == 1 and names[0] != EVERY
    service = backend().service
    if not single:
        if picture is not None:
            raise BadRequest(
                "A picture is answered to one file and one model only; for several "
                "ask for JSON, with Accept: application/json."
            )
        return _several(kind, names, files, who, options)
    see = service.detect if kind == "detection" else service.classify
    seen = see(names[0], files[0].upload.data(), who, options)
    if picture is None:
        return one(kind, seen, options)
    return drawn(kind, seen, files[0].upload.data(), picture, who)


def _with_labels(options: Options, names: Sequence[str]) -> Options:
    """Return the options with the labels that the asked models have.

    Where one of them is not loaded, or has no label map, any label may be one of its.

    Raises:
        UnknownLabel: none of the models has one that was asked for.
    """
    if options.labels is None:
        return options
    asked = [e for e in backend().registry if EVERY in names or e.name in names]
    models = [entry.loaded for entry in asked]
    known: list[str] = []
    for loaded in models:
        if loaded is None or not loaded.labels.names:
            return options
        known += loaded.labels.names.values()
    return options.among(known) if models else options


def _several(
    kind: Kind,
    names: Sequence[str],
    files: Sequence[File],
    who: Caller,
    options: Options,
) -> Response:
    service = backend().service
    if EVERY in names:
        # Where there is none, the name itself is what is not found.
        names = [entry.name for entry in backend().registry] or names
    parse: Parse[Any] = (
        service.finds(options) if kind == "detection" else service.tells(options)
    )
    photos = [file.upload.data() for file in files]
    outcomes = Album(service, parse, who).evaluate(photos, names)
    pairs = [(file.name, name) for file in files for name in names]
    return several(kind, pairs, outcomes, options)


def models() -> Response:
    """``GET /models``: every model found, with its state."""
    return answer({"models": [describe(entry) for entry in backend().registry]})


def model(name: str) -> Response:
    """``GET /models/<name>``: all that is known of one model."""
    return answer(report(_entry(name)))


def model_labels(name: str) -> Response:
    """``GET /models/<name>/labels``: the ids and names of its label map."""
    entry = _entry(name)
    if entry.loaded is not None:
        names = entry.loaded.labels.names
    else:
        try:
            with entry.files.opened() as files:
                names = labels.read_labels(files.labels).names
        except ModelError as error:
            raise ModelFailed(name) from error
    listed = [{"id": number, "name": label} for number, label in names.items()]
    return answer({"labels": listed})


def _entry(name: str) -> Entry[Model]:
    """Return a model by its name.

    Raises:
        ModelNotFound: this app has none of that name.
    """
    entries = {entry.name: entry for entry in backend().registry}
    if name not in entries:
        raise ModelNotFound(name, entries, backend().hint)
    return entries[name]


def livez() -> Response:
    """``GET /livez``: the front is alive."""
    return answer({"live": True})


def readyz() -> Response:
    """``GET /readyz``: 200 once no model is in its first load and one serves.

    With ``STRICT_READY`` all that are not unloaded must serve.
    """
    registry, settings = backend().registry, backend().settings
    ready = registry.ready
    states = {entry.files.name: entry.state for entry in registry}
    if settings.strict_ready:
        ready = ready and set(states.values()) <= {State.READY, State.UNLOADED}
    named = {name: state.value for name, state in states.items()}
    ill = {e.files.name: word for e in registry if (word := degraded(e))}
    # Probes carry no token, and the names are not for everybody.
    hidden = bool(settings.api_token)
    body = {
        "ready": ready,
        "models": Counter(named.values()) if hidden else named,
        "degraded": Counter(ill.values()) if hidden else ill,
    }
    response = answer(body, 200 if ready else 503)
    if not ready:
        response.headers["Retry-After"] = _RETRY_S
    return response


def degraded(entry: Entry[Model]) -> str:
    """Return in a word or two what is wrong with a model; empty where nothing is."""
    if entry.state is State.FAILED:
        return "failed" if entry.retry_at is None else "circuit open"
    if entry.state is State.LOADING and entry.reason:
        return "restarting"
    return "reload failed" if entry.reload_error else ""
