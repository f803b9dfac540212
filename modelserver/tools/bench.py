"""How fast a running server answers: load from clients that wait for each answer.

The load generator shares the machine with the server, so it does little: a thread and
a kept connection a client, prepared requests, and nothing computed before the end. URL,
token, headers and form are the client's. The connection is a socket, because httpx's
transport takes 0.8 ms of a core for each photo and ``http.client`` 0.5 ms, against 0.2
ms: as much as 4 % of a fast model's rate on two cores.

Imports neither TensorFlow nor a web framework.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import socket
import ssl
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from modelserver.client import calls, connections
from modelserver.client.errors import ClientError
from modelserver.core.errors import ModelServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

STAGES = ("wait", "decode", "queue", "run", "post")
"""The entries of ``Server-Timing`` that are a stage of an evaluation."""
NO_ANSWER = 0
"""The status of a request whose connection broke or timed out."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_TIMING = re.compile(rb"\r\nserver-timing:([^\r]*)", re.IGNORECASE)
_STAGE = re.compile(rb"\b(\w+);dur=([\d.]+)")
_CHUNK_BYTES = _MAX_HEAD_BYTES = 64 * 1024
_WARM_UP_S = 1.0
_ASK_S = 5.0


class BenchError(ModelServerError):
    """A server cannot be measured; the sentence says why and how to mend it."""


def read_photo(path: Path) -> bytes:
    """Return a photo's bytes.

    Raises:
        BenchError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(
            f"The photo {str(path)!r} cannot be read: {error.strerror}."
        ) from error


@dataclass(frozen=True)
class Target:
    """A server and the requests for it. Immutable, so safe to share between threads.

    Attributes:
        host, port: where to connect.
        secure: whether to speak TLS.
        requests: whole HTTP requests, head and body; a client sends them in turn.
        timeout_s: the longest wait for a connection, or for the next part of an answer.
    """

    host: str
    port: int
    secure: bool = False
    requests: tuple[bytes, ...] = ()
    timeout_s: float = connections.DEFAULT_TIMEOUT_S

    @classmethod
    def of(
        cls,
        url: str,
        path: str,
        model: str,
        photos: Iterable[bytes],
        *,
        token: str = "",
    ) -> Target:
        """Prepare one POST for each photo.

        Args:
            url: of the server, such as ``http://127.0.0.1:5000``; its own path stands
                before ``path``.
            path: of the route; left out if the URL ends in it.
            model: the form's ``modelname``.
            photos: the image files' bytes.
            token: for servers that require one.

        Raises:
            BenchError: the URL is invalid, or the token cannot stand in a header.
        """
        try:
            server = connections.Server.of(url, token, cls.timeout_s)
        except ClientError as error:
            raise BenchError(str(error)) from error
        route = "" if server.url.path.endswith(path) else path
        requests = tuple(_request(server, route, model, photo) for photo in photos)
        secure = server.url.scheme == "https"
        port = server.url.port or (443 if secure else 80)
        return cls(server.url.host, port, secure, requests)

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


def _request(server: connections.Server, route: str, model: str, photo: bytes) -> bytes:
    """Return a whole request of the client's, as it goes over a connection."""
    content, kind = calls.form(calls.fields(model, {}), photo)
    call = calls.Call(
        "POST",
        route,
        lambda answer: answer.status_code,
        content,
        {"Content-Type": kind},
    )
    request = server.request(call)
    lines = [b"POST %s HTTP/1.1" % request.url.raw_path]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*lines, b"", content])


class Answer(NamedTuple):
    """An answer; ``head`` is status line and headers, as sent."""

    status: int
    head: bytes
    body: bytes


class Connection:
    """A connection that is made when needed and kept. For one thread at a time.

    Reads the answers of ModelServer and its like: of HTTP/1.1, with a length.

    Args:
        target: where to connect; its requests are for the caller to send.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None

    def open(self) -> socket.socket:
        """Connect, unless it is connected.

        Raises:
            BenchError: no server listens there, or there is no such host.
        """
        if self._socket is None:
            try:
                self._socket = _connect(self._target)
            # A host's name may be none at all, which is a UnicodeError.
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or error
                raise BenchError(
                    f"No server answers at {self._target.address}: {why}."
                    " Start it, or say where it is with --url."
                ) from error
        return self._socket

    def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for the whole answer.

        Raises:
            BenchError: no connection, or the answer is not of HTTP/1.1 with a length.
            OSError: the connection broke or was too slow; the next call makes another.
        """
        connected = self.open()
        try:
            # A server may refuse, and close, before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(request)
            answer = _read(connected)
        except BaseException:
            self.close()
            raise
        if _CLOSE.search(answer.head):
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection. Idempotent; it may be used again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connect(target: Target) -> socket.socket:
    made = socket.create_connection((target.host, target.port), target.timeout_s)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not target.secure:
        return made
    try:
        context = ssl.create_default_context()
        return context.wrap_socket(made, server_hostname=target.host)
    except BaseException:
        made.close()
        raise


