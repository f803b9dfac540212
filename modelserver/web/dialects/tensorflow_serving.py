"""TensorFlow Serving's REST: a model's state and metadata, ``:predict``, ``:classify``.

Numbers go as they are to the graph as it was written, and its own outputs come back. A
value ``{"b64": ...}`` is an image, which this server decodes whatever the graph takes;
the answer has the names, the order and the axes of the graph's own: boxes with y first,
a score for each class.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from flask import Response
from msgspec import UNSET, Struct, UnsetType

from modelserver.core.errors import BadRequest, UploadTooLarge
from modelserver.core.messages.requests import Tensor
from modelserver.tasks.options import MOST, Options
from modelserver.web.answers import describe
from modelserver.web.backend import backend
from modelserver.web.dialects import tensor_bodies
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
from modelserver.web.dialects.tensor_answers import packed, table
from modelserver.web.forms import MAX_FILES, spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from modelserver.core.messages import TensorSpec
    from modelserver.core.messages.requests import Seen
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Finding, Task
    from modelserver.web.dialects.evaluations import Evaluation

Arrays: TypeAlias = "dict[str, NDArray[Any]]"

_LABEL = "stable"
_SIGNATURE = "serving_default"
_METHOD = "tensorflow/serving/predict"
_BASE64 = "b64"
# Tokens for floats that JSON does not have.
_TOKENS = (b"NaN", b"Infinity")
_STATES = {
    "READY": "AVAILABLE",
    "LOADING": "LOADING",
    "DRAINING": "UNLOADING",
}
# TensorFlow's names of NumPy's types.
_DTYPES = {
    "|b1": "DT_BOOL",
    "|u1": "DT_UINT8",
    "<u2": "DT_UINT16",
    "<u4": "DT_UINT32",
    "<u8": "DT_UINT64",
    "|i1": "DT_INT8",
    "<i2": "DT_INT16",
    "<i4": "DT_INT32",
    "<i8": "DT_INT64",
    "<f2": "DT_HALF",
    "<f4": "DT_FLOAT",
    "<f8": "DT_DOUBLE",
}


class Status(Struct, frozen=True):
    """How loading a version ended."""

    error_code: str = "OK"
    error_message: str = ""


class VersionStatus(Struct, frozen=True):
    """The state of one version."""

    version: str
    state: str
    status: Status


class ModelStatus(Struct, frozen=True):
    """The states of a model's versions, of which there is one."""

    model_version_status: tuple[VersionStatus, ...]


class Axis(Struct, frozen=True):
    """The length of an axis, -1 for any."""

    size: str
    name: str = ""


class Shape(Struct, frozen=True):
    """The axes of a tensor."""

    dim: tuple[Axis, ...]
    unknown_rank: bool = False


class TensorInfo(Struct, frozen=True):
    """An input or output of a graph."""

    dtype: str
    tensor_shape: Shape
    name: str


class Signature(Struct, frozen=True):
    """What a graph takes and gives."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str = _METHOD


class Signatures(Struct, frozen=True):
    """A graph's signatures, of which there is one."""

    signature_def: dict[str, Signature]


class Definitions(Struct, frozen=True):
    """The metadata that there is."""

    signature_def: Signatures


class ModelSpec(Struct, frozen=True):
    """The model that was asked for."""

    name: str
    signature_name: str = ""
    version: str = VERSION


class Metadata(Struct, frozen=True):
    """A model with its signature."""

    model_spec: ModelSpec
    metadata: Definitions


class Predictions(Struct, frozen=True):
    """What a model gave: ``predictions`` by rows, ``outputs`` by columns."""

    predictions: list[Any] | UnsetType = UNSET
    outputs: Any = UNSET


class Classes(Struct, frozen=True):
    """Labels and scores of each example, best first.

    TensorFlow Serving writes ``results``, and its documentation ``result``: both are
    here.
    """

    results: list[list[tuple[str, float]]]
    result: list[list[tuple[str, float]]]


class PredictRequest(Struct, frozen=True):
    """A request to predict. A graph has one signature, however it is called."""

    signature_name: str = ""
    instances: list[Any] | UnsetType = UNSET
    inputs: Any = UNSET


