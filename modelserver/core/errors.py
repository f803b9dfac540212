"""Every error that this package raises on purpose.

The tree:

    ModelServerError
    ├── StartError            the server does not start; one sentence on stderr
    │   └── SettingError
    ├── InstallError          a default model is not installed; one sentence on stderr
    ├── ConversionError       a model of another format cannot be made a frozen graph
    ├── ModelError            one model is FAILED with this reason, the others serve
    │   ├── LabelMapError
    │   ├── SidecarError
    │   ├── GraphError
    │   ├── DeviceFailed      the card, not the files: tried again
    │   └── ModelCrashed
    └── RequestError          answers one request, as application/problem+json
        ├── MissingField 400 · BadRequest 400 · UntrustedHost 400
        ├── UnknownLabel 400
        ├── Unauthorized 401 · LoopbackOnly 403 · CrossSite 403
        ├── ModelNotFound 404 · BodyTooSlow 408 · AmbiguousModel 409
        ├── UploadTooLarge 413 · ImageTooLarge 413
        ├── NotAnImage 415 · UnsupportedEncoding 415
        ├── UndecodableImage 422
        ├── ModelNotReady 503 · ModelFailed 503 · RunnerDied 503 · Overloaded 503
        ├── OutOfMemory 503 · StorageUnavailable 503 · StorageFull 507
        ├── DeadlinePassed 504 · ClientGone 503
        └── BadModelOutput 500 · RunFailed 500 · InternalError 500

A constructor takes the facts and builds the sentence. A request error's sentence goes
to the client, so it never holds a path, a traceback or TensorFlow's own words.
"""

from __future__ import annotations

from difflib import get_close_matches
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from modelserver.core.tensor_specs import Tensors

# Characters of a model's reason.
_MAX_REASON = 1000


class ModelServerError(Exception):
    """Base of everything this package raises on purpose."""


START_FAILED = 3
"""The exit code of a process that cannot start, and would not the next time either."""


class StartError(ModelServerError):
    """The server cannot start; the message is the one sentence the operator sees."""


class SettingError(StartError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: {allowed}")
        self.name = name


class InstallError(ModelServerError):
    """A default model cannot be installed; the message says why and what to do."""


class ConversionError(ModelServerError):
    """A model of another format cannot be turned into a frozen graph.

    It may be anyone's, and so may be words that are quoted from it: the message is one
    line, as a ``ModelError``'s is.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_one_line(reason))


class ModelError(ModelServerError):
    """A model cannot be served; the message is shown as its reason in ``/models``.

    The files may have been made by anyone, and so may be words that are quoted from
    them: the message is one line, without control characters, of 1000 characters at
    most.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_one_line(reason))


def _one_line(text: str) -> str:
    """Fold white space and escape unprintable characters as Python does."""
    line = " ".join(text[: 4 * _MAX_REASON].split())
    line = "".join(
        char if char.isprintable() else ascii(char)[1:-1]
        for char in line[: _MAX_REASON + 1]
    )
    return line if len(line) <= _MAX_REASON else line[: _MAX_REASON - 3] + "..."


class LabelMapError(ModelError):
    """A label map cannot be read."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        where = path.name if line is None else f"{path.name}, line {line}"
        super().__init__(f"{where}: {reason}")
        self.line = line


class SidecarError(ModelError):
    """The optional ``<prefix>.json`` beside a graph is not valid."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")


class GraphError(ModelError):
    """A graph cannot be served; the message says what is missing and what to do."""


class OtherTask(GraphError):
    """A sound graph does a task that no app serves, so numbers alone can be fed to it.

    Attributes:
        tensors: what it takes and gives.
    """

    def __init__(self, reason: str, tensors: Tensors) -> None:
        super().__init__(reason)
        self.tensors = tensors


class DeviceFailed(ModelError):
    """The card that a model was given cannot be used now; its files are not at fault.

    It may pass, so the load is tried again.
    """


class ModelCrashed(ModelError):
    """The model's process died; the message names the signal or the exit code.

    Attributes:
        from_outside: somebody killed it, so the graph may not be at fault.
    """

    def __init__(self, reason: str, *, from_outside: bool = False) -> None:
        super().__init__(reason)
        self.from_outside = from_outside


