"""Messages between a door and the engine.

A door numbers its requests. The engine answers a number as often as models were asked,
in any order; a question is answered once. Times are ``time.perf_counter``'s, which on
Linux is one clock for all processes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from modelserver.core import errors
from modelserver.core.errors import InternalError, RequestError
from modelserver.core.messages.runs import dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Topic: TypeAlias = Literal[
    "names",
    "models",
    "model",
    "labels",
    "tensors",
    "statistics",
    "load",
    "unload",
    "ready",
    "page",
    "metrics",
]
"""What a door may ask; ``DoorSession`` says what each is answered with."""


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """The options of a request, as the client gave them; see ``tasks.options``."""

    min_confidence: float | None = None
    labels: tuple[str, ...] = ()
    max_results: int | None = None
    pixel: bool = False
    top_k: int | None = None


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """Numbers in an upload, which a graph is fed as they are.

    Attributes:
        dtype: as NumPy writes it; numbers of 1 to 8 bytes.
        shape: each side 1 at least.
        offset: bytes of the upload before the first number.
        name: of the graph's input, as the client calls it; empty for the only one.
        outputs: names of those that are wanted; empty for all.
    """

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)], ...]
    offset: Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)] = 0
    name: str = ""
    outputs: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers.

        Raises:
            TypeError: it is of no numbers.
        """
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize


class Evaluate(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Door to engine, with the upload's descriptor: have models look at a photo.

    Attributes:
        number: of the request, never used before by this door.
        kind: the task.
        models: names, each once.
        among: all models whose labels count, if these are only some of a request's.
        seconds: how long the caller waits in all.
        until: when that ends.
        picture: answer with the photo and the marks on it, in this format; one model.
        request_id: for log lines.
        tensor: the upload holds these numbers, no photo; one model.
    """

    number: int
    kind: str
    models: tuple[str, ...]
    seconds: float
    until: float
    wish: Wish = Wish()
    among: tuple[str, ...] = ()
    picture: Literal["JPEG", "PNG"] | None = None
    request_id: str = ""
    tensor: Tensor | None = None


class Gone(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Door to engine: nobody waits for this request any more."""

    number: int


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Door to engine: a question about models.

    Attributes:
        name: the model's, where the topic is about one.
        kind: of task, where it is about one kind; empty for any.
        accept: the client's ``Accept``, for metrics.
    """

    number: int
    topic: Topic
    name: str = ""
    kind: str = ""
    accept: str = ""


class Counts(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Door to engine: how many answers it gave since it last said so.

    Attributes:
        answers: route, model, status, number.
        refusals: by problem's type.
        in_dialects: route, model, status, dialect, number.
    """

    answers: tuple[tuple[str, str, str, int], ...] = ()
    refusals: dict[str, int] = {}
    in_dialects: tuple[tuple[str, str, str, str, int], ...] = ()


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Door to engine, once, if it listens itself: where.

    Attributes:
        address: as a socket's ``getsockname`` gives it.
    """

    address: tuple[str, int] | str

    @classmethod
    def of(cls, address: Any) -> Hello:
        """Return the message for a socket's ``getsockname``."""
        return cls(address if isinstance(address, str) else tuple(address[:2]))


ToEngine: TypeAlias = Evaluate | Gone | Ask | Counts | Hello


class Seen(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Engine to door: what a model sees in a photo.

    Attributes:
        number: of the request.
        model: its name.
        title: the same, with its kind where another kind has that name, too.
        answer: in the contract's shape, as JSON; empty where a picture was asked for;
            to numbers, each output by its name, an ``Array`` as msgpack.
        picture: the photo with marks, else empty.
        width, height: of the upright photo, in pixels.
        orientation: the EXIF orientation that was applied, 1 to 8.
        batch: images that were run together.
        digest: SHA-256 of the model's graph, labels and sidecar.
        wait, decode, queue, run, post: milliseconds that each stage took.
        started: when the first of them began.
        below: findings below the least confidence, where the answer is empty for it.
        device: that the model runs on, such as ``CPU``.
    """

    number: int
    model: str
    title: str
    answer: bytes
    width: int
    height: int
    orientation: int
    batch: int
    digest: str
    wait: float
    decode: float
    queue: float
    run: float
    post: float
    started: float
    picture: bytes = b""
    below: int | None = None
    device: str = ""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Engine to door: why there is no answer of a model, or to a question.

    Attributes:
        model: its name; empty where the whole request, or a question, is refused.
        error: name of the class.
    """

    number: int
    model: str
    title: str
    error: str
    detail: str
    retry_after_s: float | None = None

    def rebuild(self) -> RequestError:
        """Return the error that this was made of."""
        kind = _KINDS.get(self.error, InternalError)
        error = kind.__new__(kind)
        error.args = (self.detail,)
        if self.retry_after_s != kind.retry_after_s:
            error.retry_after_s = self.retry_after_s
        return error


class Told(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Engine to door: the answer to a question, msgpack of what its topic says."""

    number: int
    body: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Engine to door, before all else: it takes messages from now on.

    The socket outlives the engine, so a door that is connected knows nothing yet.
    """


ToDoor: TypeAlias = Seen | Refused | Told


def refused(
    number: int, error: RequestError, model: str = "", title: str = ""
) -> Refused:
    """Return a message of an error."""
    kind = next(k for k in type(error).__mro__ if k.__name__ in _KINDS)
    return Refused(number, model, title, kind.__name__, str(error), error.retry_after_s)


def _kinds(base: type[RequestError]) -> Sequence[type[RequestError]]:
    return [base, *(one for kind in base.__subclasses__() for one in _kinds(kind))]


_KINDS = {
    kind.__name__: kind
    for kind in _kinds(RequestError)
    if kind.__module__ == errors.__name__
}
