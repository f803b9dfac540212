"""Requests of the Open Inference Protocol: JSON, and bytes of tensors behind it.

A request says how long each part is; nothing of it is believed before it was compared
with what came.
"""

from __future__ import annotations

import base64
import binascii
import math
import mmap
import struct
import zlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
from gunicorn.http.errors import ParseException

from modelserver.core.errors import (
    BadRequest,
    BodyTooSlow,
    UnsupportedEncoding,
    UploadTooLarge,
)
from modelserver.core.messages.requests import Tensor
from modelserver.engine.uploads import Upload
from modelserver.web.forms import MAX_FILES, body_stream, keep, spooled
from modelserver.web.server.upload_pace import TooSlow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flask import Request
    from numpy.typing import NDArray

    from modelserver.engine.uploads import Spool

DTYPES = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""NumPy's names of the protocol's numeric types."""
HEAD_LENGTH = "Inference-Header-Content-Length"
_BYTES = "BYTES"
_READ_BYTES = 256 * 1024
# zlib's own or gzip's head, whichever there is.
_ANY_HEAD = zlib.MAX_WBITS | 32
_CODINGS = {"gzip", "deflate"}
_LENGTH = struct.Struct("<I")
_MOST_DIGITS = 10
_NUMBERS = {bool, int, float}
MOST_AXES = 16
"""Axes of a tensor; TensorFlow has no more of an image's."""

Side = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class GivenInput(msgspec.Struct, frozen=True):
    """One tensor of a request."""

    name: str
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=MOST_AXES)]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class WantedOutput(msgspec.Struct, frozen=True):
    """One output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, frozen=True):
    """A request's JSON."""

    inputs: Annotated[list[GivenInput], msgspec.Meta(min_length=1)]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] = []


class Inference(NamedTuple):
    """A request as it came.

    Attributes:
        head: its JSON.
        content: the whole body.
        start: where in it the tensors begin that are no JSON.
        upload: the file that holds the body, ``None`` if it is in memory.
        spool: the upload folder.
        whole: what follows the JSON is one image, of no stated length.
    """

    head: InferRequest
    content: memoryview
    start: int
    upload: Upload | None
    spool: Spool
    whole: bool = False

    def images(self) -> list[Upload]:
        """Return the images of the only input, each in a file of its own.

        Raises:
            BadRequest: its lengths or its text are not as it says.
            UploadTooLarge: there are more than one request may have.
        """
        given = self._only()
        count = math.prod(given.shape)
        if count > MAX_FILES:
            raise UploadTooLarge(f"A request may have {MAX_FILES} images.")
        if self.whole:
            return [spooled(self.spool, self.content)]
        if given.data is not msgspec.UNSET:
            _unsized(given)
            files: Sequence[bytes | memoryview] = _texts(given.data, count)
        else:
            files = list(_elements(self.content[self._binary(given) :], count))
        if not all(map(len, files)):
            raise BadRequest("An image is empty.")
        return [spooled(self.spool, file) for file in files]

    def tensor(self) -> tuple[Upload, Tensor]:
        """Return the file that holds the numbers of the only input, and what they are.

        Raises:
            BadRequest: they are not what it says.
        """
        given = self._only()
        dtype = DTYPES.get(given.datatype)
        if dtype is None:
            raise BadRequest(f"The datatype {given.datatype[:50]!r} is not supported.")
        outputs = tuple(one.name.removesuffix(":0") for one in self.head.outputs)
        tensor = Tensor(dtype, given.shape, 0, given.name, outputs)
        if given.data is not msgspec.UNSET:
            _unsized(given)
            numbers = _numbers(given.data, tensor)
            return spooled(self.spool, numbers), tensor
        start = self._binary(given)
        if tensor.nbytes != len(self.content) - start:
            raise BadRequest(
                f"The input {given.name!r} has {len(self.content) - start} bytes, and "
                f"{tensor.nbytes} by its shape and datatype."
            )
        if self.upload is not None:
            return self.upload, msgspec.structs.replace(tensor, offset=start)
        return spooled(self.spool, self.content[start:]), tensor

    def _only(self) -> GivenInput:
        if len(self.head.inputs) != 1:
            raise BadRequest("A model here has one input.")
        (given,) = self.head.inputs
        if any(name.startswith("shared_memory") for name in given.parameters):
            raise BadRequest("Shared memory is not supported.")
        return given

    def _binary(self, given: GivenInput) -> int:
        """Return where an input's bytes begin, which are all of the rest."""
        size = given.parameters.get("binary_data_size")
        there = len(self.content) - self.start
        if type(size) is not int or size != there:
            raise BadRequest(
                f"The input {given.name!r} has neither data nor a binary_data_size "
                f"of the {there} bytes that follow the JSON."
            )
        return self.start