class RequestError(ModelServerError):
    """Answers one request.

    Attributes:
        status: the HTTP status.
        title: the same for every occurrence of the type (RFC 9457, section 3.1.3).
        slug: last part of the problem's ``type``.
        retry_after_s: seconds for the ``Retry-After`` header, ``None`` for no header.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    title: ClassVar[str] = "Request failed"
    slug: ClassVar[str] = "request-failed"
    retry_after_s: float | None = None


class BadRequest(RequestError):
    """The request is malformed: a bad multipart body or a bad field."""

    status = HTTPStatus.BAD_REQUEST
    title = "Bad request"
    slug = "bad-request"


class UntrustedHost(RequestError):
    """The request's Host is none that this server answers to."""

    status = HTTPStatus.BAD_REQUEST
    title = "Untrusted host"
    slug = "untrusted-host"

    def __init__(self) -> None:
        super().__init__(
            "This server does not answer to the name in the Host header; its operator "
            "lists names in TRUSTED_HOSTS."
        )


class MissingField(RequestError):
    """A form field that the route needs is not there."""

    status = HTTPStatus.BAD_REQUEST
    title = "Missing form field"
    slug = "missing-field"

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"The form field {field!r} is missing: {what}")


class UnknownLabel(RequestError):
    """None of the models that were asked has a label that was asked for."""

    status = HTTPStatus.BAD_REQUEST
    title = "Unknown label"
    slug = "unknown-label"

    def __init__(self, label: str, known: Iterable[str]) -> None:
        shown = label[:_LONGEST_LABEL]
        # Comparing with more takes longer than an answer may.
        names = list(islice(known, _MOST_COMPARED))
        folded = {name[:_LONGEST_LABEL].casefold(): name for name in names}
        part = shown.casefold()
        holding = [name for name in folded if part and part in name]
        near = (holding or get_close_matches(part, folded))[:_NEAREST]
        listed = "; ".join(folded[name] for name in near)
        nearest = f" The nearest: {listed}." if near else ""
        super().__init__(
            f"No model that was asked has the label {shown!r}.{nearest} "
            "GET /models/NAME/labels lists a model's labels."
        )


_LONGEST_LABEL = 100
_MOST_COMPARED = 2000
_NEAREST = 3


class Unauthorized(RequestError):
    """The token is missing or wrong."""

    status = HTTPStatus.UNAUTHORIZED
    title = "Token needed"
    slug = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "This server needs its API token, as 'Authorization: Bearer TOKEN' "
            "or as 'X-API-Key: TOKEN'."
        )


class LoopbackOnly(RequestError):
    """The client is on another machine, and no token or permission was set."""

    status = HTTPStatus.FORBIDDEN
    title = "This machine only"
    slug = "loopback-only"

    def __init__(self) -> None:
        super().__init__("Without API_TOKEN this server answers its own machine only.")


class CrossSite(RequestError):
    """A page of another site made a browser send this."""

    status = HTTPStatus.FORBIDDEN
    title = "Cross-site request"
    slug = "cross-site"

    def __init__(self) -> None:
        super().__init__(
            "A page of another site sent this. The sites that may are listed in "
            "CORS_ORIGINS by the operator."
        )


class ModelNotFound(RequestError):
    """No model of that name is served by this app."""

    status = HTTPStatus.NOT_FOUND
    title = "Model not found"
    slug = "model-not-found"

    def __init__(self, name: str, known: Iterable[str], hint: str = "") -> None:
        names = ", ".join(known)
        there = f"The models here are: {names}." if names else hint
        super().__init__(f"There is no model {name[:200]!r}. {there}".rstrip())


class AmbiguousModel(RequestError):
    """Several models have that name, and the request does not say of which kind."""

    status = HTTPStatus.CONFLICT
    title = "Several models of that name"
    slug = "ambiguous-model"

    def __init__(self, name: str, kinds: Iterable[str]) -> None:
        choices = " or ".join(f"?kind={kind}" for kind in kinds)
        super().__init__(f"Several models are called {name[:200]!r}: add {choices}.")


class BodyTooSlow(RequestError):
    """The request's body came too slowly, or stopped coming."""

    status = HTTPStatus.REQUEST_TIMEOUT
    title = "Body too slow"
    slug = "body-too-slow"

    def __init__(self) -> None:
        super().__init__("The request's body came too slowly and was given up.")


class UploadTooLarge(RequestError):
    """The request's body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Upload too large"
    slug = "upload-too-large"


class ImageTooLarge(RequestError):
    """The image has more pixels than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Image too large"
    slug = "image-too-large"

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(
            f"The image has {width} x {height} pixels; at most {max_pixels} are "
            "allowed. Send a smaller one."
        )