class ClassifyRequest(Struct, frozen=True):
    """A request to classify; ``context`` holds the features of all examples."""

    examples: list[dict[str, Any]]
    signature_name: str = ""
    context: dict[str, Any] = {}


class Given(NamedTuple):
    """The value of a graph's only input.

    Attributes:
        name: as the request has it; empty if it has none.
        value: lists within lists.
        rows: whether it came as rows, each with all outputs in the answer.
    """

    name: str
    value: list[Any]
    rows: bool = True


def status(model: str, version: str = VERSION, label: str = _LABEL) -> Response:
    """``GET /v1/models/<model>``: the state of its only version."""
    _check(model, version, label)
    found = tensors_of(model)
    state = _STATES.get(found.state, "END")
    failed = found.state == "FAILED"
    told = Status("INTERNAL", found.reason) if failed else Status()
    return answer(ModelStatus((VersionStatus(VERSION, state, told),)))


def metadata(model: str, version: str = VERSION, label: str = _LABEL) -> Response:
    """``GET /v1/models/<model>/metadata``: inputs and outputs of its graph.

    Raises:
        ModelNotReady: it is not in memory.
    """
    _check(model, version, label)
    found = graph_of(model)
    signature = Signature(
        {one.name: _info(one) for one in found.inputs},
        {one.name: _info(one) for one in found.outputs},
    )
    definitions = Definitions(Signatures({_SIGNATURE: signature}))
    return answer(Metadata(ModelSpec(model), definitions))


def predict(model: str, version: str = VERSION, label: str = _LABEL) -> Response:
    """``POST /v1/models/<model>:predict``: ask a model with numbers or images."""
    _check(model, version, label)
    given = _given(_body(PredictRequest))
    task, files = task_of(model), _files(given.value)
    if files:
        outputs, seen = _look(model, task, files)
    else:
        outputs, seen = _feed(model, task, given)
    if given.rows:
        body = Predictions(predictions=_rows(outputs, len(given.value)))
    else:
        columns = {name: array.tolist() for name, array in outputs.items()}
        body = Predictions(outputs=_unnamed(columns))
    return _answer(body, seen)


def classify(model: str, version: str = VERSION, label: str = _LABEL) -> Response:
    """``POST /v1/models/<model>:classify``: the labels of images, or of numbers.

    Raises:
        BadRequest: the model is no classifier.
    """
    _check(model, version, label)
    asked, task = _body(ClassifyRequest), task_of(model)
    if task.finds != "classes":
        raise BadRequest(f"The model {model} does not classify: ask it to predict.")
    given = _features(asked)
    files = _files(given.value)
    if files:
        evaluations = _evaluate(model, task, files)
        results = [
            [(one.label, one.confidence) for one in each.findings]
            for each in evaluations
        ]
        return _answer(Classes(results, results), [each.seen for each in evaluations])
    outputs, seen = _feed(model, task, given)
    results = _labelled(model, task, outputs, len(given.value))
    return _answer(Classes(results, results), seen)


def _check(model: str, version: str, label: str) -> None:
    check_version(model, version)
    if label != _LABEL:
        raise BadRequest(
            f"The model {model} has no label {label[:50]!r}, only {_LABEL!r}."
        )


def _info(spec: TensorSpec) -> TensorInfo:
    dtype = _DTYPES.get(spec.dtype, "DT_STRING")
    axes = tuple(Axis(str(side)) for side in spec.shape)
    return TensorInfo(dtype, Shape(axes), f"{spec.name}:0")


def _body(kind: type[Any]) -> Any:
    """Read a request, whose floats may be ``NaN`` and ``Infinity``.

    Raises:
        BadRequest: it is no such JSON.
    """
    data = bytes(read_whole_body())
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if not any(token in data for token in _TOKENS):
                raise
            return msgspec.convert(json.loads(data), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"The JSON is not a request: {error}.") from error