def read(request: Request, spool: Spool, most: int) -> Inference:
    """Read a request's body.

    Args:
        most: bytes that it may have, unpacked.

    Raises:
        BadRequest: it is malformed.
        UnsupportedEncoding: it is packed otherwise than by gzip or deflate.
        BodyTooSlow: it came too slowly.
        UploadTooLarge: it is larger unpacked.
        StorageFull, StorageUnavailable: it cannot be kept.
    """
    content, upload = body_of(request, spool, most)
    length = _head_length(request, len(content))
    if length == 0:
        if not len(content):
            raise BadRequest("The body is empty.")
        alone = InferRequest([GivenInput("", (1,), _BYTES)])
        return Inference(alone, content, 0, upload, spool, whole=True)
    try:
        head = msgspec.json.decode(bytes(content[:length]), type=InferRequest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"The JSON is not a request: {error}.") from error
    return Inference(head, content, length, upload, spool)


def body_of(
    request: Request, spool: Spool, most: int
) -> tuple[memoryview, Upload | None]:
    """Return a body, unpacked, and the file that it lies in, if it does.

    The arguments and errors are those of :func:`read`.
    """
    try:
        content, upload = _read(request, spool, most)
    except TooSlow as error:
        raise BodyTooSlow from error
    except ParseException as error:
        raise BadRequest("The request's body is malformed.") from error
    if len(content) > most:
        raise _too_large(most)
    return content, upload


def _too_large(most: int) -> UploadTooLarge:
    return UploadTooLarge(
        f"The request's body may have {most >> 20} MiB, unpacked (MAX_UPLOAD_MB)."
    )


def _head_length(request: Request, size: int) -> int:
    """Return the bytes of JSON that a body begins with; by default all of it."""
    given = request.headers.get(HEAD_LENGTH)
    if given is None:
        return size
    plain = given.isascii() and given.isdigit() and len(given) <= _MOST_DIGITS
    if not plain or int(given) > size:
        raise BadRequest(f"{HEAD_LENGTH} must be a number of at most {size}.")
    return int(given)


def _read(
    request: Request, spool: Spool, most: int
) -> tuple[memoryview, Upload | None]:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    stream = body_stream(request)
    if coding in {"", "identity"}:
        if isinstance(stream, Upload):
            return _view(keep(stream)), stream
        # To its end, which tells that it is not over the limit.
        pieces = list(iter(stream.read, b""))
        return memoryview(b"".join(pieces)), None
    if coding not in _CODINGS:
        raise UnsupportedEncoding
    upload = keep(spool.open())
    unpacker, left = zlib.decompressobj(_ANY_HEAD), most
    try:
        while piece := stream.read(_READ_BYTES):
            while piece and not unpacker.eof:
                unpacked = unpacker.decompress(piece, _READ_BYTES)
                piece = unpacker.unconsumed_tail
                left -= len(unpacked)
                if left < 0:
                    raise _too_large(most)
                upload.write(unpacked)
    except zlib.error as error:
        raise BadRequest(f"The body is not packed by {coding}.") from error
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest(f"The body, packed by {coding}, is cut off or has more.")
    return _view(upload), upload


