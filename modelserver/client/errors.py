"""The errors of a call.

The tree:

    ClientError                base; ``problem`` is the server's answer, if it gave one
    ├── BadImage               the argument is no photo that can be sent
    ├── NoSingleModel          none was named, and the server has none or several
    ├── Unreachable            nobody answers there
    ├── ConnectionBroken       the connection broke before the answer was whole
    ├── TimedOut               no answer within ``timeout``
    ├── BadAnswer              the answer is not ModelServer's
    └── Refused                the server answered with a problem
        ├── Unauthorized       401, 403: the token is missing or wrong
        ├── NotFound           404, 405: no such model, or no such route
        ├── Rejected           any other 4xx: the photo or an option is at fault
        └── ServerFault        5xx: it may work at another time
            └── Unavailable    502, 503: full, loading or restarting; tried again
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from modelserver.core.errors import ModelServerError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Problem:
    """A problem that a server answered, as in RFC 9457.

    Attributes:
        type: names the kind of problem; ``/problems/...`` of the server explains it.
        title: the kind in words.
        status: of the HTTP answer.
        detail: a sentence about this very request.
        request_id: the request's id in the server's log; empty if it sends none.
    """

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""


class ClientError(ModelServerError):
    """The base of the client's errors."""

    problem: Problem | None = None


class BadImage(ClientError):
    """The argument is no photo that can be sent; nothing was sent."""


class NoSingleModel(ClientError):
    """No model was named, and the server has none for the task, or several."""

    def __init__(self, names: Sequence[str]) -> None:
        known = f"several: {', '.join(names)}" if names else "none"
        super().__init__(
            f"A model must be named; for this task the server has {known}."
        )


class Unreachable(ClientError):
    """Nobody answers there."""


class ConnectionBroken(ClientError):
    """The connection broke before the answer was whole."""


class TimedOut(ClientError):
    """The server took longer than the client's timeout."""


class BadAnswer(ClientError):
    """The answer is not ModelServer's, or this client does not understand it."""


class Refused(ClientError):
    """The server answered with a problem.

    Attributes:
        problem: in the answer.
        retry_after: its ``Retry-After``, as sent; empty without one.
    """

    problem: Problem

    def __init__(self, problem: Problem, retry_after: str = "") -> None:
        super().__init__(f"{problem.status}: {problem.detail or problem.title}")
        self.problem = problem
        self.retry_after = retry_after


class Unauthorized(Refused):
    """The token is missing or wrong."""


class NotFound(Refused):
    """The server has no such model, or no such route."""


class Rejected(Refused):
    """The photo or an option is at fault; it will be refused again."""


class ServerFault(Refused):
    """The server could not do it."""


class Unavailable(ServerFault):
    """The server, or the model, is full, loading or restarting."""


_KINDS: dict[int, type[Refused]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Unauthorized,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.METHOD_NOT_ALLOWED: NotFound,
    HTTPStatus.BAD_GATEWAY: Unavailable,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
}


def refusal(problem: Problem, retry_after: str = "") -> Refused:
    """Return the error for a problem's status, which is 400 or more."""
    default = (
        Rejected if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else ServerFault
    )
    return _KINDS.get(problem.status, default)(problem, retry_after)
