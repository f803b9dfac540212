"""Requests on their way: read as their bytes come, without ever waiting for more.

gunicorn's parser alone judges a head. It is asked once a whole head seems to be there,
and now and then before, so that nonsense is refused early.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from werkzeug.exceptions import RequestEntityTooLarge

from modelserver.core.errors import RequestError
from modelserver.web.server.bodies import Body, Broken, Chunks, NotYet, Source
from modelserver.web.server.request_heads import HEAD_BYTES
from modelserver.web.server.upload_pace import BODY_S, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.engine.uploads import Spool

_HEAD_END = b"\r\n\r\n"
# Some clients end a form's text, or the body, with a line end that its length leaves
# out. RFC 9112, 2.2, has servers ignore "at least one" such line; a program that prints
# a line after a text that ends in an empty one sends three.
_EMPTY_LINE = re.compile(rb"\r?\n")
_MOST_EMPTY_LINES = 4
# How a handshake begins (RFC 8446, 5.1); no request does.
_TLS = b"\x16\x03"
# What gunicorn's readers of a body raise.
_BROKEN = (ParseException, NoMoreData)


class TlsInsteadOfPlainHttp(ParseException):  # type: ignore[misc] # has no types
    """A client speaks TLS, and this port does not."""


def _says_close(request: Request) -> bool:
    """Return whether a client wants its connection closed after the answer.

    gunicorn sees that only in a header of its own, and Perl's LWP sends "TE, close".
    """
    values = [value for name, value in request.headers if name == "CONNECTION"]
    return any(
        option.strip(" \t").lower() == "close"
        for value in values
        for option in value.split(",")
    )


class Rules(NamedTuple):
    """What becomes of bodies.

    Attributes:
        spool: the upload folder.
        most: bytes that one may have.
        memory: returns how many bytes of one are kept in memory.
        wanted: returns whether the app would read a request's body at all.
        form_key: returns what tells whether the beginning of a request's body has the
            token, ``None`` if it need not be there.
    """

    spool: Spool
    most: int
    memory: Callable[[], int]
    wanted: Callable[[Request], bool]
    form_key: Callable[[Request], Callable[[bytes], bool] | None] = lambda _: None


class Arrival:
    """Reads the requests of one connection, one after the other. Not thread-safe.

    Stands where gunicorn has a connection's parser.

    Args:
        cfg: gunicorn's configuration.
        client: the address.
        rules: for bodies.

    Attributes:
        ready: whether a request can be answered: it is whole, or its body is broken or
            nobody's concern; or no request can be read, and ``error`` says why.
        request: the present one, once its head was read.
        error: why there is no request.
        pace: how fast the present part of it comes.
        head_at: when its head was read, in seconds of ``time.perf_counter``.
        is_awaited: whether the client waits to hear that its body is wanted.
    """

    def __init__(self, cfg: Any, client: Any, rules: Rules) -> None:
        self.ready = False
        self.request: Request | None = None
        self.error: Exception | None = None
        self.pace = Pace(time.monotonic())
        self.is_awaited = False
        self.head_at = 0.0
        self._cfg = cfg
        self._client = client
        self._rules = rules
        self._count = 0
        # What came, and is no part of a request yet.
        self._unread: bytes | bytearray = b""
        self._ended = False
        # How far no end of a head was found, and when to ask the parser all the same.
        self._searched = 0
        self._ask_at = 0
        self._empty_lines = 0
        self._body: Body | None = None
        self._chunks: Chunks | None = None
        self._missing = 0

    @property
    def begun(self) -> bool:
        """Whether some of a request is there; an empty line before it is none of it."""
        return self.request is not None or self._unread not in (b"", b"\r")

    @property
    def start(self) -> bytes:
        """What came of a request whose head is not read."""
        return bytes(self._unread[:HEAD_BYTES])

    def take(self, data: bytes) -> bool:
        """Take bytes that came, nothing at the client's end.

        Returns:
            ``ready``.
        """
        now = time.monotonic()
        self._ended = not data
        if not self.begun:
            self.pace.begin(now)
        self.pace.add(len(data), now)
        if self.request is not None and self._body is not None:
            self._take_body(self.request, self._body, data)
        else:
            self._keep(data)
            self._take_head()
        return self.ready

    def _keep(self, data: bytes) -> None:
        # The first piece is all there is of most requests, and is not copied.
        if not self._unread:
            self._unread = data
        elif isinstance(self._unread, bytes):
            self._unread = bytearray(self._unread + data)
        else:
            self._unread += data

    def _skip_empty_lines(self) -> None:
        """Drop the empty lines before a request, but for a flood of them."""
        if not self._count and self._cfg.proxy_protocol != "off":
            return  # a proxy's binary line begins with two
        while self._empty_lines < _MOST_EMPTY_LINES:
            line = _EMPTY_LINE.match(self._unread)
            if line is None:
                return
            self._unread = self._unread[line.end() :]
            self._empty_lines += 1

    def _take_head(self) -> None:
        self._skip_empty_lines()
        if not self._unread and not self._ended:
            return
        if self._unread.startswith(_TLS):
            # It may hold no line end, and would be waited for.
            self._fail(TlsInsteadOfPlainHttp())
            return
        end = self._unread.find(_HEAD_END, self._searched)
        while end >= 0:
            if self._parse(end + len(_HEAD_END)):
                return
            # Not a head's, but one in the binary line of a proxy's protocol.
            end = self._unread.find(_HEAD_END, end + 1)
        size = len(self._unread)
        self._searched = max(0, size - len(_HEAD_END) + 1)
        if self._ended or size >= self._ask_at:
            self._ask_at = 2 * size
            self._parse(size)

    def _parse(self, size: int) -> bool:
        """Have gunicorn read a head from the first bytes; return if there is a result.

        They are all that its parser is given: it copies them several times.
        """
        ended = self._ended and size == len(self._unread)
        source = Source(bytes(self._unread[:size]), ended=ended)
        try:
            self.request = Request(self._cfg, source, self._client, self._count + 1)
        except NotYet:
            return False
        except Exception as error:  # noqa: BLE001 - none may end the worker's main loop
            self._fail(error)
            return True
        if _says_close(self.request):
            self.request.force_close()
        self._count += 1
        self._empty_lines = 0
        self.head_at = time.perf_counter()
        rest = source.rest() + bytes(self._unread[size:])
        self._unread = b""
        self._begin_body(self.request, rest)
        return True

    def _begin_body(self, request: Request, rest: bytes) -> None:
        reader = request.body.reader
        is_chunked = isinstance(reader, ChunkedReader)
        self._chunks = Chunks(reader) if is_chunked else None
        self._missing = 0 if is_chunked else reader.length
        rules = self._rules
        self._body = Body(rules.spool, rules.memory(), rules.form_key(request))
        if self._missing > self._rules.most:
            self._stop(request, self._body, RequestEntityTooLarge())
            return
        self._take_body(request, self._body, rest)
        if self.ready:
            return
        if not self._rules.wanted(request):
            self._stop(request, self._body, NoMoreData())
            return
        self.pace.begin(time.monotonic(), BODY_S)
        # Once the body is there, gunicorn would say it, too late.
        self.is_awaited = request._expected_100_continue  # noqa: SLF001 - gunicorn's
        request._expected_100_continue = False  # noqa: SLF001 - the same

    def _take_body(self, request: Request, body: Body, data: bytes) -> None:
        try:
            rest = self._add(body, data)
        except (*_BROKEN, RequestError, RequestEntityTooLarge) as error:
            self._stop(request, body, error)
            return
        if rest is None:
            return
        self._unread = rest
        if self._missing:
            request.force_close()
        request.body = body.stream()
        self.ready = True

    def _add(self, body: Body, data: bytes) -> bytes | None:
        """Add data to the body; return what follows it, ``None`` before its end."""
        if self._chunks is not None:
            rest = self._chunks.take(data, body, ended=self._ended)
            if self._chunks.size > self._rules.most:
                raise RequestEntityTooLarge
            return rest
        piece = data[: self._missing]
        self._missing -= len(piece)
        if piece:
            body.add(piece)
        # At the client's end it is the app that notices what is missing.
        return None if self._missing and not self._ended else data[len(piece) :]

    def _stop(self, request: Request, body: Body, error: Exception) -> None:
        """Read no more of a body; the app gets the error if it reads so far."""
        request.body = Broken(body.stream(), error)
        request._expected_100_continue = False  # noqa: SLF001 - gunicorn's
        request.force_close()
        self.ready = True

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.ready = True

    def give_up(self, error: Exception) -> None:
        """Wait no longer for the rest of a request; it is ``ready`` from then."""
        if self.request is not None and self._body is not None:
            self._stop(self.request, self._body, error)
        else:
            self._fail(error)

    def abandon(self) -> None:
        """Note that the client is gone: nobody is there to be answered."""
        self.close()
        self.request = self._body = None
        self._fail(NoMoreData())

    def __next__(self) -> Request:
        """Return the request that is ready, as gunicorn asks for it.

        Raises:
            Exception: ``error``.
        """
        if self.request is None:
            raise self.error or StopIteration
        return self.request

    def finish_body(self, deadline: float | None = None) -> bool:  # noqa: ARG002
        """Return that nothing of the body is left to be read, as gunicorn asks."""
        return True

    def go_on(self) -> None:
        """Turn to the next request, of which some or all may be there; see ``ready``.

        The body of the one before is given up.
        """
        self.close()
        self.request = self._body = self._chunks = None
        self.ready = False
        self._searched = self._ask_at = 0
        if self._unread or self._ended:
            self.pace.begin(time.monotonic())
            self._take_head()

    def close(self) -> None:
        """Give the present request up. Idempotent."""
        if self._body is not None:
            self._body.close()
