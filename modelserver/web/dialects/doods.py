"""DOODS: a photo in base64 within JSON, thresholds by label, regions.

The rules of what is answered are DOODS2's own. Its confidences are 0 to 100. It fetches
addresses that a request names, which is not done here: anybody could have this server
ask others on their behalf.
"""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from flask import Response, request
from msgspec import Struct, field

from modelserver.core import contract
from modelserver.core.errors import (
    BadRequest,
    ModelFailed,
    ModelNotFound,
    NotAnImage,
    UndecodableImage,
)
from modelserver.tasks.options import Options
from modelserver.web.backend import backend
from modelserver.web.dialects.dialect import Dialect, Route
from modelserver.web.dialects.evaluations import (
    answer,
    answer_picture,
    default_model,
    evaluate,
    task_that,
)
from modelserver.web.forms import LEAVE_IT, read_body, spooled

if TYPE_CHECKING:
    from typing import Any

    from modelserver.core.contract import Problem
    from modelserver.core.messages import PictureFormat
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Finding, Task
    from modelserver.tasks.task import Box

_DEFAULT = "default"
_ANY = "*"
_HUNDRED = 100
# DOODS2 multiplies a float32; more digits than those are noise.
_DIGITS = 4
_ADDRESS = re.compile(r"\s*(https?|rtsp|ftp|file|data):", re.IGNORECASE)
_FORMATS: dict[str, PictureFormat] = {
    **dict.fromkeys(("true", ".jpg", "jpg", "jpeg", "image/jpeg"), "JPEG"),
    **dict.fromkeys((".png", "png", "image/png"), "PNG"),
}
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
# What else is 400 there: it knows one status for all that is wrong with a request.
_BAD = {ModelNotFound.slug, NotAnImage.slug, UndecodableImage.slug}


class Region(Struct, frozen=True, kw_only=True):
    """A part of the photo with thresholds of its own.

    Attributes:
        covers: a detection must lie within it, rather than touch it.
    """

    top: float
    left: float
    bottom: float
    right: float
    detect: dict[str, float]
    covers: bool = False
    id: str | None = None

    def has(self, box: Box) -> bool:
        """Tell whether a detection is in it."""
        left, top, right, bottom = box
        if self.covers:
            return (
                self.top <= top
                and self.left <= left
                and self.bottom >= bottom
                and self.right >= right
            )
        return (
            top <= self.bottom
            and left <= self.right
            and bottom >= self.top
            and right >= self.left
        )


class Wanted(Struct, frozen=True, kw_only=True):
    """A request; members of other names are passed over."""

    id: str | None = None
    detector_name: str | None = None
    data: str = ""
    image: str | bool | None = None
    preprocess: list[str] = []
    detect: dict[str, float] = {}
    regions: list[Region] = []


