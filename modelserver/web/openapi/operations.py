"""The parameters and answers of each route, in OpenAPI 3.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.core import contract
from modelserver.tasks import TASKS
from modelserver.tasks.options import MOST
from modelserver.web.forms import MAX_FILES
from modelserver.web.openapi import schemas
from modelserver.web.problems import PROBLEM, kinds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelserver.tasks import Task

Operation = dict[str, Any]

_STRING = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
# Of these kinds are the answers to any request; the rest needs a photo or a model.
_ANY = frozenset({400, 401, 403, 404, 405})
# Answered if a model is asked for by its name alone.
_ONE_MODEL = frozenset({409})

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "min_confidence": (
        {"type": "number", "minimum": 0, "maximum": 1},
        (
            "What a detection must have at least, or one of `classes`; MIN_CONFIDENCE "
            "where it is not given. Nothing below SCORE_FLOOR is found."
        ),
    ),
    "labels": (
        {"type": "array", "items": _STRING},
        "Only these labels: repeated, or several between commas. Case does not count.",
    ),
    "max_results": (
        {"type": "integer", "minimum": 1, "maximum": MOST},
        "The surest so many.",
    ),
    "coordinates": (
        {"type": "string", "enum": ["normalized", "pixel"]},
        "What boxes are in: 0..1, or pixels of the upright photo.",
    ),
    "top_k": (
        {"type": "integer", "minimum": 1, "maximum": MOST},
        "So many of the best classes, with their confidences.",
    ),
}
_NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}}
_MODELNAME = "Names of models, see GET /models; `*` for every one."
_HEADERS = {
    "X-Image-Width": ("The upright photo's width in pixels.", {"type": "integer"}),
    "X-Image-Height": ("The upright photo's height in pixels.", {"type": "integer"}),
    "X-Image-Orientation": (
        "The EXIF orientation that was applied, 1 to 8.",
        {"type": "integer", "minimum": 1, "maximum": 8},
    ),
    "X-Model": ("The model's name, percent-encoded where it is not ASCII.", _STRING),
    "X-Model-Digest": (
        "SHA-256 of the model's graph, labels and sidecar.",
        {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    ),
    "X-Below-Confidence": (
        "Only if a detector's answer is empty: detections that were too unsure.",
        {"type": "integer", "minimum": 0},
    ),
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds.",
        "schema": {"type": "integer", "minimum": 0},
    }
}


def evaluation(task: Task[Any]) -> Operation:
    """Describe the ``POST`` to a task's route."""
    options = {
        name: description
        for name, description in OPTIONS.items()
        if name in task.options
    }
    return {
        "summary": task.summary,
        "description": "One file and one model are answered in the short form, more "
        "with `results`. To `Accept: image/jpeg` or `image/png` the answer is the "
        "photo with what was found drawn over it. Every option may be a form field "
        "or a query parameter.",
        "parameters": [
            _query("modelname", _NAMES, _MODELNAME + " Needed with a raw body."),
            *(_query(name, *description) for name, description in options.items()),
            {
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "description": "How long the client waits, in milliseconds.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 9_999_999_999},
            },
        ],
        "requestBody": _body(options),
        "responses": {
            "200": _answer(task),
            **_problems(({int(kind.status) for kind in kinds()} | _ANY) - _ONE_MODEL),
        },
    }


