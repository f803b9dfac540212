"""Requests and how to read their answers, for the sync and the async client alike."""

from __future__ import annotations

import contextlib
import http
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

import msgspec

from modelserver.client.errors import BadAnswer, NoSingleModel, Problem, refusal
from modelserver.client.results import (
    Classification,
    Classified,
    Detection,
    Detections,
    ModelInfo,
)
from modelserver.core.contract import CLASSIFY, DETECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import httpx

    from modelserver.client.results import Coordinates, Size

T = TypeVar("T")
DETECTION, CLASSIFICATION = "detection", "classification"
"""Kinds of models."""

_ABLE = frozenset({"READY", "LOADING", "UNLOADED"})
_decode_detections = msgspec.json.Decoder(tuple[Detection, ...]).decode
_decode_classified = msgspec.json.Decoder(Classified).decode
_decode_models = msgspec.json.Decoder(dict[str, list[dict[str, Any]]]).decode


class DetectOptions(TypedDict, total=False):
    """Options of a detection; the server has a default for each.

    Attributes:
        min_confidence: 0..1; detections below are left out.
        labels: only these; one string may hold several, between commas.
        max_results: only this many, the best.
        coordinates: boxes in 0..1 or in pixels of the upright photo.
    """

    min_confidence: float | None
    labels: str | Iterable[str] | None
    max_results: int | None
    coordinates: Coordinates | None


class ClassifyOptions(TypedDict, total=False):
    """Options of a classification.

    Attributes:
        top_k: the number of classes with their confidences, besides the best label.
    """

    top_k: int | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer. Immutable.

    Attributes:
        path: of the route, without the server's.
        read: return the result of an answer with any status, or raise ``ClientError``.
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
        found = decode(answer, _decode_detections)
        return Detections(found, modelname, size(answer), coordinates, _id(answer))

    return _post(DETECT.route, modelname, photo, options, read)


def classify(
    modelname: str, photo: bytes, options: ClassifyOptions
) -> Call[Classification]:
    """Return the call for ``POST /classify``; the photo is an image file's bytes."""

    def read(answer: httpx.Response) -> Classification:
        best = decode(answer, _decode_classified)
        return Classification(
            best.label, modelname, best.classes, size(answer), _id(answer)
        )

    return _post(CLASSIFY.route, modelname, photo, options, read)


def models() -> Call[list[ModelInfo]]:
    """Return the call for ``GET /models``."""
    return Call("GET", "/models", lambda answer: decode(answer, _models))


def only(models: Iterable[ModelInfo], kind: str) -> str:
    """Return the name of the only model of a kind; one that cannot serve counts last.

    Raises:
        NoSingleModel: there is none, or there are several.
    """
    ours = [one for one in models if one.kind == kind]
    able = [one.name for one in ours if one.state in _ABLE]
    names = able or [one.name for one in ours]
    if len(names) != 1:
        raise NoSingleModel(names)
    return names[0]


def ready() -> Call[bool]:
    """Return the call for ``GET /readyz``."""
    return Call(
        "GET", "/readyz", lambda answer: answer.status_code == http.HTTPStatus.OK
    )


def decode(answer: httpx.Response, decoder: Callable[[bytes], T]) -> T:
    """Decode the body of a 200.

    Args:
        decoder: may raise ``msgspec.DecodeError``.

    Raises:
        Refused: the status is 400 or more.
        BadAnswer: any other answer that is none of ModelServer's.
    """
    status = answer.status_code
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise refusal(_problem(answer), answer.headers.get("Retry-After", ""))
    if status == http.HTTPStatus.OK:
        with contextlib.suppress(msgspec.DecodeError):
            return decoder(answer.content)
    raise BadAnswer(
        f"What answers at {answer.url} is no ModelServer, or another app of it: status"
        f" {status}, {answer.headers.get('Content-Type') or 'no type'}."
    )


def size(answer: httpx.Response) -> Size | None:
    """Return width and height of the upright photo, if the headers have them."""
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
        single = isinstance(value, str) or not hasattr(value, "__iter__")
        for text in [value] if single else value:
            yield name, str(text)


def form(texts: Iterable[tuple[str, str]], photo: bytes) -> tuple[bytes, str]:
    """Return a multipart form and its content type.

    The file's name is not sent: the server needs none, and it may be private.
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


def _problem(answer: httpx.Response) -> Problem:
    """Return the problem in a body; a proxy's page has no more than its status."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    facts = body if isinstance(body, dict) else {}
    return Problem(
        str(facts.get("type") or "about:blank"),
        str(facts.get("title") or answer.reason_phrase or "Error"),
        answer.status_code,
        str(facts.get("detail") or ""),
        _id(answer),
    )


def _id(answer: httpx.Response) -> str:
    return str(answer.headers.get("X-Request-Id", ""))


def _models(body: bytes) -> list[ModelInfo]:
    models = _decode_models(body).get("models")
    if models is None:
        raise msgspec.ValidationError("there are no models")
    return [msgspec.convert({**facts, "facts": facts}, ModelInfo) for facts in models]
