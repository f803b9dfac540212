"""Answers of the Open Inference Protocol: JSON, and bytes of tensors behind it."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from flask import Response, request

from modelserver.core.errors import BadRequest
from modelserver.web.dialects.tensor_bodies import DTYPES, HEAD_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.web.dialects.tensor_bodies import InferRequest

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
"""The protocol's names of NumPy's numeric types; no other is one."""
_BYTES = "BYTES"
# Smaller answers do not get smaller.
_PACK_FROM = 1400
_FAST = 1
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, _FAST, mtime=0),
    "deflate": lambda data: zlib.compress(data, _FAST),
}
_LENGTH = struct.Struct("<I")


class Column(NamedTuple):
    """One output.

    Attributes:
        values: numbers, or texts in an array of objects.
        labels: the class of each score, as id and label; for the classification
            extension. Empty where there are no classes.
    """

    name: str
    values: NDArray[Any]
    labels: Sequence[Sequence[tuple[int, str]]] = ()

    @property
    def datatype(self) -> str:
        """The protocol's type."""
        return DATATYPES.get(self.values.dtype.str, _BYTES)

    def raw(self) -> bytes:
        """Return the values' bytes; each text is behind its length."""
        if self.datatype != _BYTES:
            return self.values.tobytes()
        texts = [text.encode() for text in self.values.reshape(-1)]
        return b"".join(_LENGTH.pack(len(each)) + each for each in texts)


class WrittenOutput(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One output in JSON."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, int] = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class InferResponse(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a model gave."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[WrittenOutput]


def chosen(
    asked: InferRequest, columns: Sequence[Column]
) -> list[tuple[Column, Mapping[str, Any]]]:
    """Return the outputs that are asked for, each with its parameters.

    With the classification extension an output is texts instead.

    Raises:
        BadRequest: an output is asked for that there is not, or in a form that it
            does not have.
    """
    by_name = {column.name: column for column in columns}
    wanted: list[tuple[str, Mapping[str, Any]]] = [
        (one.name.removesuffix(":0"), one.parameters) for one in asked.outputs
    ]
    found = []
    for name, parameters in wanted or [(name, {}) for name in by_name]:
        if name not in by_name:
            raise BadRequest(f"The outputs are {', '.join(by_name)}.")
        if any(each.startswith("shared_memory") for each in parameters):
            raise BadRequest("Shared memory is not supported.")
        column = _classified(by_name[name], parameters.get("classification", 0))
        found.append((column, parameters))
    return found


def write(model: str, asked: InferRequest, columns: Sequence[Column]) -> Response:
    """Return an answer, in JSON or in bytes as each output is asked for.

    Raises:
        BadRequest: as :func:`chosen`.
    """
    default = asked.parameters.get("binary_data_output", False) is True
    outputs: list[WrittenOutput] = []
    tail: list[bytes] = []
    for column, parameters in chosen(asked, columns):
        binary = parameters.get("binary_data", default) is True
        outputs.append(_written(column, tail if binary else None))
    body = InferResponse(
        model_name=model, model_version="1", id=asked.id, outputs=outputs
    )
    head = msgspec.json.encode(body)
    if not tail:
        return packed(Response(head, content_type="application/json"))
    response = Response(
        b"".join((head, *tail)), content_type="application/octet-stream"
    )
    response.headers[HEAD_LENGTH] = str(len(head))
    return packed(response)


def _written(column: Column, tail: list[bytes] | None) -> WrittenOutput:
    """Return an output's JSON; its bytes are added to the tail, if there is one."""
    values = column.values
    written = WrittenOutput(
        name=column.name, shape=values.shape, datatype=column.datatype
    )
    if tail is None:
        written.data = values.reshape(-1).tolist()
    else:
        data = column.raw()
        tail.append(data)
        written.parameters = {"binary_data_size": len(data)}
    return written


def _classified(column: Column, count: Any) -> Column:
    """Return the best classes of an output as texts, ``value:index:label``."""
    if type(count) is not int or count < 0:
        raise BadRequest("classification must be a number of classes.")
    if not count:
        return column
    if not column.labels:
        raise BadRequest(f"The output {column.name} has no classes.")
    rows = []
    for scores, labels in zip(column.values, column.labels, strict=True):
        best = np.argsort(-scores[: len(labels)], kind="stable")[:count]
        rows.append([f"{scores[i]:f}:{labels[i][0]}:{labels[i][1]}" for i in best])
    return Column(column.name, _texts(rows))


def _texts(rows: Sequence[Sequence[str]]) -> NDArray[Any]:
    """Return rows of texts as an array, the shorter ones filled up with nothing."""
    array = np.full((len(rows), max(map(len, rows), default=0)), "", dtype=object)
    for row, texts in enumerate(rows):
        array[row, : len(texts)] = texts
    return array


def table(rows: Sequence[Sequence[Any]], dtype: Any, more: tuple[int, ...] = ()) -> Any:
    """Return rows of values as an array, the shorter ones filled up with zeros.

    Args:
        more: axes of one value.
    """
    if dtype is object:
        return _texts(rows)
    array = np.zeros((len(rows), max(map(len, rows), default=0), *more), dtype)
    for row, values in enumerate(rows):
        if values:
            array[row, : len(values)] = values
    return array


def packed(response: Response) -> Response:
    """Pack an answer, if its client asks for that and it is worth it."""
    data = response.get_data()
    accepted = request.accept_encodings
    if len(data) >= _PACK_FROM:
        for coding, pack in _PACKERS.items():
            if accepted[coding] > 0:
                response.set_data(pack(data))
                response.headers["Content-Encoding"] = coding
                response.vary.add("Accept-Encoding")
                break
    return response
