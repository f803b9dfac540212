"""An evaluation over HTTP: JSON or a picture, and the headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from flask import Response, request

from modelserver.core import logs
from modelserver.core.errors import RequestError
from modelserver.core.messages.requests import Seen
from modelserver.web.access import note_evaluations
from modelserver.web.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.messages import PictureFormat
    from modelserver.tasks import Task
    from modelserver.web.link import Link
    from modelserver.web.photo_requests import Outcome

_JSON = "application/json"
_PICTURES: dict[str, PictureFormat] = {"image/jpeg": "JPEG", "image/png": "PNG"}
_TYPES = {form: kind for kind, form in _PICTURES.items()}
# Characters of a model's name that a header holds as they are.
_SAFE = " !#$&'()*+,/:;=?@[]^`{|}~\"<>\\"
_LONGEST_NAME = 255


def answer(body: object, status: int = 200) -> Response:
    """Return a JSON response; msgspec never writes a bare NaN."""
    return Response(msgspec.json.encode(body), status, content_type=_JSON)


def accepted_format() -> PictureFormat | None:
    """Return the image format that the client asks for; ``None`` for JSON, the default.

    A browser that sends the page's form by itself takes pages, and lists the pictures
    that it can show: it is answered in JSON.
    """
    accept = request.environ.get("HTTP_ACCEPT", "")
    if "image/" not in accept or "text/html" in accept:
        return None
    # The first of equals is the answer.
    best = request.accept_mimetypes.best_match((_JSON, *_PICTURES))
    return _PICTURES.get(best or "")


def answer_one(seen: Seen, picture: PictureFormat | None = None) -> Response:
    """Return what one model sees: in the contract's shape, or drawn on the photo."""
    kind = _JSON if picture is None else _TYPES[picture]
    response = Response(seen.answer or seen.picture, content_type=kind)
    describe(response, seen)
    return response


def describe(response: Response, seen: Seen, *others: Seen) -> None:
    """Add to an answer the headers that tell of its evaluation, and note that.

    Args:
        others: evaluations of more photos by the same model, which are noted, too.
    """
    logs.bind(model=seen.title)
    note_evaluations(seen, *others)
    response.headers.extend(_headers(seen))


def answer_several(
    task: Task[Any],
    pairs: Sequence[tuple[str, str]],
    outcomes: Sequence[Outcome],
    link: Link,
) -> Response:
    """Return the outcomes of several pairs of a file and a model, in their order.

    Args:
        pairs: a file's name and a model's.
        link: counts the refusals.

    Raises:
        RequestError: all of them failed in the same way.
    """
    errors = [each for each in outcomes if isinstance(each, RequestError)]
    if len(errors) == len(outcomes) and len({type(each) for each in errors}) == 1:
        raise max(errors, key=lambda each: each.retry_after_s or 0.0)
    evaluations = [each for each in outcomes if isinstance(each, Seen)]
    titles = {each.title for each in evaluations}
    several = len({model for _, model in pairs}) > 1
    logs.bind(model="" if several else next(iter(titles), ""))
    note_evaluations(*evaluations)
    results = []
    for (file, model), outcome in zip(pairs, outcomes, strict=True):
        name = file[:_LONGEST_NAME]
        if isinstance(outcome, RequestError):
            link.count_refusal(outcome.slug)
            error = problem_of(outcome)
            results.append(task.result_type(file=name, model=model, error=error))
        else:
            body = msgspec.json.decode(outcome.answer, type=task.answer_type)
            results.append(task.result(name, model, body))
    response = answer(task.results_type(results))
    # Headers that hold for all of them.
    headers = [set(_headers(each)) for each in evaluations]
    shared = set.intersection(*headers) if headers else ()
    response.headers.extend(sorted(shared))
    return response


def _headers(seen: Seen) -> tuple[tuple[str, str], ...]:
    """Return the facts that the same answer depends on, and why it is empty."""
    name = seen.model
    if not name.isascii() or "%" in name:
        name = quote(name, safe=_SAFE)
    below: tuple[tuple[str, str], ...] = ()
    if seen.below is not None:
        below = (("X-Below-Confidence", str(seen.below)),)
    model = (("X-Model", name), ("X-Model-Digest", seen.digest), *below)
    if not seen.width:  # numbers are no photo
        return model
    return (
        ("X-Image-Width", str(seen.width)),
        ("X-Image-Height", str(seen.height)),
        ("X-Image-Orientation", str(seen.orientation)),
        *model,
    )
