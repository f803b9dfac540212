"""Load that leaves at a fixed rate, whether or not earlier requests were answered.

So do many clients who know nothing of each other: a server that gets slow gets no less
to do. A connection a request; all in one thread, by asyncio. Loopback only.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import math
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver import bench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

TIMEOUT, BROKEN = "timeout", "broken"
"""What became of a request without an answer."""

_CLOSED_LOOP_CLIENTS = 8


class Request(NamedTuple):
    """What is sent.

    Attributes:
        kind: what the figures are counted under.
        data: whole HTTP request, head and body.
        cut: send only so many bytes and hang up, where it is not ``None``.
    """

    kind: str
    data: bytes
    cut: int | None = None


class Sent(NamedTuple):
    """What became of a request.

    Attributes:
        at: when it left, of ``time.monotonic``.
        status: of the answer, or ``TIMEOUT``, ``BROKEN``, or ``cut`` for our own doing.
        took_ms: until the answer was whole.
    """

    kind: str
    at: float
    status: str
    took_ms: float


@dataclass
class Offer:
    """A load of its own thread, from ``with`` to its end.

    Args:
        port: of the server.
        rate: requests a second.
        choose: gives the next request, from its number.
        deadline_s: the longest a client waits.

    Attributes:
        sent: grows while it runs; complete after the ``with``.
    """

    port: int
    rate: float
    choose: Callable[[int], Request]
    deadline_s: float = 10.0
    sent: list[Sent] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        started, tasks, number = time.monotonic(), set(), 0
        while not self._over.is_set():
            task = asyncio.create_task(self._one(self.choose(number)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            due = started + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)

    async def _one(self, request: Request) -> None:
        self.sent.append(await send(self.port, request, self.deadline_s))


async def send(port: int, request: Request, deadline_s: float) -> Sent:
    """Send one request on a connection of its own and wait for the whole answer."""
    at = time.monotonic()
    try:
        status = await asyncio.wait_for(_exchange(port, request), deadline_s)
    except asyncio.TimeoutError:
        status = TIMEOUT
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
        status = BROKEN
    return Sent(request.kind, at, status, 1000 * (time.monotonic() - at))


async def _exchange(port: int, request: Request) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.data[: request.cut])
        # A server may refuse, and close, before it has read everything.
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        if request.cut is not None:
            return "cut"
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        return head.split(None, 2)[1].decode()
    finally:
        writer.close()


def capacity(port: int, requests: Sequence[Request], seconds: float) -> float:
    """Return answers with 200 a second from 8 clients that wait for theirs."""
    sent = closed_loop(port, requests, seconds)
    return sum(one.status == "200" for one in sent) / seconds


def closed_loop(port: int, requests: Sequence[Request], seconds: float) -> list[Sent]:
    """Let 8 clients, each of which waits for its answers, ask for some seconds."""
    sent: list[Sent] = []

    async def client(end: float) -> None:
        turn = itertools.cycle(requests)
        while time.monotonic() < end:
            sent.append(await send(port, next(turn), 60))

    async def clients() -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(end) for _ in range(_CLOSED_LOOP_CLIENTS)))

    asyncio.run(clients())
    return sent


def post(port: int, model: str, photo: bytes, *, path: str = "/detect") -> bytes:
    """Return a whole POST that asks for its connection to be closed."""
    url = f"http://127.0.0.1:{port}"
    (data,) = bench.Target.of(url, path, model, [photo]).requests
    return data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def get(path: str) -> bytes:
    """Return a whole GET that asks for its connection to be closed."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that a share of them does not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def tally(sent: Sequence[Sent]) -> dict[str, Any]:
    """Return statuses and times of the 200s, for each kind."""
    kinds: dict[str, list[Sent]] = collections.defaultdict(list)
    for one in sent:
        kinds[one.kind].append(one)
    return {kind: _figures(some) for kind, some in sorted(kinds.items())}


def _figures(some: Sequence[Sent]) -> dict[str, Any]:
    times = [one.took_ms for one in some if one.status == "200"]
    return {
        "statuses": dict(collections.Counter(one.status for one in some)),
        "p50_ms": statistics.median(times) if times else None,
        "p99_ms": quantile(times, 0.99),
    }