class Detected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object; sides are 0..1."""

    region_id: str | None = None
    top: float = field()
    left: float = field()
    bottom: float = field()
    right: float = field()
    label: str = field()
    confidence: float = field()


class Detections(Struct, frozen=True, kw_only=True):
    """What was found, and the photo with it, in base64, if it was asked for."""

    id: str = ""
    image: str | msgspec.UnsetType = msgspec.UNSET
    detections: list[Detected]


class Detector(Struct, frozen=True, kw_only=True):
    """One model; width and height are 0 if it takes photos of any size."""

    name: str
    type: str = "tensorflow"
    model: str
    labels: list[str]
    width: int = 0
    height: int = 0


class Detectors(Struct, frozen=True):
    """The models."""

    detectors: list[Detector]


class Refusal(Struct, frozen=True):
    """Why there is no answer."""

    error: str
    detections: list[Detected] = []


def refuse(problem: Problem) -> tuple[int, Refusal]:
    """Return an error as DOODS does."""
    is_bad = problem.type.rpartition("/")[2] in _BAD
    status = int(HTTPStatus.BAD_REQUEST) if is_bad else problem.status
    return status, Refusal(problem.detail)


def detectors() -> Response:
    """``GET /detectors``: the detectors, and which is meant where none is named."""
    task = task_that("boxes")
    listed = backend().ask("models", contract.Models).models
    there = {each.name: each for each in listed if each.kind == task.kind}
    found = [detector for each in there.values() if (detector := _detector(task, each))]
    if len(there) == 1 and _DEFAULT not in there:
        found += [msgspec.structs.replace(each, name=_DEFAULT) for each in found]
    return answer(Detectors(found))


def _detector(task: Task[Any], model: contract.Model) -> Detector | None:
    """Return a model as a detector; ``None`` if its labels cannot be read."""
    try:
        told = backend().ask("labels", contract.Labels, name=model.name, of=task.kind)
    except (ModelFailed, ModelNotFound):
        return None
    height, width = model.input_size or (0, 0)
    return Detector(
        name=model.name,
        model=f"{model.name}{task.graph_ending}",
        labels=[label.name for label in told.labels],
        width=width,
        height=height,
    )


def detect() -> Response:
    """``POST /detect`` with JSON: the objects in a photo."""
    task, wanted = task_that("boxes"), _wanted()
    photo, model = _photo(wanted.data), _model(task, wanted)
    findings, seen = evaluate(task, photo, model, _options(wanted))
    kept = [one for each in findings if (one := _kept(each, wanted)) is not None]
    picture = _format(wanted)
    drawn: str | msgspec.UnsetType = msgspec.UNSET
    if picture is not None:
        content = evaluate(task, photo, model, _options(wanted), picture).seen.picture
        drawn = base64.b64encode(content).decode()
    body = Detections(id=wanted.id or "", image=drawn, detections=kept)
    return answer(body, seen)


def image() -> Response:
    """``POST /image``: the photo with the objects drawn on it."""
    task, wanted = task_that("boxes"), _wanted()
    picture = _format(wanted) or "JPEG"
    model = _model(task, wanted)
    seen = evaluate(task, _photo(wanted.data), model, _options(wanted), picture).seen
    return answer_picture(seen.picture, _TYPES[picture], seen)


def _wanted() -> Wanted:
    """Read the request.

    Raises:
        BadRequest: it is no such JSON, or wants what is not done here.
    """
    body = read_body(request)
    if body.startswith(b"--"):
        raise BadRequest(
            "could not parse request body: it looks like a multipart form, and "
            f"Content-Type says JSON: {LEAVE_IT}."
        )
    try:
        wanted = msgspec.json.decode(body, type=Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"could not parse request body: {error}") from error
    if wanted.preprocess:
        raise BadRequest("preprocess is not done here: photos are evaluated as sent.")
    _format(wanted)
    return wanted


def _format(wanted: Wanted) -> PictureFormat | None:
    """Return the form of a picture that is asked for; ``None`` for none."""
    word = str(wanted.image or "").lower()
    if word in {"", "false"}:
        return None
    if word not in _FORMATS and not wanted.data:
        raise _empty_error()
    if word not in _FORMATS:
        raise BadRequest(f"image must be jpeg or png, not {word[:50]!r}.")
    return _FORMATS[word]


def _model(task: Task[Any], wanted: Wanted) -> str:
    name = wanted.detector_name or _DEFAULT
    return default_model(task) if name == _DEFAULT else name


def _photo(data: str) -> Upload:
    """Return the photo that is in base64 in a request.

    Raises:
        BadRequest: it is empty, an address, or no base64.
    """
    if _ADDRESS.match(data):
        raise BadRequest("data must be a photo in base64: no address is fetched here.")
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("data must be a photo in base64.") from error
    if not content:
        raise _empty_error()
    return spooled(backend().spool, content)


def _empty_error() -> BadRequest:
    """Return the error for JSON without a photo, which may be meant as a form."""
    return BadRequest(
        "data is empty: send a photo in base64; or its bytes in a multipart form, as "
        "curl -F modelname=NAME -F file=@photo.jpg does."
    )


def _options(wanted: Wanted) -> Options:
    """Return the options by which all is found that may be kept."""
    tables = [wanted.detect, *(region.detect for region in wanted.regions)]
    least = min((value for table in tables for value in table.values()), default=100.0)
    return Options(min_confidence=min(max(least / _HUNDRED, 0.0), 1.0))


def _kept(found: Finding, wanted: Wanted) -> Detected | None:
    """Return a detection if it is wanted, by DOODS2's rules.

    A label's own threshold counts, else that of ``*``; what it fails may still be kept
    by a region, unless the request's own thresholds have kept it.
    """
    confidence = round(found.confidence * _HUNDRED, _DIGITS)
    region_id = None
    if not _reaches(wanted.detect, found.label, confidence):
        for region in wanted.regions:
            if region.has(found.box) and _reaches(
                region.detect, found.label, confidence
            ):
                region_id = region.id
                break
        else:
            return None
    left, top, right, bottom = found.box
    return Detected(
        region_id=region_id,
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        label=found.label,
        confidence=confidence,
    )


def _reaches(table: dict[str, float], label: str, confidence: float) -> bool:
    least = table.get(label, table.get(_ANY))
    return least is not None and confidence >= least


DOODS = Dialect(
    name="doods",
    prefixes=("/detectors", "/image"),
    key_header="doods-auth-key",
    refuse=refuse,
    serves=lambda task: task.finds == "boxes",
    routes=(
        Route(
            path="/detectors",
            verb="GET",
            view=detectors,
            summary="The detectors, as DOODS lists them",
            answer=Detectors,
        ),
        Route(
            path="/detect",
            view=detect,
            reads_body=True,
            content_type="application/json",
            summary="Find objects, as DOODS does",
            answer=Detections,
        ),
        Route(
            path="/image",
            view=image,
            reads_body=True,
            summary="Draw objects on a photo, as DOODS does",
            answer=bytes,
        ),
    ),
)
