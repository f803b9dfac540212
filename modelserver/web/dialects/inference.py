"""The Open Inference Protocol (KServe v2), less how its messages travel.

Over REST and over gRPC it asks the same and answers the same: here is what, as structs
of ``inference_types`` and as ``Column``. A call belongs to the present request, for
which ``backend()`` and ``caller`` speak.

A model is asked in two ways. An input of type ``BYTES`` holds images, which go the way
of every photo and come back as labelled boxes or classes. An input of numbers goes as
it is to the graph as it was written, and all of its outputs come back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelserver import __version__
from modelserver.core import contract
from modelserver.core.errors import ModelFailed, ModelNotReady
from modelserver.core.messages.questions import ModelStatistics, Readiness
from modelserver.tasks import by_kind
from modelserver.tasks.options import read_options
from modelserver.web.backend import backend
from modelserver.web.dialects import tensor_answers
from modelserver.web.dialects.evaluations import (
    VERSION,
    check_version,
    evaluate_all,
    feed,
    graph_of,
    labels_of,
    task_of,
    tensors_of,
)
from modelserver.web.dialects.inference_types import (
    ConfigTensor,
    Duration,
    Images,
    IndexEntry,
    InferenceStatistics,
    ModelConfig,
    ModelMetadata,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)
from modelserver.web.dialects.tensor_answers import Column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.messages import TensorSpec
    from modelserver.core.messages.requests import Seen
    from modelserver.tasks import Finding, Task
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


def is_ready() -> bool:
    """Return whether photos are answered, as ``/readyz`` tells."""
    return backend().ask("ready", Readiness).ready


def server() -> ServerMetadata:
    """Return the server's name, version and extensions."""
    return ServerMetadata("modelserver", __version__, _EXTENSIONS)


def is_model_ready(model: str, version: str) -> bool:
    """Return whether a model answers now.

    Raises:
        AmbiguousModel, ModelNotFound, NotFound: as ``tensors_of`` and
            ``check_version``; so do the others that name a model.
    """
    check_version(model, version)
    return tensors_of(model).state == _READY


def metadata(model: str, version: str) -> ModelMetadata:
    """Return a model's inputs and outputs.

    Raises:
        ModelNotReady: it is not in memory.
    """
    check_version(model, version)
    found = graph_of(model)
    images = Images("BYTES", (-1,), _image_outputs(by_kind(found.kind)))
    return ModelMetadata(
        model,
        (VERSION,),
        _PLATFORM,
        tuple(map(_metadata, found.inputs)),
        tuple(map(_metadata, found.outputs)),
        msgspec.UNSET if found.raw else images,
    )


def config(model: str, version: str) -> ModelConfig:
    """Return the same as Triton's configuration.

    Raises:
        ModelNotReady: it is not in memory.
    """
    check_version(model, version)
    found = graph_of(model)
    batched = all(one.shape[:1] == (-1,) for one in found.inputs)
    return ModelConfig(
        model,
        _PLATFORM,
        "tensorflow",
        found.max_batch if batched else 0,
        tuple(_config(one, batched=batched) for one in found.inputs),
        tuple(_config(one, batched=batched) for one in found.outputs),
    )


def index(*, ready: bool) -> list[IndexEntry]:
    """Return the models of the folder.

    Args:
        ready: those alone that answer now.
    """
    return [
        IndexEntry(one.name, VERSION, _STATES.get(state, "UNAVAILABLE"), one.reason)
        for one in backend().ask("models", contract.Models).models
        for state in [_state_of(one)]
        if state == _READY or not ready
    ]


def _state_of(one: contract.Model) -> str:
    """Return a model's state to those who ask by this protocol."""
    return tensors_of(one.name, one.kind).state if one.raw else one.state


def load(model: str) -> None:
    """Have a model in memory, and wait for that.

    Raises:
        ModelFailed, ModelNotReady: it is not there within the request's time.
    """
    server_ = backend()
    server_.ask("load", type(None), name=model)
    until = time.perf_counter() + server_.settings.request_timeout_s
    while (state := tensors_of(model).state) != _READY:
        if state == "FAILED":
            raise ModelFailed(model)
        if time.perf_counter() >= until:
            raise ModelNotReady(model, state.lower())
        time.sleep(_LOOK_S)


def unload(model: str) -> None:
    """Have a model leave memory, until it is loaded so or its files change."""
    backend().ask("unload", type(None), name=model)


def statistics(model: str, version: str) -> tuple[Statistics, ...]:
    """Return what was counted of a model, or of all for an empty name."""
    check_version(model, version)
    found = backend().ask("statistics", list[ModelStatistics], name=model)
    return tuple(map(_statistics, found))


def infer(model: str, asked: Inference) -> tuple[list[Column], list[Seen]]:
    """Ask a model, with images or with numbers; its version was checked.

    Returns:
        All of its outputs, and the engine's answers, one for each image.

    Raises:
        RequestError: see the tree in ``errors``.
    """
    if asked.head.inputs[0].datatype == "BYTES":
        return _look(model, asked)
    return _feed(model, asked)


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
    if task.finds != "classes" or len(found) != 1 or tensors_of(model).raw:
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
