"""Load that leaves at a fixed rate, whether or not earlier requests were answered.

So do many clients who know nothing of each other: a server that gets slow gets no less
to do. A connection a request; all in one thread, by asyncio. Loopback only.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.tools import bench

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT, BROKEN = "timeout", "broken"
"""The outcome of a request without an answer."""

SHARE = 0.7
"""Of the capacity, for a load that is to be answered."""

_CLOSED_LOOP_CLIENTS = 8


class Request(NamedTuple):
    """A request to send.

    Attributes:
        kind: the name that its figures are counted under.
        data: whole HTTP request, head and body.
        cut: send only so many bytes and hang up, if it is not ``None``.
    """

    kind: str
    data: bytes
    cut: int | None = None


class Sent(NamedTuple):
    """The outcome of a request.

    Attributes:
        at: when it left, of ``time.monotonic``.
        status: of the answer, or ``TIMEOUT``, ``BROKEN``, or ``cut`` for our own doing.
        took_ms: until the answer was whole.
    """

    kind: str
    at: float
    status: str
    took_ms: float


@contextlib.contextmanager
def offer(
    port: int, rate: float, choose: Callable[[int], Request], deadline_s: float = 10.0
) -> Iterator[list[Sent]]:
    """Offer a load from a thread of its own, for as long as this is open.

    Args:
        port: of the server.
        rate: requests a second.
        choose: gives the next request, from its number.
        deadline_s: the longest a client waits.

    Yields:
        A list that grows; it is complete after the ``with``.
    """
    sent: list[Sent] = []
    over = threading.Event()

    async def one(request: Request) -> None:
        sent.append(await send(port, request, deadline_s))

    async def run() -> None:
        started, tasks = time.monotonic(), set()
        for number in itertools.count(1):
            tasks.add(task := asyncio.create_task(one(choose(number))))
            task.add_done_callback(tasks.discard)
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if over.is_set():
                break
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def in_turn(requests: Sequence[Request]) -> Callable[[int], Request]:
    """Return a function that gives some requests in turn, by their numbers."""
    return lambda number: requests[number % len(requests)]


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


def at_once(port: int, requests: Sequence[Request], deadline_s: float) -> list[Sent]:
    """Send requests all at once."""

    async def all_of_them() -> list[Sent]:
        return await asyncio.gather(*(send(port, one, deadline_s) for one in requests))

    return asyncio.run(all_of_them())


def add_load(parser: argparse.ArgumentParser) -> None:
    """Add the options of a driver that loads a server for long."""
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--measure", type=float, default=5, help="capacity, seconds")
    parser.add_argument("--rate", type=float, help="offer at most so much a second")


def offered(
    port: int, requests: Sequence[Request], given: argparse.Namespace
) -> dict[str, float]:
    """Measure the capacity and return it with the load to offer: 70 % of it."""
    found = capacity(port, requests, given.measure)
    return {"capacity": found, "offered": min(SHARE * found, given.rate or found)}


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


def tally(sent: Sequence[Sent]) -> dict[str, Any]:
    """Return the figures of each kind."""
    kinds = sorted({one.kind for one in sent})
    return {kind: figures([o for o in sent if o.kind == kind]) for kind in kinds}


def figures(sent: Sequence[Sent]) -> dict[str, Any]:
    """Return statuses, and times of the 200s."""
    return {
        "statuses": dict(collections.Counter(one.status for one in sent)),
        "p50_ms": p_ms(sent, 0.5),
        "p99_ms": p_ms(sent, 0.99),
    }


def p_ms(sent: Sequence[Sent], share: float, status: str = "200") -> float | None:
    """Return a percentile of the time that answers with a status took."""
    return bench.quantile((o.took_ms for o in sent if o.status == status), share)