def _read(connected: socket.socket) -> Answer:
    buffer = bytearray()
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > _MAX_HEAD_BYTES:
            raise BenchError("What answers is no HTTP server: its headers do not end.")
        buffer += _receive(connected)
    head = bytes(buffer[:end])
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if status is None or length is None:
        raise BenchError(
            "What answers is not measured by this: an answer of HTTP/1.1 with a"
            " Content-Length is needed."
        )
    whole = end + 4 + int(length[1])
    while len(buffer) < whole:
        buffer += _receive(connected)
    return Answer(int(status[1]), head, bytes(buffer[end + 4 : whole]))


def _receive(connected: socket.socket) -> bytes:
    part = connected.recv(_CHUNK_BYTES)
    if not part:
        raise ConnectionResetError("the server closed the connection")
    return part


def check(target: Target) -> None:
    """Send each request once; a server that refuses one is not measured.

    Raises:
        BenchError: there is no answer, or none with 200; with the server's sentence.
    """
    with contextlib.closing(Connection(target)) as connection:
        for request in target.requests:
            try:
                answer = connection.ask(request)
            except OSError as error:
                raise BenchError(
                    f"The server at {target.address} breaks the connection, or takes"
                    f" too long: {error}."
                ) from error
            if answer.status != HTTPStatus.OK:
                raise BenchError(
                    f"The server answers {answer.status}: {_detail(answer.body)}"
                )


def _detail(body: bytes) -> str:
    """Return a problem's detail, on one line of at most 300 characters."""
    try:
        text = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return " ".join(str(text).split())[:300] or "and says nothing more."


class Sample(NamedTuple):
    """One request.

    Attributes:
        status: the answer's, or ``NO_ANSWER``.
        ended_s: when the answer was whole, in seconds from the clock's start.
        took_ms: from the first byte sent to the last one read.
        timing: the answer's ``Server-Timing``, as sent.
    """

    status: int
    ended_s: float
    took_ms: float
    timing: bytes = b""


@dataclass(frozen=True)
class Round:
    """The requests of some clients in some seconds.

    Attributes:
        seconds: how long the round was.
        samples: the requests that ended within it, and every one without a 200.
    """

    clients: int
    seconds: float
    samples: tuple[Sample, ...]


def run(
    target: Target, clients: int, seconds: float, *, requests: int | None = None
) -> Round:
    """Let some clients ask for some seconds, or for a number of requests.

    A client sends its next request when it has the last one's answer, so there are
    never more requests under way than clients.

    Args:
        target: each client starts with another of its requests, then takes them in
            turn.
        clients: threads, each with a connection that is open before the first request.
        seconds: after which no client sends another request. They start when each
            client has had an answer: before, a slow server is just filling up, which
            would count against it. Answers before and after are left out unless they
            are no 200.
        requests: stop after this number, all clients together; all count.

    Raises:
        BenchError: no server listens there, or the answer is not of HTTP/1.1.
    """
    load = _Load(target, clients, seconds, requests)
    try:
        load.connect()
        for thread in load.threads:
            thread.start()
        for thread in load.threads:
            thread.join()
    finally:
        load.close()
    return load.result()


class _Load:
    """The state of one ``run``; times are of ``perf_counter`` until the result."""

    def __init__(
        self, target: Target, clients: int, seconds: float, requests: int | None
    ) -> None:
        self._target = target
        self._seconds = seconds
        self._bounded = requests is not None
        # Taking from one iterator is atomic, so these count for all clients.
        self._leave: Iterator[object] = (
            itertools.count() if requests is None else iter(range(requests))
        )
        self._arrivals = itertools.count(1)
        self._connections = [Connection(target) for _ in range(clients)]
        self._samples: list[list[Sample]] = [[] for _ in range(clients)]
        self._faults: list[BenchError] = []
        self._started: float | None = None
        self._barrier = threading.Barrier(clients)
        self.threads = [
            # Daemons, because Ctrl-C must not wait for a slow model.
            threading.Thread(
                target=self._client, args=(i,), name=f"client-{i}", daemon=True
            )
            for i in range(clients)
        ]

    def connect(self) -> None:
        for connection in self._connections:
            connection.open()
        if self._bounded:
            self._started = time.perf_counter()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _client(self, number: int) -> None:
        connection, samples = self._connections[number], self._samples[number]
        requests = self._target.requests
        first = number % len(requests)
        turn = itertools.cycle(requests[first:] + requests[:first])
        self._barrier.wait()
        try:
            while not self._over() and next(self._leave, None) is not None:
                samples.append(self._ask(connection, next(turn)))
                if len(samples) == 1:
                    self._arrive()
        except BenchError as error:
            self._faults.append(error)
            samples.append(Sample(NO_ANSWER, time.perf_counter(), 0.0))
            if len(samples) == 1:
                self._arrive()

    def _arrive(self) -> None:
        """Start the clock when the last client has its first answer."""
        if next(self._arrivals) == len(self._connections) and not self._bounded:
            self._started = time.perf_counter()

    def _over(self) -> bool:
        started = self._started
        return started is not None and time.perf_counter() - started >= self._seconds

    def _ask(self, connection: Connection, request: bytes) -> Sample:
        begun = time.perf_counter()
        try:
            status, head, _ = connection.ask(request)
        except OSError:
            status, head = NO_ANSWER, b""
        ended = time.perf_counter()
        found = _TIMING.search(head)
        timing = found[1] if found else b""
        return Sample(status, ended, (ended - begun) * 1000, timing)

    def result(self) -> Round:
        samples = list(itertools.chain.from_iterable(self._samples))
        if self._faults and not any(sample.status for sample in samples):
            raise self._faults[0]
        start = self._started or 0.0
        samples = [s._replace(ended_s=s.ended_s - start) for s in samples]
        took = max((sample.ended_s for sample in samples), default=0.0)
        seconds = took if self._bounded else self._seconds
        counted = (
            sample
            for sample in samples
            if 0 < sample.ended_s <= seconds or sample.status != HTTPStatus.OK
        )
        return Round(len(self._connections), seconds, tuple(counted))


