"""Load from many clients at a time, each of which waits for its answer.

Closed-loop: a client sends its next request when it has the last one's answer, so
there are never more requests under way than clients.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from modelserver.tools.bench.connections import Connection
from modelserver.tools.bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.tools.bench.targets import Target

NO_ANSWER = 0
"""The status of a request whose connection broke, or timed out."""

_TIMING = re.compile(rb"\r\nserver-timing:([^\r]*)", re.IGNORECASE)


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
    """What some clients saw in some seconds.

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

    Args:
        target: each client starts with another of its requests, then takes them in
            turn.
        clients: threads, each with a connection that is open before the first request.
        seconds: after which no client sends another request. They start when each
            client has had an answer: before, a slow server is just filling up, which
            would count against it. Answers before and after are left out unless they
            are no 200.
        requests: stop after so many, all clients together, however soon; all count.

    Raises:
        BenchError: nobody listens, or what answers is no such server.
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
            threading.Thread(target=self._client, args=(i,), name=f"client-{i}")
            for i in range(clients)
        ]
        for thread in self.threads:
            thread.daemon = True  # Ctrl-C must not wait for a slow model

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
        samples = [sample for one in self._samples for sample in one]
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