def _answer(task: Task[Any]) -> dict[str, Any]:
    """Describe the answer to an evaluation."""
    answers = [schemas.of(task.answer_type), schemas.of(task.results_type)]
    picture = {"schema": _BINARY}
    return {
        "description": "What was found.",
        "headers": {
            name: {"description": text, "schema": schema}
            for name, (text, schema) in _HEADERS.items()
        },
        "content": {
            "application/json": {"schema": {"oneOf": answers}},
            "image/jpeg": picture,
            "image/png": picture,
        },
    }


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _body(options: dict[str, tuple[dict[str, Any], str]]) -> dict[str, Any]:
    file = {
        "type": "array",
        "items": _BINARY,
        "minItems": 1,
        "maxItems": MAX_FILES,
        "description": "The photos, told by content.",
    }
    fields = {
        name: {**schema, "description": text}
        for name, (schema, text) in options.items()
    }
    names = {**_NAMES, "minItems": 1, "description": _MODELNAME}
    form = {
        "type": "object",
        "properties": {"modelname": names, "file": file, **fields},
        "required": ["modelname", "file"],
    }
    raw = {"schema": _BINARY}
    return {
        "required": True,
        "description": "A form, or with ?modelname= the photo itself, of any type.",
        "content": {
            "multipart/form-data": {"schema": form},
            "image/*": raw,
            "application/octet-stream": raw,
        },
    }


def _problems(statuses: Iterable[int]) -> dict[str, Any]:
    """Describe the problems of some statuses."""
    problems: dict[str, Any] = {}
    for status in sorted(statuses):
        types = sorted({kind.slug for kind in kinds() if kind.status == status})
        problems[str(status)] = {
            "description": ", ".join(types) or "about:blank",
            "content": {PROBLEM: {"schema": schemas.of(contract.Problem)}},
        }
        if status == 503:  # noqa: PLR2004 - the status itself is meant
            problems["503"]["headers"] = _RETRY_AFTER
    return problems


def read_operation(
    summary: str,
    body: dict[str, Any],
    kind: str = "application/json",
    *,
    also: dict[str, Any] | None = None,
    path: str | None = None,
) -> Operation:
    """Describe a ``GET``.

    Args:
        body: schema of the answer.
        also: more responses, by status.
        path: a parameter in the path.
    """
    operation: Operation = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {kind: {"schema": body}}},
            **_problems(_ANY | {408, 413, 500}),
            **(also or {}),
        },
    }
    if path is not None:
        operation["parameters"] = [
            {"name": path, "in": "path", "required": True, "schema": _STRING}
        ]
    return operation


def _of_model(summary: str, body: dict[str, Any]) -> Operation:
    """Describe a ``GET`` about the model that the path names."""
    kind = {"type": "string", "enum": [*TASKS]}
    operation = read_operation(summary, body, path="name", also=_problems(_ONE_MODEL))
    operation["parameters"].append(
        _query("kind", kind, "Which one, where two kinds have a model of that name.")
    )
    return operation


def _page(summary: str) -> Operation:
    return {
        **read_operation(summary, _STRING, "text/html; charset=utf-8"),
        "security": [],
    }


def all_operations(tasks: Iterable[Task[Any]]) -> dict[str, Operation]:
    """Return the description of each endpoint, by Flask's name of it."""
    ref = schemas.of
    ready = ref(contract.Ready)
    not_ready = {
        "503": {
            "description": "No model serves yet.",
            "headers": _RETRY_AFTER,
            "content": {"application/json": {"schema": ready}},
        }
    }
    probes = {
        "api.livez": read_operation("Whether the server lives", ref(contract.Live)),
        "api.readyz": read_operation(
            "Whether photos are answered", ready, also=not_ready
        ),
        "explain": read_operation(
            "What a problem means", ref(contract.Meaning), path="slug"
        ),
        "documents.openapi": read_operation("This document", {"type": "object"}),
    }
    return {
        **{f"api.{task.endpoint.word}": evaluation(task) for task in tasks},
        "api.models": read_operation("Every model", ref(contract.Models)),
        "api.model": _of_model("All about one model", ref(contract.ModelReport)),
        "api.model_labels": _of_model("A model's ids and names", ref(contract.Labels)),
        **{name: {**operation, "security": []} for name, operation in probes.items()},
        "documents.show": _page("This document, to read"),
        "page.show": _page("The page for people"),
        "metrics.show": read_operation(
            "The server's numbers",
            _STRING,
            "text/plain; version=0.0.4; charset=utf-8",
        ),
    }
