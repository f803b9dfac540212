"""The routes that answer in JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Blueprint, Response, request

from modelserver import detection
from modelserver.web.access import note_timings
from modelserver.web.backend import backend
from modelserver.web.forms import read_form, require

if TYPE_CHECKING:
    from modelserver.models import Model
    from modelserver.registry import Entry
    from modelserver.signatures import Kind


def blueprint(kind: Kind) -> Blueprint:
    """Return the routes of an app of one kind."""
    routes = Blueprint("api", __name__)
    if kind == "detection":
        routes.add_url_rule("/detect", view_func=detect, methods=["POST"])
    else:
        routes.add_url_rule("/classify", view_func=classify, methods=["POST"])
    routes.add_url_rule("/models", view_func=models)
    routes.add_url_rule("/livez", view_func=livez)
    routes.add_url_rule("/readyz", view_func=readyz)
    return routes


def detect() -> Response:
    """``POST /detect``: the objects in a photo, highest confidence first."""
    name, upload = require(read_form(request, backend().spool))
    evaluation = backend().service.detect(name, upload.data())
    note_timings(evaluation.timings)
    return answer(detection.to_json(evaluation.result))


def classify() -> Response:
    """``POST /classify``: the class of a photo."""
    name, upload = require(read_form(request, backend().spool))
    evaluation = backend().service.classify(name, upload.data())
    note_timings(evaluation.timings)
    return answer({"class": evaluation.result[0].label})


def models() -> Response:
    """``GET /models``: every model found, with its state."""
    return answer({"models": [describe(entry) for entry in backend().registry]})


def describe(entry: Entry[Model]) -> dict[str, Any]:
    """Return one model as JSON shows it."""
    loaded = entry.loaded
    facts = loaded.facts if loaded is not None else None
    return {
        "name": entry.files.name,
        "kind": entry.files.kind,
        "state": entry.stage.value,
        "reason": entry.reason,
        "device": facts.device if facts else None,
        "digest": entry.digest or None,
        "restarts": entry.restarts,
        "load_ms": round(facts.load_ms) if facts else None,
        "slots": facts.slots if facts else None,
        "max_batch": facts.max_batch if facts else None,
        "input_size": facts.signature.size if facts else None,
        "notes": list(facts.notes) if facts else [],
    }


def livez() -> Response:
    """``GET /livez``: the front is alive."""
    return answer({"live": True})


def readyz() -> Response:
    """``GET /readyz``: 200 once no model is in its first load and one serves."""
    registry = backend().registry
    ready = registry.ready
    states = {entry.files.name: entry.stage.value for entry in registry}
    # Probes carry no token, and the names are not for everybody.
    shown = Counter(states.values()) if backend().settings.api_token else states
    return answer({"ready": ready, "models": shown}, 200 if ready else 503)


def answer(body: object, status: int = 200) -> Response:
    """Return a JSON response; msgspec never writes a bare NaN."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")
