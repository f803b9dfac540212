"""The Open Inference Protocol (KServe v2) over REST, as Triton and KServe speak it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
from flask import Response, request

from modelserver.core.errors import BadRequest, CrossSite
from modelserver.web.access import check_loopback
from modelserver.web.answers import describe
from modelserver.web.backend import backend
from modelserver.web.dialects import inference, tensor_answers, tensor_bodies
from modelserver.web.dialects.dialect import Dialect, Route, refuse_plainly
from modelserver.web.dialects.evaluations import (
    VERSION,
    answer,
    check_version,
    read_whole_body,
)
from modelserver.web.dialects.inference_types import (
    AllStatistics,
    Done,
    IndexEntry,
    IndexRequest,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from modelserver.web.dialects.tensor_answers import InferResponse


def live() -> Response:
    """``GET /v2/health/live``: this door is alive."""
    return answer(Live(live=True))


def ready() -> Response:
    """``GET /v2/health/ready``: as ``/readyz``."""
    is_ready = inference.is_ready()
    response = answer(Ready(ready=is_ready))
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return response


def server() -> Response:
    """``GET /v2``: the server's name, version and extensions."""
    return answer(inference.server())


def model_ready(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/ready``: whether it answers now."""
    is_ready = inference.is_model_ready(model, version)
    response = answer(ModelReady(model, is_ready))
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return response


def metadata(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>``: its inputs and outputs."""
    return answer(inference.metadata(model, version))


def config(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/config``: the same as Triton's configuration."""
    return answer(inference.config(model, version))


def index() -> Response:
    """``POST /v2/repository/index``: the models of the folder."""
    given = bytes(read_whole_body())
    try:
        wanted = msgspec.json.decode(given or b"{}", type=IndexRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"The JSON is not a request: {error}.") from error
    return answer(inference.index(ready=wanted.ready))


def load(model: str) -> Response:
    """``POST /v2/repository/models/<model>/load``: have it in memory, and wait.

    Raises:
        ModelFailed, ModelNotReady: it is not there within the request's time.
    """
    _check_own_client()
    inference.load(model)
    return answer(Done())


def unload(model: str) -> Response:
    """``POST /v2/repository/models/<model>/unload``: have it leave memory.

    It stays away until it is loaded so, or its files change.
    """
    _check_own_client()
    inference.unload(model)
    return answer(Done())


def _check_own_client() -> None:
    """Read the body, of which nothing is used, and check who asks.

    Raises:
        LoopbackOnly, CrossSite: the server has no token, and the client is on another
            machine, or a page of another site.
    """
    read_whole_body()
    if not backend().settings.api_token:
        forwarded = request.headers.get("X-Forwarded-For", "")
        check_loopback(request.remote_addr, forwarded)
        origin = request.headers.get("Origin", "")
        if origin and urlsplit(origin).netloc != request.host:
            raise CrossSite


def statistics(model: str = "", version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/stats``, or of all models: what was counted."""
    return answer(AllStatistics(inference.statistics(model, version)))


def infer(model: str, version: str = VERSION) -> Response:
    """``POST /v2/models/<model>/infer``: ask a model, with images or with numbers."""
    check_version(model, version)
    server_ = backend()
    most = server_.settings.max_upload_mb << 20
    asked = tensor_bodies.read(request, server_.spool, most)
    columns, seen = inference.infer(model, asked)
    response = tensor_answers.write(model, asked.head, columns)
    describe(response, *seen)
    return response


def _of_model(
    end: str, view: Any, summary: str, kind: Any, **more: Any
) -> tuple[Route, Route]:
    """Return a model's route with its version and without."""
    roots = ("/v2/models/<model>", "/v2/models/<model>/versions/<version>")
    first, second = (
        Route(
            path=root + end,
            view=view,
            summary=f"{summary}, by the Open Inference Protocol",
            answer=kind,
            **more,
        )
        for root in roots
    )
    return first, second


def _get(path: str, view: Any, summary: str, kind: Any, **more: Any) -> Route:
    return Route(
        path=path,
        verb="GET",
        view=view,
        summary=f"{summary}, by the Open Inference Protocol",
        answer=kind,
        **more,
    )


OPEN_INFERENCE = Dialect(
    name="v2",
    prefixes=("/v2",),
    refuse=refuse_plainly,
    routes=(
        _get("/v2", server, "The server and what it can do", ServerMetadata),
        _get("/v2/health/live", live, "That the server lives", Live, is_open=True),
        _get(
            "/v2/health/ready",
            ready,
            "Whether photos are answered",
            Ready,
            is_open=True,
        ),
        _get("/v2/models/stats", statistics, "Counts of all models", AllStatistics),
        *_of_model(
            "", metadata, "A model's inputs and outputs", ModelMetadata, verb="GET"
        ),
        *_of_model(
            "/ready", model_ready, "Whether a model answers", ModelReady, verb="GET"
        ),
        *_of_model(
            "/config", config, "A model's configuration", ModelConfig, verb="GET"
        ),
        *_of_model(
            "/stats", statistics, "Counts of a model", AllStatistics, verb="GET"
        ),
        *_of_model(
            "/infer",
            infer,
            "Ask a model with images or tensors",
            InferResponse,
            reads_body=True,
        ),
        Route(
            path="/v2/repository/index",
            view=index,
            summary="The models of the folder, by the Open Inference Protocol",
            answer=list[IndexEntry],
            reads_body=True,
        ),
        *(
            Route(
                path=f"/v2/repository/models/<model>/{word}",
                view=view,
                summary=f"{summary}, by the Open Inference Protocol",
                answer=Done,
                reads_body=True,
            )
            for word, view, summary in (
                ("load", load, "Have a model in memory"),
                ("unload", unload, "Have a model leave memory"),
            )
        ),
    ),
)
