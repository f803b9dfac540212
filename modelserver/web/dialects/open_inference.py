"""The Open Inference Protocol (KServe v2) over REST, as Triton and KServe speak it.

A model is asked in two ways. An input of type ``BYTES`` holds images, which go the way
of every photo and come back as labelled boxes or classes. An input of numbers goes as
it is to the graph as it was written, and all of its outputs come back.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from flask import Response, request

from modelserver import __version__
from modelserver.core import contract
from modelserver.core.errors import (
    BadRequest,
    CrossSite,
    ModelFailed,
    ModelNotReady,
)
from modelserver.core.messages.questions import (
    ModelStatistics,
    Readiness,
)
from modelserver.tasks import by_kind
from modelserver.tasks.options import read_options
from modelserver.web.access import check_loopback
from modelserver.web.answers import describe
from modelserver.web.backend import backend
from modelserver.web.dialects import tensor_answers, tensor_bodies
from modelserver.web.dialects.dialect import Dialect, Route, refuse_plainly
from modelserver.web.dialects.evaluations import (
    VERSION,
    answer,
    check_version,
    evaluate_all,
    feed,
    graph_of,
    labels_of,
    read_whole_body,
    task_of,
    tensors_of,
)
from modelserver.web.dialects.inference_types import (
    AllStatistics,
    ConfigTensor,
    Done,
    Duration,
    Images,
    IndexEntry,
    IndexRequest,
    InferenceStatistics,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)
from modelserver.web.dialects.tensor_answers import Column, InferResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.messages import TensorSpec
    from modelserver.core.messages.requests import Seen
    from modelserver.tasks import Finding, Task
    from modelserver.web.backend import Backend
    from modelserver.web.dialects.tensor_bodies import Inference, InferRequest

_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)
_PLATFORM = "tensorflow_graphdef"
# Classes of an image, the best first, if the request says nothing.
_CLASSES = 5
_READY = "READY"
# How often a model that is being loaded is looked at.
_LOOK_S = 0.05
_STATES = {"READY": "READY", "LOADING": "LOADING", "DRAINING": "UNLOADING"}
_OPTIONS = ("min_confidence", "labels", "max_results", "top_k")
_CONFIG_TYPES = {"FP16": "TYPE_FP16", "BYTES": "TYPE_STRING"}


def live() -> Response:
    """``GET /v2/health/live``: this door is alive."""
    return answer(Live(live=True))


def ready() -> Response:
    """``GET /v2/health/ready``: as ``/readyz``."""
    is_ready = backend().ask("ready", Readiness).ready
    response = answer(Ready(ready=is_ready))
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return response


def server() -> Response:
    """``GET /v2``: the server's name, version and extensions."""
    return answer(ServerMetadata("modelserver", __version__, _EXTENSIONS))