@dataclass(frozen=True)
class Figures:
    """The figures of a number of clients: medians over the rounds.

    Attributes:
        answers: with status 200, in all rounds together.
        errors: other answers in all rounds, by status; ``no answer`` if a connection
            broke or timed out.
        per_second: answers with status 200 a second.
        p50_ms, p90_ms, p99_ms: how long those took; ``None`` without any.
        stages: median milliseconds of each stage, by the server's ``Server-Timing``;
            empty if it sends none.
    """

    clients: int
    answers: int
    errors: dict[str, int]
    per_second: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    stages: dict[str, float]


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that a share of all values do not exceed.

    Args:
        share: in (0, 1], such as 0.99.

    Returns:
        ``None`` without values.
    """
    ordered = sorted(values)
    if not ordered:
        return None
    # Rounded, so that 0.9 of 10 values, 9.000000000000002 or so, is the ninth.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def stages(timing: bytes) -> dict[str, float]:
    """Return the milliseconds of each stage that a ``Server-Timing`` header names."""
    found = {name.decode(): float(ms) for name, ms in _STAGE.findall(timing)}
    return {name: found[name] for name in STAGES if name in found}


def summarise(rounds: Sequence[Round]) -> Figures:
    """Return the medians over rounds of the same number of clients."""
    every = [sample for some in rounds for sample in some.samples]
    good = [[s for s in some.samples if s.status == HTTPStatus.OK] for some in rounds]
    bad = Counter(
        "no answer" if s.status == NO_ANSWER else str(s.status)
        for s in every
        if s.status != HTTPStatus.OK
    )
    rates = [
        len(samples) / some.seconds if samples else 0.0
        for samples, some in zip(good, rounds, strict=True)
    ]
    p50, p90, p99 = (
        _median(quantile((s.took_ms for s in samples), share) for samples in good)
        for share in (0.50, 0.90, 0.99)
    )
    timings = [stages(sample.timing) for samples in good for sample in samples]
    medians = {name: _median(timing.get(name) for timing in timings) for name in STAGES}
    return Figures(
        clients=rounds[0].clients,
        answers=sum(map(len, good)),
        errors=dict(sorted(bad.items())),
        per_second=statistics.median(rates),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        stages={name: ms for name, ms in medians.items() if ms is not None},
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def measure(
    target: Target,
    counts: Sequence[int],
    *,
    seconds: float = 5.0,
    rounds: int = 3,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _step: None,
) -> list[Figures]:
    """Measure each number of clients, round by round, after a short warm-up of each.

    The rounds go over all counts in turn, so that a machine that gets slower meanwhile
    is slower for every count.

    Args:
        counts: numbers of clients.
        seconds: of each round.
        progress: called with steps done, steps in all, and the next step.

    Raises:
        BenchError: see ``run``.
    """
    total = (rounds + 1) * len(counts)
    results: list[list[Round]] = [[] for _ in counts]
    for step in range(total):
        number, index = divmod(step, len(counts))
        clients = counts[index]
        many = f"{clients} client" + "s" * (clients != 1)
        if number == 0:
            progress(step, total, f"{many}, warming up")
            run(target, clients, min(_WARM_UP_S, seconds))
        else:
            progress(step, total, f"{many}, round {number} of {rounds}")
            results[index].append(run(target, clients, seconds))
    return [summarise(some) for some in results]


def is_listening(url: str) -> bool:
    """Return whether a server takes connections at a URL."""
    try:
        target = Target.of(url, "/", "", ())
        socket.create_connection((target.host, target.port), _ASK_S).close()
    except (OSError, UnicodeError, BenchError):
        return False
    return True


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
