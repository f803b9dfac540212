"""Slow or silent connections, and good clients next to them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from benchmarks.support import open_loop
from benchmarks.support.open_loop import Request

if TYPE_CHECKING:
    from typing_extensions import Self

_SLOW_ADDRESS = ("127.0.0.2", 0)
_LIVEZ_RATE = 10.0
_DRIP_S = 1.0
_OPENED_S = 60.0
_HEAD = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
# The first that a connection says, and more each second after that.
SLOW = {
    "silent": (b"", b""),
    "headers": (_HEAD, b"X-a: b\r\n"),
    "body": (_HEAD + _FORM + b"Content-Length: 90000\r\n\r\n", b"x"),
}


class Slow:
    """Slow connections, kept up from ``with`` to its end: closed ones are opened again.

    Args:
        port: of the proxy.
        kind: of ``SLOW``.
        connections: how many at a time; the ``with`` begins with all of them open.

    Attributes:
        opened: how many there were in all.
    """

    def __init__(self, port: int, kind: str, connections: int) -> None:
        self.opened = 0
        self._port, self._kind, self._connections = port, kind, connections
        self._loop = asyncio.new_event_loop()
        self._all_open = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._all_open.wait(_OPENED_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._keeping.cancel)
        self._thread.join()

    def _run(self) -> None:
        cancelled = contextlib.suppress(asyncio.CancelledError)
        with contextlib.closing(self._loop), cancelled:
            every = (self._keep_up() for _ in range(self._connections))
            self._keeping = asyncio.gather(*map(self._loop.create_task, every))
            self._loop.run_until_complete(self._keeping)

    async def _keep_up(self) -> None:
        first, drip = SLOW[self._kind]
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=_SLOW_ADDRESS
                )
                self.opened += 1
                if self.opened >= self._connections:
                    self._all_open.set()
                await self._say_little(reader, writer, first, drip)
            await asyncio.sleep(_DRIP_S)

    async def _say_little(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bytes,
        drip: bytes,
    ) -> None:
        """Say the first, then a little each second, until the other side closes."""
        with contextlib.closing(writer):
            writer.write(first)
            while not reader.at_eof():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(4096), _DRIP_S)
                writer.write(drip)
                await writer.drain()


def good(port: int, request: Request, seconds: float) -> dict[str, Any]:
    """Measure good clients."""
    livez = Request("livez", open_loop.get("/livez"))
    with open_loop.offer(port, _LIVEZ_RATE, lambda _: livez) as probes:
        sent = open_loop.closed_loop(port, [request], seconds)
    health = open_loop.tally(probes)["livez"]
    statuses = open_loop.tally(sent)[request.kind]["statuses"]
    return {
        "per_second": statuses.get("200", 0) / seconds,
        "statuses": statuses,
        "livez": health["statuses"],
        "livez_p99_ms": health["p99_ms"],
    }
