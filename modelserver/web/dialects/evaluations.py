"""What every dialect asks the engine, as ``web.api`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from flask import Response, g
from werkzeug.exceptions import Forbidden

from modelserver.core.errors import BadRequest
from modelserver.web.answers import describe
from modelserver.web.backend import backend
from modelserver.web.callers import caller, own_limit
from modelserver.web.photo_requests import PhotoRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.messages import PictureFormat
    from modelserver.core.messages.requests import Seen
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Finding, Task
    from modelserver.tasks.options import Options
    from modelserver.tasks.task import Finds

# What clients of other servers call the one model that they know of.
_DEFAULT = "default"


class Evaluation(NamedTuple):
    """What a model saw in a photo.

    Attributes:
        findings: best first; none where a picture was asked for.
        seen: the engine's answer.
    """

    findings: Sequence[Finding]
    seen: Seen


def task_that(finds: Finds) -> Task[Any]:
    """Return the app's task that finds boxes, or classes.

    Raises:
        Forbidden: it serves none.
    """
    for task in backend().tasks:
        if task.finds == finds:
            return task
    raise Forbidden(f"This server has no models that find {finds}.")


def names_of(task: Task[Any]) -> list[str]:
    """Return the names of a task's models, in any state."""
    return backend().ask("names", list[str], of=task.kind)


def default_model(task: Task[Any]) -> str:
    """Return the model for requests that name none: the only one, or ``default``.

    Raises:
        BadRequest: there is none, or there are several.
    """
    names = names_of(task)
    if len(names) == 1:
        return names[0]
    if _DEFAULT in names:
        return _DEFAULT
    there = f"there are {', '.join(names)}" if names else "there are none"
    raise BadRequest(
        f"Which model is meant is not clear: {there}. Name one, or call one of them "
        f"{_DEFAULT!r}."
    )


def evaluate(
    task: Task[Any],
    photo: Upload,
    model: str,
    options: Options,
    picture: PictureFormat | None = None,
) -> Evaluation:
    """Have a model look at a photo.

    Args:
        options: with ``top_k`` if classes are wanted.
        picture: have the marks drawn on the photo instead.

    Raises:
        RequestError: see the tree in ``errors``.
    """
    server = backend()
    who = caller(server.settings.request_timeout_s, own_limit())
    asked = PhotoRequest(server.link, task, who, options, g.request_id)
    seen = asked.one(photo, model, picture)
    if picture is not None:
        return Evaluation((), seen)
    answer = msgspec.json.decode(seen.answer, type=task.answer_type)
    return Evaluation(task.findings(answer), seen)


def answer(body: object, *seen: Seen) -> Response:
    """Return JSON, with the headers of what was seen."""
    return _answer(msgspec.json.encode(body), "application/json", seen)


def answer_picture(content: bytes, kind: str, *seen: Seen) -> Response:
    """Return a picture, with the headers of what was seen."""
    return _answer(content, kind, seen)


def _answer(content: bytes, kind: str, seen: Sequence[Seen]) -> Response:
    response = Response(content, content_type=kind)
    for each in seen:
        describe(response, each)
    return response