def model_ready(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/ready``: whether it answers now."""
    check_version(model, version)
    is_ready = tensors_of(model).state == _READY
    response = answer(ModelReady(model, is_ready))
    if not is_ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return response


def metadata(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>``: its inputs and outputs."""
    check_version(model, version)
    found = graph_of(model)
    body = ModelMetadata(
        model,
        (VERSION,),
        _PLATFORM,
        tuple(map(_metadata, found.inputs)),
        tuple(map(_metadata, found.outputs)),
        Images("BYTES", (-1,), _image_outputs(by_kind(found.kind))),
    )
    return answer(body)


def config(model: str, version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/config``: the same as Triton's configuration."""
    check_version(model, version)
    found = graph_of(model)
    batched = all(one.shape[:1] == (-1,) for one in found.inputs)
    body = ModelConfig(
        model,
        _PLATFORM,
        "tensorflow",
        found.max_batch if batched else 0,
        tuple(_config(one, batched=batched) for one in found.inputs),
        tuple(_config(one, batched=batched) for one in found.outputs),
    )
    return answer(body)


def index() -> Response:
    """``POST /v2/repository/index``: the models of the folder."""
    given = bytes(read_whole_body())
    try:
        wanted = msgspec.json.decode(given or b"{}", type=IndexRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"The JSON is not a request: {error}.") from error
    entries = [
        IndexEntry(one.name, VERSION, _STATES.get(one.state, "UNAVAILABLE"), one.reason)
        for one in backend().ask("models", contract.Models).models
        if one.state == _READY or not wanted.ready
    ]
    return answer(entries)


def load(model: str) -> Response:
    """``POST /v2/repository/models/<model>/load``: have it in memory, and wait.

    Raises:
        ModelFailed, ModelNotReady: it is not there within the request's time.
    """
    server_ = _own_client()
    server_.ask("load", type(None), name=model)
    until = time.perf_counter() + server_.settings.request_timeout_s
    while (state := tensors_of(model).state) != _READY:
        if state == "FAILED":
            raise ModelFailed(model)
        if time.perf_counter() >= until:
            raise ModelNotReady(model, state.lower())
        time.sleep(_LOOK_S)
    return answer(Done())


def unload(model: str) -> Response:
    """``POST /v2/repository/models/<model>/unload``: have it leave memory.

    It stays away until it is loaded so, or its files change.
    """
    _own_client().ask("unload", type(None), name=model)
    return answer(Done())


def _own_client() -> Backend:
    """Read the body, of which nothing is used, and check who asks.

    Raises:
        LoopbackOnly, CrossSite: the server has no token, and the client is on another
            machine, or a page of another site.
    """
    read_whole_body()
    server_ = backend()
    if not server_.settings.api_token:
        forwarded = request.headers.get("X-Forwarded-For", "")
        check_loopback(request.remote_addr, forwarded)
        origin = request.headers.get("Origin", "")
        if origin and urlsplit(origin).netloc != request.host:
            raise CrossSite
    return server_


def statistics(model: str = "", version: str = VERSION) -> Response:
    """``GET /v2/models/<model>/stats``, or of all models: what was counted."""
    check_version(model, version)
    found = backend().ask("statistics", list[ModelStatistics], name=model)
    return answer(AllStatistics(tuple(map(_statistics, found))))


def infer(model: str, version: str = VERSION) -> Response:
    """``POST /v2/models/<model>/infer``: ask a model, with images or with numbers."""
    check_version(model, version)
    server_ = backend()
    most = server_.settings.max_upload_mb << 20
    asked = tensor_bodies.read(request, server_.spool, most)
    if asked.head.inputs[0].datatype == "BYTES":
        columns, seen = _look(model, asked)
    else:
        columns, seen = _feed(model, asked)
    response = tensor_answers.write(model, asked.head, columns)
    describe(response, *seen)
    return response


def _look(model: str, asked: Inference) -> tuple[list[Column], list[Seen]]:
    """Have a model look at images, and return what it found in each."""
    images, task = asked.images(), task_of(model)
    options = read_options(_options(asked.head, task))
    evaluations = evaluate_all(task, images, model, options)
    columns = _image_columns(task, [each.findings for each in evaluations])
    return columns, [each.seen for each in evaluations]


def _options(head: InferRequest, task: Task[Any]) -> dict[str, list[str]]:
    """Return the parameters that are options, as fields of a form."""
    options = {}
    for name in _OPTIONS:
        value = head.parameters.get(name)
        if value is not None:
            options[name] = [str(value)]
    if task.finds == "classes":
        wanted = (one.parameters.get("classification") for one in head.outputs)
        most = max((each for each in wanted if type(each) is int), default=0)
        options.setdefault("top_k", [str(most if most > 0 else _CLASSES)])
    return options


def _image_columns(task: Task[Any], found: Sequence[Sequence[Finding]]) -> list[Column]:
    labels = [[(one.class_id, one.label) for one in row] for row in found]
    columns = [
        Column(
            "scores",
            tensor_answers.table(
                [[one.confidence for one in row] for row in found], np.float32
            ),
            labels,
        ),
        Column(
            "classes",
            tensor_answers.table(
                [[one.class_id for one in row] for row in found], np.int64
            ),
        ),
        Column(
            "labels",
            tensor_answers.table([[one.label for one in row] for row in found], object),
        ),
    ]
    if task.finds == "boxes":
        boxes = [[one.box for one in row] for row in found]
        columns.insert(
            0, Column("boxes", tensor_answers.table(boxes, np.float32, (4,)))
        )
        counts = np.array([len(row) for row in found], np.int64)
        columns.append(Column("count", counts))
    return columns


def _image_outputs(task: Task[Any]) -> tuple[TensorMetadata, ...]:
    """Return the outputs to images."""
    return tuple(
        TensorMetadata(
            one.name,
            one.datatype,
            (-1, *[-1] * (one.values.ndim > 1), *one.values.shape[2:]),
        )
        for one in _image_columns(task, ())
    )


def _feed(model: str, asked: Inference) -> tuple[list[Column], list[Seen]]:
    """Feed a model's graph, and return what it gave."""
    upload, tensor = asked.tensor()
    task = task_of(model)
    found, seen = feed(task, upload, model, tensor)
    labels: list[tuple[int, str]] = []
    if any("classification" in one.parameters for one in asked.head.outputs):
        labels = _labels(model, task, found)
    columns = []
    for name, values in found.items():
        if labels and values.ndim:
            rows = values.reshape(max(1, values.shape[0] if values.ndim > 1 else 1), -1)
            columns.append(Column(name, rows, [labels] * len(rows)))
        else:
            columns.append(Column(name, values))
    return columns, [seen]


def _labels(
    model: str, task: Task[Any], found: Mapping[str, NDArray[Any]]
) -> list[tuple[int, str]]:
    """Return the class of each score of a classifier; none of another model."""
    if task.finds != "classes" or len(found) != 1:
        return []
    (array,) = found.values()
    return labels_of(task, model, array.shape[-1] if array.shape else 0)


def _datatype(spec: TensorSpec) -> str:
    return tensor_answers.DATATYPES.get(spec.dtype, "BYTES")


def _metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(spec.name, _datatype(spec), spec.shape)


def _config(spec: TensorSpec, *, batched: bool) -> ConfigTensor:
    datatype = _datatype(spec)
    kind = _CONFIG_TYPES.get(datatype, f"TYPE_{datatype}")
    return ConfigTensor(spec.name, kind, spec.shape[1:] if batched else spec.shape)


def _statistics(found: ModelStatistics) -> Statistics:
    images = found.images

    def spent(*stages: str) -> Duration:
        return Duration(images, round(sum(found.seconds[one] for one in stages) * 1e9))

    none = Duration(0, 0)
    last = 0 if found.age_s is None else round((time.time() - found.age_s) * 1000)
    times = InferenceStatistics(
        success=spent(*found.seconds),
        fail=Duration(found.failed, 0),
        queue=spent("wait", "queue"),
        compute_input=spent("decode"),
        compute_infer=spent("run"),
        compute_output=spent("post"),
        cache_hit=none,
        cache_miss=none,
    )
    return Statistics(found.name, VERSION, last, images, found.runs, times)


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