def _given(asked: PredictRequest) -> Given:
    """Return the value of the only input, by rows or as a column.

    Raises:
        BadRequest: there are both, or none, or several inputs.
    """
    rows, column = asked.instances, asked.inputs
    if (rows is UNSET) == (column is UNSET):
        raise BadRequest("A request to predict has either instances or inputs.")
    if not isinstance(rows, UnsetType):
        found = [_named(each) for each in rows]
        names = {name for name, _ in found}
        if len(names) != 1:
            raise BadRequest("Instances must be at least one, and all of one input.")
        return Given(names.pop(), [value for _, value in found])
    name, value = _named(column)
    if _is_file(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise BadRequest("The inputs must be a list, or an object with one.")
    return Given(name, value, rows=False)


def _named(value: Any) -> tuple[str, Any]:
    """Return an input's name, empty if it has none, and its value."""
    if not isinstance(value, dict) or _is_file(value):
        return "", value
    if len(value) != 1:
        raise BadRequest("A model here has one input.")
    ((name, one),) = value.items()
    return name, one


def _features(asked: ClassifyRequest) -> Given:
    """Return the images or the numbers of examples, which may have other features.

    Raises:
        BadRequest: there are none, or which feature is meant is not clear.
    """
    values, names = [], set()
    for example in asked.examples:
        if asked.context.keys() & example.keys():
            raise BadRequest("A feature of the context is in an example too.")
        features = asked.context | example
        alone = {name: _lone(value) for name, value in features.items()}
        found = {name: one for name, one in alone.items() if _is_file(one)} or {
            name: one for name, one in features.items() if not isinstance(one, str)
        }
        if len(found) != 1:
            raise BadRequest("An example must have one feature, an image or numbers.")
        ((name, value),) = found.items()
        names.add(name)
        values.append(value)
    if len(names) != 1:
        raise BadRequest("Examples must be at least one, and all of one feature.")
    return Given(names.pop(), values)


def _lone(value: Any) -> Any:
    """Return the value that a feature's list has if there is one alone."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_BASE64}


def _files(values: Sequence[Any]) -> list[Upload]:
    """Return images in files of their own; none if the values are numbers.

    Raises:
        BadRequest: one is no base64, or empty, or there are numbers among them.
        UploadTooLarge: there are more than one request may have.
    """
    if not any(map(_is_file, values)):
        return []
    if len(values) > MAX_FILES:
        raise UploadTooLarge(f"A request may have {MAX_FILES} images.")
    spool = backend().spool
    return [spooled(spool, _decoded(value)) for value in values]


def _decoded(value: Any) -> bytes:
    text = value[_BASE64] if _is_file(value) else None
    if not isinstance(text, str):
        raise BadRequest('Each image must be {"b64": "its file in base64"}.')
    try:
        # It is content without the signs that fill up the end.
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("b64 must be a file in base64.") from error
    if not content:
        raise BadRequest("An image is empty.")
    return content


def _evaluate(model: str, task: Task[Any], files: list[Upload]) -> list[Evaluation]:
    """Have a model look at images, and leave nothing out that it finds."""
    return evaluate_all(task, files, model, Options(min_confidence=0.0, top_k=MOST))


def _look(
    model: str, task: Task[Any], files: list[Upload]
) -> tuple[Arrays, list[Seen]]:
    """Have a model look at images; return the outputs that its graph would give."""
    evaluations = _evaluate(model, task, files)
    found = [each.findings for each in evaluations]
    seen = [each.seen for each in evaluations]
    if task.finds == "boxes":
        return _boxes(found), seen
    return _scores(model, task, found), seen


def _boxes(found: Sequence[Sequence[Finding]]) -> Arrays:
    """Return detections as the Object Detection API's graphs do, and their labels.

    Rows with fewer are filled up with zeros.
    """
    columns: dict[str, tuple[Callable[[Finding], Any], Any, tuple[int, ...]]] = {
        "detection_boxes": (_y_first, np.float32, (4,)),
        "detection_scores": (lambda one: one.confidence, np.float32, ()),
        "detection_classes": (lambda one: one.class_id, np.float32, ()),
        "detection_class_entities": (lambda one: one.label, object, ()),
    }
    arrays = {
        name: table([[value(one) for one in row] for row in found], dtype, more)
        for name, (value, dtype, more) in columns.items()
    }
    arrays["num_detections"] = np.array([len(row) for row in found], np.float32)
    return arrays


def _y_first(found: Finding) -> tuple[float, ...]:
    left, top, right, bottom = found.box
    return top, left, bottom, right


def _scores(model: str, task: Task[Any], found: Sequence[Sequence[Finding]]) -> Arrays:
    """Return the score of each class, in the order of the graph's, under its name."""
    outputs = tensors_of(model).outputs
    name = outputs[0].name if outputs else "scores"
    ((first, _),) = labels_of(task, model, 1)
    count = 1 + max((one.class_id for row in found for one in row), default=first)
    scores = np.zeros((len(found), count - first), np.float32)
    for row, findings in zip(scores, found, strict=True):
        for one in findings:
            row[one.class_id - first] = one.confidence
    return {name: scores}


def _feed(model: str, task: Task[Any], given: Given) -> tuple[Arrays, list[Seen]]:
    """Feed numbers to a model's graph; return all outputs of it.

    Raises:
        BadRequest: they are not of its input's type.
    """
    inputs = tensors_of(model).inputs
    # Of a model that is not there the engine says why, and has it loaded if it may.
    dtype = inputs[0].dtype if inputs else "<f8"
    if not dtype:
        raise BadRequest(
            f"The model {model} takes files of images: send each as "
            '{"b64": "its file in base64"}.'
        )
    array = tensor_bodies.numbers(given.value, dtype)
    upload = spooled(backend().spool, array.tobytes())
    tensor = Tensor(dtype, array.shape, 0, given.name)
    outputs, seen = feed(task, upload, model, tensor)
    return outputs, [seen]


def _labelled(
    model: str, task: Task[Any], outputs: Arrays, count: int
) -> list[list[tuple[str, float]]]:
    """Return the labels and scores of a graph's only output, best first.

    Raises:
        BadRequest: it has no score for each class.
    """
    (array, *others) = outputs.values()
    if others or array.ndim == 0 or array.shape[0] != count:
        raise BadRequest(f"The model {model} gives no scores of classes to numbers.")
    scores = array.reshape(count, -1)
    labels = [label for _, label in labels_of(task, model, scores.shape[1])]
    return [
        [(labels[i], row[i].item()) for i in np.argsort(-row, kind="stable")]
        for row in scores
    ]


def _rows(outputs: Arrays, count: int) -> list[Any]:
    """Return outputs by rows.

    Raises:
        BadRequest: one has not a row for each instance.
    """
    for name, array in outputs.items():
        if array.shape[:1] != (count,):
            raise BadRequest(
                f"The output {name} has the shape {list(array.shape)}, not a row for "
                f"each of {count} instances: ask with inputs instead."
            )
    columns = [array.tolist() for array in outputs.values()]
    if len(columns) == 1:
        return list(columns[0])
    rows = zip(*columns, strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def _unnamed(columns: dict[str, Any]) -> Any:
    """Return columns by their names; an only one without it, as the protocol has it."""
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _answer(body: Struct, seen: Sequence[Seen]) -> Response:
    """Return JSON, in which floats may be ``NaN`` and ``Infinity``."""
    content = msgspec.json.encode(body)
    if b"null" in content:
        content = json.dumps(msgspec.to_builtins(body)).encode()
    response = packed(Response(content, content_type="application/json"))
    describe(response, *seen)
    return response


def _routes() -> tuple[Route, ...]:
    """Return each of the four routes for a model, its version and its label."""
    routes = []
    for root in ("", "/versions/<version>", "/labels/<label>"):
        for end, verb, view, summary, kind in (
            ("", "GET", status, "The state of a model", ModelStatus),
            ("/metadata", "GET", metadata, "Inputs and outputs of a model", Metadata),
            (":predict", "POST", predict, "Ask a model", Predictions),
            (":classify", "POST", classify, "Tell what images are of", Classes),
        ):
            route = Route(
                path=f"/v1/models/<model>{root}{end}",
                verb=verb,
                view=view,
                summary=f"{summary}, as TensorFlow Serving does",
                answer=kind,
                reads_body=verb == "POST",
            )
            routes.append(route)
    return tuple(routes)


TENSORFLOW_SERVING = Dialect(
    name="tfserving", prefixes=("/v1/models",), refuse=refuse_plainly, routes=_routes()
)
