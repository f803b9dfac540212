"""What dialects ask the engine, as ``web.api`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from flask import Response, g, request
from werkzeug.exceptions import Forbidden, NotFound

from modelserver.core import contract
from modelserver.core.errors import BadRequest, ModelNotReady, RequestError
from modelserver.core.messages import Array
from modelserver.core.messages.questions import ModelTensors
from modelserver.tasks import by_kind
from modelserver.tasks.options import Options
from modelserver.web.answers import describe
from modelserver.web.backend import backend
from modelserver.web.callers import present_caller
from modelserver.web.dialects import tensor_bodies
from modelserver.web.photo_requests import PhotoRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modelserver.core.messages import PictureFormat
    from modelserver.core.messages.requests import Seen, Tensor
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Finding, Task
    from modelserver.tasks.task import Finds

# What clients of other servers call the one model that they know of.
_DEFAULT = "default"

VERSION = "1"
"""The only version of every model, to clients that ask for one."""


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


def task_of(model: str) -> Task[Any]:
    """Return the task of a model.

    Raises:
        AmbiguousModel, ModelNotFound: as ``Registry.entry``, if the app has several
            tasks.
    """
    tasks = backend().tasks
    if len(tasks) == 1:
        return tasks[0]
    return by_kind(tensors_of(model).kind)


def tensors_of(model: str, kind: str = "") -> ModelTensors:
    """Return a model's state, and its graph's inputs and outputs if they are known.

    Raises:
        AmbiguousModel, ModelNotFound: as ``Registry.entry``.
    """
    return backend().ask("tensors", ModelTensors, name=model, of=kind)


def graph_of(model: str) -> ModelTensors:
    """Return a model's inputs and outputs.

    Raises:
        AmbiguousModel, ModelNotFound: as :func:`tensors_of`.
        ModelNotReady: it is not in memory.
    """
    found = tensors_of(model)
    if not found.inputs:
        raise ModelNotReady(model, found.state.lower())
    return found


def check_version(model: str, version: str) -> None:
    """Refuse any version but the one that each model has.

    Raises:
        NotFound: it is another.
    """
    if version != VERSION:
        raise NotFound(f"The model {model} has no version {version[:50]}, only 1.")


def read_whole_body() -> memoryview:
    """Return the present request's body, unpacked; see ``tensor_bodies.body_of``."""
    server = backend()
    most = server.settings.max_upload_mb << 20
    return tensor_bodies.body_of(request, server.spool, most)[0]


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
    seen = _request(task, options).one(photo, model, picture)
    if picture is not None:
        return Evaluation((), seen)
    return Evaluation(_findings(task, seen), seen)


def evaluate_all(
    task: Task[Any], photos: Sequence[Upload], model: str, options: Options
) -> list[Evaluation]:
    """Have a model look at photos, which take places of their own in its queue.

    Args:
        options: as for :func:`evaluate`.

    Raises:
        RequestError: the first that one of them met.
    """
    if len(photos) == 1:
        return [evaluate(task, photos[0], model, options)]
    outcomes = _request(task, options).several(photos, [model])
    for each in outcomes:
        if isinstance(each, RequestError):
            raise each
    seen = [each for each in outcomes if not isinstance(each, RequestError)]
    return [Evaluation(_findings(task, each), each) for each in seen]


def feed(
    task: Task[Any], upload: Upload, model: str, tensor: Tensor
) -> tuple[dict[str, NDArray[Any]], Seen]:
    """Feed numbers to a model's graph as it was written.

    Returns:
        Its outputs by their names, and the engine's answer.

    Raises:
        RequestError: see the tree in ``errors``.
    """
    seen = _request(task, Options()).numbers(upload, model, tensor)
    found = msgspec.msgpack.decode(seen.answer, type=dict[str, Array])
    return {name: array.unpack() for name, array in found.items()}, seen


def labels_of(task: Task[Any], model: str, count: int) -> list[tuple[int, str]]:
    """Return id and label of each of the scores that a classifier's graph gives.

    Args:
        count: of scores.

    Raises:
        RequestError: see the tree in ``errors``.
    """
    server = backend()
    listed = server.ask("labels", contract.Labels, name=model, of=task.kind)
    told = server.ask("model", contract.ModelReport, name=model, of=task.kind)
    offset = told.alignment.offset if told.alignment is not None else 0
    names = {one.id: one.name for one in listed.labels}
    return [(i + offset, names.get(i + offset, "")) for i in range(count)]


def _request(task: Task[Any], options: Options) -> PhotoRequest:
    server = backend()
    who = present_caller(server.settings.request_timeout_s)
    return PhotoRequest(server.link, task, who, options, g.request_id)


def _findings(task: Task[Any], seen: Seen) -> Sequence[Finding]:
    return task.findings(msgspec.json.decode(seen.answer, type=task.answer_type))


def answer(body: object, *seen: Seen) -> Response:
    """Return JSON, with the headers of what was seen."""
    return _answer(msgspec.json.encode(body), "application/json", seen)


def answer_picture(content: bytes, kind: str, *seen: Seen) -> Response:
    """Return a picture, with the headers of what was seen."""
    return _answer(content, kind, seen)


def _answer(content: bytes, kind: str, seen: Sequence[Seen]) -> Response:
    response = Response(content, content_type=kind)
    if seen:
        describe(response, *seen)
    return response
