"""An evaluation over HTTP: JSON or a picture, and the headers."""

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
    from modelserver.engine.decoders import Data
    from modelserver.engine.queue import Caller
    from modelserver.engine.service import Service
    from modelserver.tasks import Task
    from modelserver.tasks.options import Options

Evaluated: TypeAlias = Evaluation[Any]

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


def answer_one(evaluation: Evaluated, options: Options) -> Response:
    """Return one evaluation in the contract's shape."""
    note_timings(evaluation.timings)
    response = answer(_body(evaluation, options))
    response.headers.extend(_headers(evaluation))
    return response


def _body(evaluation: Evaluated, options: Options) -> Any:
    return evaluation.task.answer(
        evaluation.result, (evaluation.width, evaluation.height), options
    )


def answer_drawing(
    evaluation: Evaluated,
    data: Data,
    form: PictureFormat,
    who: Caller,
    service: Service,
) -> Response:
    """Return the upright photo, in full, with the results drawn over it.

    Raises:
        RequestError: the photo is too large to be decoded in full, or is damaged; or
            the caller's time is over before there is memory for it.
    """
    note_timings(evaluation.timings)
    content = service.draw(
        data, list(evaluation.task.marks(evaluation.result)), form, who
    )
    response = Response(content, content_type=_TYPES[form])
    response.headers.extend(_headers(evaluation))
    return response


def answer_several(
    task: Task[Any],
    pairs: Sequence[tuple[str, str]],
    outcomes: Sequence[Evaluated | RequestError],
    options: Options,
    metrics: Metrics,
) -> Response:
    """Return the outcomes of several pairs of a file and a model, in their order.

    Args:
        pairs: a file's name and a model's.

    Raises:
        RequestError: all of them failed in the same way.
    """
    errors = [each for each in outcomes if isinstance(each, RequestError)]
    if len(errors) == len(outcomes) and len({type(each) for each in errors}) == 1:
        raise max(errors, key=lambda each: each.retry_after_s or 0.0)
    if len({model for _, model in pairs}) > 1:
        logs.bind(model="")  # the request is no single model's
    evaluations = [each for each in outcomes if isinstance(each, Evaluation)]
    note_timings(_sum(evaluations))
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
    # Headers that hold for all of them.
    headers = [set(_headers(each)) for each in evaluations]
    shared = set.intersection(*headers) if headers else ()
    response.headers.extend(sorted(shared))
    return response


def _sum(evaluations: Sequence[Evaluated]) -> Timings:
    times = [each.timings for each in evaluations]
    return Timings(
        decode=sum(each.decode for each in times),
        queue=sum(each.queue for each in times),
        run=sum(each.run for each in times),
        post=sum(each.post for each in times),
    )


def _headers(evaluation: Evaluated) -> tuple[tuple[str, str], ...]:
    """Return the facts that the same answer depends on."""
    name = evaluation.model
    if not name.isascii() or "%" in name:
        name = quote(name, safe=_SAFE)
    return (
        ("X-Image-Width", str(evaluation.width)),
        ("X-Image-Height", str(evaluation.height)),
        ("X-Image-Orientation", str(evaluation.orientation)),
        ("X-Model", name),
        ("X-Model-Digest", evaluation.digest),
    )
