"""What an evaluation looks like over HTTP: JSON or a picture, and the headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import msgspec
from flask import Response, request

from modelserver.core import logs
from modelserver.core.errors import RequestError
from modelserver.engine.service import Evaluation, Timings
from modelserver.web.access import note_timings
from modelserver.web.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.messages import PictureFormat
    from modelserver.core.metrics import Metrics
    from modelserver.engine.evaluations import Data
    from modelserver.engine.queue import Caller
    from modelserver.engine.service import Service
    from modelserver.tasks import Task
    from modelserver.tasks.options import Options

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


def one(seen: Seen, options: Options) -> Response:
    """Return one evaluation in the contract's shape."""
    note_timings(seen.timings)
    response = answer(_body(seen, options))
    response.headers.extend(_headers(seen))
    return response


def _body(seen: Seen, options: Options) -> Any:
    return seen.task.answer(seen.result, (seen.width, seen.height), options)


def drawn(
    seen: Seen, data: Data, form: PictureFormat, who: Caller, service: Service
) -> Response:
    """Return the upright photo, in full, with what was found drawn over it.

    Raises:
        RequestError: the photo is too large to be decoded in full, or is damaged; or
            the caller's time is over before there is memory for it.
    """
    note_timings(seen.timings)
    content = service.draw(data, list(seen.task.marks(seen.result)), form, who)
    response = Response(content, content_type=_TYPES[form])
    response.headers.extend(_headers(seen))
    return response


def several(
    task: Task[Any],
    pairs: Sequence[tuple[str, str]],
    outcomes: Sequence[Seen | RequestError],
    options: Options,
    metrics: Metrics,
) -> Response:
    """Return what came of several pairs of a file and a model, in their order.

    Where all of them failed in the same way, that is the answer.

    Args:
        pairs: a file's name and a model's.
    """
    errors = [each for each in outcomes if isinstance(each, RequestError)]
    if len(errors) == len(outcomes) and len({type(each) for each in errors}) == 1:
        raise max(errors, key=lambda each: each.retry_after_s or 0.0)
    if len({model for _, model in pairs}) > 1:
        logs.bind(model="")  # the request is no single model's
    seen = [each for each in outcomes if isinstance(each, Evaluation)]
    note_timings(_sum(seen))
    results = []
    for (file, model), outcome in zip(pairs, outcomes, strict=True):
        name = file[:_LONGEST_NAME]
        if isinstance(outcome, RequestError):
            metrics.count_refusal(outcome.slug)
            error = problem_of(outcome)
            results.append(task.result_type(file=name, model=model, error=error))
        else:
            results.append(task.result(name, model, _body(outcome, options)))
    response = answer(task.results_type(results))
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
