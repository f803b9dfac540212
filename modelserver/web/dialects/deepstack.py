"""DeepStack, and CodeProject.AI, which took its routes over and added members.

Shapes, words and defaults are those of DeepStack's server and of its clients, of which
Frigate keeps no more than twenty predictions and stops at the first unsure one.
"""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import g
from msgspec import Struct

from modelserver import __version__
from modelserver.core.errors import BadRequest, MissingField, NotAnImage, Unauthorized
from modelserver.core.metrics import STAGES
from modelserver.tasks.options import Options
from modelserver.web.dialects.dialect import Dialect, Route
from modelserver.web.dialects.evaluations import (
    answer,
    default_model,
    evaluate,
    names_of,
    task_that,
)
from modelserver.web.forms import FormShape

if TYPE_CHECKING:
    from flask import Response

    from modelserver.core.contract import Problem
    from modelserver.core.messages.requests import Seen
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Finding
    from modelserver.web.forms import Form

# DeepStack's own: where a request says nothing, and the lowest that it goes.
_CONFIDENCE = 0.40
_LEAST_CONFIDENCE = 0.1
# Frigate's array has no more, and fails at one more.
_MOST = 20
_KEYS = ("api_key", "admin_key")
_PHOTO = FormShape(
    frozenset({"image"}), frozenset({"min_confidence", *_KEYS}), any_file=True
)
_NO_PHOTO = FormShape(frozenset(), frozenset(_KEYS))
# Its own sentences, which clients show to people.
_WORDS = {
    Unauthorized.slug: "Incorrect api key",
    MissingField.slug: "No valid image file found",
    NotAnImage.slug: "invalid image file",
}
# It knows fewer statuses.
_STATUSES = {
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNPROCESSABLE_ENTITY: HTTPStatus.BAD_REQUEST,
    HTTPStatus.GATEWAY_TIMEOUT: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Prediction(Struct, frozen=True):
    """One object; the box in whole pixels of the upright photo."""

    confidence: float
    label: str
    x_min: int
    y_min: int
    x_max: int
    y_max: int


# The names of members are the protocol's.
class Told(Struct, frozen=True, kw_only=True):
    """The members that CodeProject.AI adds to each answer."""

    success: bool = True
    command: str
    moduleId: str = "modelserver"  # noqa: N815
    moduleName: str = "ModelServer"  # noqa: N815
    code: int = int(HTTPStatus.OK)
    processedBy: str = "localhost"  # noqa: N815
    timestampUTC: str  # noqa: N815
    analysisRoundTripMs: int  # noqa: N815
    duration: int = 0


class Ran(Told, frozen=True, kw_only=True):
    """The members that tell of a run."""

    inferenceMs: int  # noqa: N815
    processMs: int  # noqa: N815
    executionProvider: str  # noqa: N815
    inferenceDevice: str  # noqa: N815
    canUseGPU: bool  # noqa: N815


class Detected(Ran, frozen=True, kw_only=True):
    """The objects in a photo, the surest first."""

    message: str
    count: int
    predictions: list[Prediction]


class Scene(Ran, frozen=True, kw_only=True):
    """What a photo is of."""

    label: str
    confidence: float


class Listed(Told, frozen=True, kw_only=True):
    """The names of models."""

    models: list[str]
    statusData: dict[str, str] = {}  # noqa: N815
    inferenceDevice: str = ""  # noqa: N815


class Named(Struct, frozen=True):
    """One model."""

    name: str


class Models(Struct, frozen=True):
    """The models, each with its name."""

    models: list[Named]
    success: bool = True


class Version(Struct, frozen=True, kw_only=True):
    """A version of this server."""

    major: int
    minor: int
    patch: int
    preRelease: str = ""  # noqa: N815
    securityUpdate: bool = False  # noqa: N815
    build: int = 0
    file: str = ""
    releaseNotes: str = ""  # noqa: N815


class Update(Struct, frozen=True, kw_only=True):
    """Whether there is an update."""

    success: bool = True
    message: str = "This server does not look for updates"
    version: Version | None = None
    current: Version
    latest: Version
    updateAvailable: bool = False  # noqa: N815


class Pong(Struct, frozen=True):
    """The server lives."""

    success: bool = True


class Refusal(Struct, frozen=True):
    """Why there is no answer."""

    success: bool
    error: str
    code: int
    duration: int = 0


def refuse(problem: Problem) -> tuple[int, Refusal]:
    """Return an error as DeepStack words it."""
    words = _WORDS.get(problem.type.rpartition("/")[2])
    status = int(_STATUSES.get(HTTPStatus(problem.status), problem.status))
    error = problem.detail if words is None else words
    return status, Refusal(success=False, error=error, code=status)


def detection(form: Form) -> Response:
    """``POST /v1/vision/detection``: the objects in a photo."""
    task = task_that("boxes")
    return _detected(form, default_model(task))


def _detected(form: Form, model: str) -> Response:
    task = task_that("boxes")
    options = Options(
        min_confidence=_min_confidence(form), max_results=_MOST, pixel=True
    )
    findings, seen = evaluate(task, _photo(form), model, options)
    found = [_prediction(one) for one in findings]
    body = Detected(
        predictions=found,
        message=_message(found),
        count=len(found),
        **_of_run(seen),
        **_told("detect"),
    )
    return answer(body, seen)


def custom(form: Form, model: str) -> Response:
    """``POST /v1/vision/custom/<model>``: the objects that one detector finds."""
    return _detected(form, model)


def scene(form: Form) -> Response:
    """``POST /v1/vision/scene``: what a photo is of."""
    task = task_that("classes")
    _min_confidence(form)  # sent by its clients, and of no use
    options = Options(top_k=1)
    findings, seen = evaluate(task, _photo(form), default_model(task), options)
    best = findings[0]
    body = Scene(
        label=best.label,
        confidence=best.confidence,
        **_of_run(seen),
        **_told("scene"),
    )
    return answer(body, seen)


def model_list(form: Form) -> Response:
    """``POST /v1/vision/custom/list``: the detectors' names."""
    del form
    return answer(Listed(models=names_of(task_that("boxes")), **_told("list")))


def models(form: Form) -> Response:
    """``POST /v1/vision/listmodels``: the same as DeepStack lists them."""
    del form
    names = names_of(task_that("boxes"))
    return answer(Models([Named(name) for name in names]))


def update_available() -> Response:
    """``GET /v1/status/updateavailable``: none is; this server asks nobody."""
    major, minor, patch = (int(part) for part in __version__.split("."))
    version = Version(major=major, minor=minor, patch=patch)
    return answer(Update(current=version, latest=version))


def ping() -> Response:
    """``GET /v1/server/status/ping``: this server answers."""
    return answer(Pong())


def _photo(form: Form) -> Upload:
    if not form.files:
        raise MissingField("image", "send a photo, e.g. curl -F image=@photo.jpg.")
    return form.files[0].upload


def _min_confidence(form: Form) -> float:
    """Return the least confidence that a form asks for.

    Raises:
        BadRequest: it is no number, or above 1.
    """
    text = next((value for value in form.fields.get("min_confidence", ()) if value), "")
    try:
        value = float(text or _CONFIDENCE)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise BadRequest("Invalid value for min_confidence")
    if value > 1:
        raise BadRequest("min_confidence cannot be greater than 1")
    return max(value, _LEAST_CONFIDENCE)


def _prediction(found: Finding) -> Prediction:
    x_min, y_min, x_max, y_max = map(round, found.box)
    return Prediction(found.confidence, found.label, x_min, y_min, x_max, y_max)


def _message(found: list[Prediction]) -> str:
    labels = ", ".join(one.label for one in found)
    return f"Found {labels}" if labels else "No objects found"


def _of_run(seen: Seen) -> dict[str, Any]:
    on_gpu = "GPU" in seen.device
    return {
        "inferenceMs": round(seen.run),
        "processMs": round(sum(getattr(seen, stage) for stage in STAGES)),
        "executionProvider": "CUDA" if on_gpu else "CPU",
        "inferenceDevice": "GPU" if on_gpu else "CPU",
        "canUseGPU": on_gpu,
    }


def _told(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "timestampUTC": formatdate(usegmt=True),
        "analysisRoundTripMs": round((time.perf_counter() - g.started) * 1000),
    }


DEEPSTACK = Dialect(
    name="deepstack",
    prefixes=("/v1/vision", "/v1/status", "/v1/server"),
    key_fields=_KEYS,
    refuse=refuse,
    routes=(
        Route(
            path="/v1/vision/detection",
            view=detection,
            form=_PHOTO,
            summary="Find objects, as DeepStack does",
            answer=Detected,
        ),
        Route(
            path="/v1/vision/custom/<model>",
            view=custom,
            form=_PHOTO,
            summary="Find objects by a named model, as DeepStack does",
            answer=Detected,
        ),
        Route(
            path="/v1/vision/scene",
            view=scene,
            form=_PHOTO,
            summary="Tell what a photo is of, as DeepStack does",
            answer=Scene,
        ),
        Route(
            path="/v1/vision/custom/list",
            view=model_list,
            form=_NO_PHOTO,
            summary="The detectors' names, as CodeProject.AI lists them",
            answer=Listed,
        ),
        Route(
            path="/v1/vision/listmodels",
            view=models,
            form=_NO_PHOTO,
            summary="The detectors' names, as DeepStack lists them",
            answer=Models,
        ),
        *(
            Route(
                path=f"{root}/{word}",
                verb="GET",
                view=view,
                is_open=True,
                summary=f"{summary}, as CodeProject.AI says it",
                answer=kind,
            )
            for word, view, summary, kind in (
                (
                    "updateavailable",
                    update_available,
                    "That there is no update",
                    Update,
                ),
                ("ping", ping, "Whether the server lives", Pong),
            )
            for root in ("/v1/status", "/v1/server/status")
        ),
    ),
)