class UnsupportedEncoding(RequestError):
    """The body is compressed; bodies are read as they are, never unpacked."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported encoding"
    slug = "unsupported-encoding"

    def __init__(self) -> None:
        super().__init__(
            "The request's body has a Content-Encoding; send it without one."
        )


class NotAnImage(RequestError):
    """The upload's content is none of the image formats that are served."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Not an image"
    slug = "not-an-image"

    def __init__(self, also: Iterable[str] = ()) -> None:
        *names, last = ("JPEG", "PNG", "WebP", "GIF", "BMP", *also)
        super().__init__(f"The file is not a {', '.join(names)} or {last} image.")


class UndecodableImage(RequestError):
    """The upload is an image of a known format but cannot be decoded."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Image cannot be decoded"
    slug = "undecodable-image"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The image cannot be decoded: {reason}")


class ModelNotReady(RequestError):
    """The model is loading or its process is being restarted.

    Without a name, so are all models.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Model not ready"
    slug = "model-not-ready"

    def __init__(self, name: str, state: str, retry_after_s: float = 2.0) -> None:
        which = f"The model {name!r} is" if name else "All models are"
        super().__init__(f"{which} {state}; try again shortly.")
        self.retry_after_s = retry_after_s


class ModelFailed(RequestError):
    """The model could not be loaded, or died too often; ``/models`` tells why."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Model failed"
    slug = "model-failed"

    def __init__(self, name: str, retry_after_s: float = 60.0) -> None:
        super().__init__(f"The model {name!r} has failed; GET /models tells why.")
        self.retry_after_s = retry_after_s


class RunnerDied(RequestError):
    """The model's process died while it had the request; it is being restarted.

    So did the model's if the engine's process died, which is named then.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Model process died"
    slug = "runner-died"
    retry_after_s = 2.0

    def __init__(self, retry_after_s: float = 2.0, of: str = "model") -> None:
        super().__init__(f"The {of}'s process ended during this request; it restarts.")
        self.retry_after_s = retry_after_s


class Overloaded(RequestError):
    """The model's queue is full; refused before any work was done."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Overloaded"
    slug = "overloaded"

    def __init__(
        self, retry_after_s: float = 1.0, what: str = "The model's queue is full"
    ) -> None:
        super().__init__(f"{what}; try again shortly.")
        self.retry_after_s = retry_after_s


class OutOfMemory(RequestError):
    """The device ran out of memory for this image alone."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Device out of memory"
    slug = "out-of-memory"
    retry_after_s = 2.0

    def __init__(self) -> None:
        super().__init__("The model's device ran out of memory; try a smaller image.")


class DeadlinePassed(RequestError):
    """No answer came within ``REQUEST_TIMEOUT_S``."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    title = "Deadline passed"
    slug = "deadline-passed"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The model did not answer within {seconds:g} seconds.")


class ClientGone(RequestError):
    """The client closed its connection while its image waited; nobody reads this."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Client gone"
    slug = "client-gone"

    def __init__(self) -> None:
        super().__init__("The client went away before its image was run.")


class StorageUnavailable(RequestError):
    """The upload folder is gone or cannot be written."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Upload folder unavailable"
    slug = "storage-unavailable"
    retry_after_s = 10.0

    def __init__(self) -> None:
        super().__init__("The server cannot write to its upload folder at the moment.")


class StorageFull(RequestError):
    """The upload folder's filesystem is full."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    title = "Upload folder full"
    slug = "storage-full"
    retry_after_s = 10.0

    def __init__(self) -> None:
        super().__init__("The server's upload folder is full.")


class BadModelOutput(RequestError):
    """The model answered with arrays of a wrong shape or kind."""

    title = "Bad model output"
    slug = "bad-model-output"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The model {name!r} gave an answer of no use: {reason}")


class RunFailed(RequestError):
    """The graph refused this image; the server's log has TensorFlow's words."""

    title = "Model run failed"
    slug = "run-failed"

    def __init__(self) -> None:
        super().__init__("The model could not be run on this image.")


class InternalError(RequestError):
    """A bug of the server's own; the log has it under the request's number."""

    title = "Internal server error"
    slug = "internal-error"

    def __init__(self, number: str | None) -> None:
        super().__init__(
            f"An error of the server's own; its log has more under request {number}."
        )
