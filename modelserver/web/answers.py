"""What an evaluation looks like over HTTP: JSON or a picture, and the headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import msgspec
from flask import Response, request

from modelserver.core import logs
from modelserver.core.errors import RequestError
from modelserver.core.messages import Mark
from modelserver.engine.service import Evaluation, Timings
from modelserver.tasks import classification, detection
from modelserver.web.access import note_timings
from modelserver.web.backend import backend
from modelserver.web.problem_json import problem_members
from modelserver.web.problems import request_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelserver.core.messages import PictureFormat
    from modelserver.core.signatures import Kind
    from modelserver.engine.batch_requests import Data
    from modelserver.engine.queue import Caller
    from modelserver.tasks.options import Options

# Of detections or of classes, by the app's kind.
Seen: TypeAlias = Evaluation[Any]

_JSON = "application/json"
_PICTURES: dict[str, PictureFormat] = {"image/jpeg": "JPEG", "image/png": "PNG"}
_TYPES = {form: kind for kind, form in _PICTURES.items()}
# What a header may hold of a model's name as it is; the rest is percent-encoded.
_SAFE = " !#$&'()*+,/:;=?@[]^`{|}~\"<>\\"
_LONGEST_NAME = 255


def answer(body: object, status: int = 200) -> Response:
    """Return a JSON response; msgspec never writes a bare NaN."""
    return Response(msgspec.json.encode(body), status, content_type=_JSON)


def wanted_picture() -> PictureFormat | None:
    """Tell which picture the client asks for; ``None`` for JSON, the default.

    A browser that sends the page's form by itself takes pages, and lists the pictures
    that it can show: it is answered in JSON.
    """
    accept = request.environ.get("HTTP_ACCEPT", "")
    if "image/" not in accept or "text/html" in accept:
        return None
    # The first of equals is the answer.
    best = request.accept_mimetypes.best_match((_JSON, *_PICTURES))
    return _PICTURES.get(best or "")


def one(kind: Kind, seen: Seen, options: Options) -> Response:
    """Return one evaluation in the contract's shape."""
    note_timings(seen.timings)
    response = answer(_body(kind, seen, options))
    response.headers.extend(_headers(seen))
    return response


def _body(kind: Kind, seen: Seen, options: Options) -> object:
    if kind == "detection":
        size = (seen.width, seen.height) if options.pixel else None
        return detection.to_json(seen.result, size)
    return classification.to_json(seen.result, options)


def drawn(
    kind: Kind, seen: Seen, data: Data, form: PictureFormat, who: Caller
) -> Response:
    """Return the upright photo, in full, with what was found drawn over it.

    Raises:
        RequestError: the photo is too large to be decoded in full, or is damaged; or
            the caller's time is over before there is memory for it.
    """
    note_timings(seen.timings)
    content = backend().service.draw(data, list(_marks(kind, seen)), form, who)
    response = Response(content, content_type=_TYPES[form])
    response.headers.extend(_headers(seen))
    return response


def _marks(kind: Kind, seen: Seen) -> Iterator[Mark]:
    found = seen.result
    if kind == "classification":
        found = classification.answered(found)
    for each in found:
        # A class is of the whole photo.
        box = each.box if kind == "detection" else (0.0, 0.0, 1.0, 1.0)
        yield Mark(each.label, f"{each.label} {each.confidence:.2f}", box)


def several(
    kind: Kind,
    pairs: Sequence[tuple[str, str]],
    outcomes: Sequence[Seen | RequestError],
    options: Options,
) -> Response:
    """Return what came of several pairs of a file and a model, in their order.

    Where all of them failed in the same way, that is the answer.

    Args:
        pairs: a file's name and a model's.
    """
    errors = [each for each in outcomes if isinstance(each, RequestError)]
    if len(errors) == len(outcomes) and len({type(each) for each in errors}) == 1:
        return request_error(max(errors, key=lambda each: each.retry_after_s or 0.0))
    if len({model for _, model in pairs}) > 1:
        logs.bind(model="")  # the request is no single model's
    seen = [each for each in outcomes if isinstance(each, Evaluation)]
    note_timings(_sum(seen))
    results: list[dict[str, object]] = []
    for (file, model), outcome in zip(pairs, outcomes, strict=True):
        result: dict[str, object] = {"file": file[:_LONGEST_NAME], "model": model}
        if isinstance(outcome, RequestError):
            result["error"] = problem_members(outcome)
            backend().metrics.refused(outcome.slug)
        elif kind == "detection":
            result["detections"] = _body(kind, outcome, options)
        else:
            result.update(classification.to_json(outcome.result, options))
        results.append(result)
    response = answer({"results": results})
    # What holds for all of them.
    shared = set.intersection(*(set(_headers(each)) for each in seen)) if seen else ()
    response.headers.extend(sorted(shared))
    return response


def _sum(seen: Sequence[Seen]) -> Timings:
    times = [each.timings for each in seen]
    return Timings(
        decode=sum(each.decode for each in times),
        queue=sum(each.queue for each in times),
        run=sum(each.run for each in times),
        post=sum(each.post for each in times),
    )


def _headers(seen: Seen) -> tuple[tuple[str, str], ...]:
    """Return what is needed to get the same answer again."""
    name = seen.model
    if not name.isascii() or "%" in name:
        name = quote(name, safe=_SAFE)
    return (
        ("X-Image-Width", str(seen.width)),
        ("X-Image-Height", str(seen.height)),
        ("X-Image-Orientation", str(seen.orientation)),
        ("X-Model", name),
        ("X-Model-Digest", seen.digest),
    )
