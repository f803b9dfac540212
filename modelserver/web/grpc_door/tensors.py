"""Tensors as gRPC's messages carry them: in fields by their type, or as bytes."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelserver.core.errors import BadRequest
from modelserver.web.dialects import tensor_answers, tensor_bodies
from modelserver.web.dialects.evaluations import VERSION
from modelserver.web.dialects.tensor_bodies import Inference, InferRequest
from modelserver.web.forms import MAX_FILES
from modelserver.web.grpc_door import _open_inference_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.engine.uploads import Spool
    from modelserver.web.dialects.tensor_answers import Column

_MESSAGES: Any = _open_inference_pb2
_BYTES = "bytes_contents"
# Where values of each type lie that are no bytes behind one another; half floats have
# no place.
_PLACES = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": _BYTES,
}
_TYPES: dict[str, Any] = {
    "bool_contents": np.bool_,
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}
_MOST_PARAMETERS = 64
_LENGTH = struct.Struct("<I")


def inference_of(message: Any, raw: Sequence[memoryview], spool: Spool) -> Inference:
    """Return a ``ModelInferRequest`` as if it had come in REST's binary form.

    Args:
        raw: its ``raw_input_contents``, which the message lacks.

    Raises:
        BadRequest: it contradicts itself.
    """
    if raw and len(raw) != len(message.inputs):
        raise BadRequest("raw_input_contents must be as many as there are inputs.")
    content: bytes | memoryview = b""
    inputs = [_described(given) for given in message.inputs]
    if len(inputs) == 1:  # several are refused
        (given,) = message.inputs
        content = _raw(given, raw[0]) if raw else _contents(given)
        inputs[0]["parameters"]["binary_data_size"] = len(content)
    told = {
        "id": message.id,
        "parameters": _values(message.parameters),
        "inputs": inputs,
        "outputs": [
            {"name": one.name, "parameters": _values(one.parameters)}
            for one in message.outputs
        ],
    }
    try:
        head = msgspec.convert(told, InferRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The message is not a request: {error}.") from error
    return Inference(head, memoryview(content), 0, None, spool)


def _described(given: Any) -> dict[str, Any]:
    return {
        "name": given.name,
        # One more than there may be tells that there are too many.
        "shape": list(given.shape[: tensor_bodies.MOST_AXES + 1]),
        "datatype": given.datatype,
        "parameters": _values(given.parameters),
    }


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them, less those without a value."""
    if len(parameters) > _MOST_PARAMETERS:
        raise BadRequest(f"There may be {_MOST_PARAMETERS} parameters.")
    found = {}
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(value, kind)
    return found


def _raw(given: Any, data: memoryview) -> memoryview:
    if given.HasField("contents"):
        raise BadRequest(
            f"The input {given.name!r} has both contents and raw_input_contents."
        )
    return data


def _contents(given: Any) -> bytes:
    """Return the bytes of an input whose values lie in a field of their type.

    Raises:
        BadRequest: they lie in another field, in none, or do not fit into the type.
    """
    place = _PLACES.get(given.datatype, "")
    filled = [field.name for field, _ in given.contents.ListFields()]
    if filled != [place]:
        where = place or "raw_input_contents"
        there = " and ".join(filled) or "nowhere"
        raise BadRequest(
            f"The data of the input {given.name!r}, of type "
            f"{given.datatype[:50]!r}, belongs in {where}, and is in {there}."
        )
    values: Sequence[Any] = getattr(given.contents, place)
    count = math.prod(given.shape)
    if len(values) != count:
        raise BadRequest(
            f"The input {given.name!r} has {len(values)} values in {place}, and {count}"
            " by its shape."
        )
    if place == _BYTES:
        # More are refused; they need not be copied for that.
        files = values[: MAX_FILES + 1]
        return b"".join(_LENGTH.pack(len(each)) + each for each in files)
    found: NDArray[Any] = np.fromiter(values, _TYPES[place], len(values))
    return tensor_bodies.fit(found, tensor_bodies.DTYPES[given.datatype]).tobytes()


def response_of(model: str, asked: InferRequest, columns: Sequence[Column]) -> Any:
    """Return a ``ModelInferResponse``, all outputs in it as bytes.

    Raises:
        BadRequest: as ``tensor_answers.chosen``.
    """
    response = _MESSAGES.ModelInferResponse(
        model_name=model, model_version=VERSION, id=asked.id
    )
    for column, _ in tensor_answers.chosen(asked, columns):
        response.outputs.add(
            name=column.name, datatype=column.datatype, shape=column.values.shape
        )
        response.raw_output_contents.append(column.raw())
    return response