def _view(upload: Upload) -> memoryview:
    data = upload.data()
    return memoryview(data) if isinstance(data, mmap.mmap) else data


def _unsized(given: GivenInput) -> None:
    if "binary_data_size" in given.parameters:
        raise BadRequest(f"The input {given.name!r} has data and a binary_data_size.")


def _elements(data: memoryview, count: int) -> Iterator[memoryview]:
    """Give the elements of a BYTES tensor, each behind its length."""
    at = 0
    for _ in range(count):
        if len(data) - at < _LENGTH.size:
            raise BadRequest(f"BYTES end before their {count} elements.")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise BadRequest("An element of BYTES is longer than what is there.")
        yield data[at : at + length]
        at += length
    if at != len(data):
        raise BadRequest(f"BYTES have more than their {count} elements.")


def _texts(data: msgspec.Raw, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor in JSON: files in base64."""
    found = list(_flat(_plain(data)))
    if len(found) != count or not all(isinstance(one, str) for one in found):
        raise BadRequest(f"The data must be {count} texts.")
    try:
        return [base64.b64decode(one, validate=True) for one in found]
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            "BYTES in JSON are images in base64; to send a file's own bytes there is "
            "the binary extension."
        ) from error


def _flat(value: Any) -> Iterator[Any]:
    """Give the values of lists within lists, without going deeper than a tensor is."""
    todo = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        if not isinstance(one, list):
            yield one
        elif depth > MOST_AXES:
            raise BadRequest("The data lies too deep.")
        else:
            todo.extend((each, depth + 1) for each in reversed(one))


def _numbers(data: msgspec.Raw, tensor: Tensor) -> bytes:
    """Return the bytes of a tensor in JSON, flat or as its shape says."""
    count = math.prod(tensor.shape)
    # Before a number is made: n numbers have n - 1 commas, however they are nested.
    if bytes(data).count(b",") + 1 != count:
        raise BadRequest(f"The data must be {count} numbers, by the shape.")
    found = numbers(_plain(data), tensor.dtype)
    if found.shape not in {(count,), tensor.shape}:
        raise BadRequest(
            f"The data has the shape {list(found.shape)}, not {list(tensor.shape)}."
        )
    return found.tobytes()


def numbers(value: Any, dtype: str) -> NDArray[Any]:
    """Return numbers, in lists within lists as JSON has them, as an array.

    Args:
        dtype: wanted, as NumPy writes it.

    Raises:
        BadRequest: they are of no even shape, or do not fit into the type.
    """
    # As references first: one long text among them would give each number its size.
    given = np.array(value, dtype=object)
    if not _NUMBERS.issuperset(map(type, given.flat)):
        raise BadRequest("The data is of no even shape, or not of numbers alone.")
    return fit(np.array(value), dtype)


def fit(found: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return numbers in another type.

    Args:
        dtype: wanted, as NumPy writes it.

    Raises:
        BadRequest: they do not fit into it.
    """
    wanted = np.dtype(dtype)
    if not found.size or not _holds(wanted, found):
        raise BadRequest(f"The data does not fit into {wanted.name}.")
    with np.errstate(over="ignore"):
        return found.astype(wanted)


def _holds(wanted: np.dtype[Any], found: NDArray[Any]) -> bool:
    """Tell whether a type holds numbers as they came in JSON."""
    if wanted.kind == "b":
        return found.dtype.kind == "b" or (
            found.dtype.kind == "i" and bool(np.isin(found, (0, 1)).all())
        )
    if wanted.kind == "f":
        return found.dtype.kind in "iuf"
    limits = np.iinfo(wanted)
    return (
        found.dtype.kind in "iu"
        and int(found.min()) >= limits.min
        and int(found.max()) <= limits.max
    )


def _plain(data: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"The data is no JSON: {error}.") from error
