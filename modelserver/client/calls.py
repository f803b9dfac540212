"""Requests and what their answers mean: all that the sync and async client share."""

from __future__ import annotations

import http
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

from modelserver.client.errors import BadAnswer, Problem, refusal
from modelserver.client.results import (
    Class,
    Classification,
    Detection,
    Detections,
    ModelInfo,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import httpx

    from modelserver.client.results import Coordinates, Size

T = TypeVar("T")
# Only the client's own decoding is at fault if an answer of ours raises anything else.
_NOT_OURS = (KeyError, TypeError, ValueError, AttributeError)


class DetectOptions(TypedDict, total=False):
    """What may be asked of a detection; what is left out is the server's default.

    Attributes:
        min_confidence: 0..1; detections below are left out.
        labels: only these; one string may hold several, between commas.
        max_results: the best so many.
        coordinates: boxes in 0..1 or in pixels of the upright photo.
    """

    min_confidence: float | None
    labels: str | Iterable[str] | None
    max_results: int | None
    coordinates: Coordinates | None


class ClassifyOptions(TypedDict, total=False):
    """What may be asked of a classification.

    Attributes:
        top_k: so many classes with their confidences, beside the best one's label.
    """

    top_k: int | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer. Immutable.

    Attributes:
        path: of the route, without the server's.
        read: makes the result of an answer with any status; raises ``ClientError``.
    """

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: Mapping[str, str] | None = None


def detect(modelname: str, photo: bytes, options: DetectOptions) -> Call[Detections]:
    """Return the call for ``POST /detect``; the photo is an image file's bytes."""
    coordinates: Coordinates = options.get("coordinates") or "normalized"

    def read(answer: httpx.Response) -> Detections:
        found = checked(answer, list, lambda body: tuple(map(_detection, body)))
        return Detections(found, modelname, size(answer), coordinates, _id(answer))

    return _post("/detect", modelname, photo, options, read)


def classify(
    modelname: str, photo: bytes, options: ClassifyOptions
) -> Call[Classification]:
    """Return the call for ``POST /classify``; the photo is an image file's bytes."""

    def read(answer: httpx.Response) -> Classification:
        label, classes = checked(answer, dict, _classes)
        return Classification(label, modelname, classes, size(answer), _id(answer))

    return _post("/classify", modelname, photo, options, read)


def models() -> Call[list[ModelInfo]]:
    """Return the call for ``GET /models``."""

    def read(answer: httpx.Response) -> list[ModelInfo]:
        return checked(
            answer, dict, lambda body: [_model(one) for one in body["models"]]
        )

    return Call("GET", "/models", read)


def ready() -> Call[bool]:
    """Return the call for ``GET /readyz``."""
    return Call(
        "GET", "/readyz", lambda answer: answer.status_code == http.HTTPStatus.OK
    )


def checked(answer: httpx.Response, kind: type[Any], make: Callable[[Any], T]) -> T:
    """Make something of the body of a 200.

    Args:
        kind: of the JSON value.

    Raises:
        Refused: the status is 400 or more.
        BadAnswer: it is anything else that no ModelServer says.
    """
    status = answer.status_code
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise refusal(_problem(answer), answer.headers.get("Retry-After", ""))
    try:
        body = answer.json()
        if status == http.HTTPStatus.OK and isinstance(body, kind):
            return make(body)
    except _NOT_OURS:
        pass
    raise BadAnswer(
        f"What answers at {answer.url} is no ModelServer, or another app of it: status"
        f" {status}, {answer.headers.get('Content-Type') or 'no type'}."
    )


def size(answer: httpx.Response) -> Size | None:
    """Return width and height of the upright photo, where the headers tell."""
    try:
        sides = [int(answer.headers[f"X-Image-{side}"]) for side in ("Width", "Height")]
    except (KeyError, ValueError):
        return None
    return (sides[0], sides[1]) if min(sides) > 0 else None


def fields(modelname: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the form's texts; options that are ``None`` are left out."""
    yield "modelname", modelname
    for name, value in options.items():
        if value is None:
            continue
        many = isinstance(value, str) or not hasattr(value, "__iter__")
        for one in [value] if many else value:
            yield name, str(one)


def form(texts: Iterable[tuple[str, str]], photo: bytes) -> tuple[bytes, str]:
    """Return a multipart form and its content type.

    The file's name stays here: the server needs none, and it may be private.
    """
    edge = secrets.token_hex(16)
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in texts
    ]
    parts.append(
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="photo"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    head = "".join(parts).encode(errors="replace")
    end = f"\r\n--{edge}--\r\n".encode()
    return b"".join((head, photo, end)), f"multipart/form-data; boundary={edge}"


def _post(
    path: str,
    modelname: str,
    photo: bytes,
    options: Mapping[str, Any],
    read: Callable[[httpx.Response], T],
) -> Call[T]:
    content, kind = form(fields(modelname, options), photo)
    return Call("POST", path, read, content, {"Content-Type": kind})


def _detection(one: dict[str, Any]) -> Detection:
    x1, y1, x2, y2 = map(float, one["bounding_box"])
    return Detection(
        int(one["class"]), str(one["label"]), float(one["confidence"]), (x1, y1, x2, y2)
    )


def _classes(body: dict[str, Any]) -> tuple[str | None, tuple[Class, ...]]:
    best = body["class"]
    return None if best is None else str(best), tuple(
        Class(int(one["class"]), str(one["label"]), float(one["confidence"]))
        for one in body.get("classes", ())
    )


def _model(one: dict[str, Any]) -> ModelInfo:
    return ModelInfo(
        name=str(one["name"]),
        kind=str(one["kind"]),
        state=str(one["state"]),
        reason=one.get("reason"),
        digest=one.get("digest"),
        facts=dict(one),
    )


def _problem(answer: httpx.Response) -> Problem:
    """Return what a body says; a proxy's page says nothing but its status."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    told = body if isinstance(body, dict) else {}
    return Problem(
        str(told.get("type") or "about:blank"),
        str(told.get("title") or answer.reason_phrase or "Error"),
        answer.status_code,
        str(told.get("detail") or ""),
        _id(answer),
    )


def _id(answer: httpx.Response) -> str:
    return str(answer.headers.get("X-Request-Id", ""))
