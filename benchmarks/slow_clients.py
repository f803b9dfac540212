"""What 500 slow or silent connections do to everybody else, through the shipped nginx.

    python -m benchmarks.slow_clients [MODEL_FOLDER PHOTO] [--seconds 30] [--out FILE]

A real server stands behind nginx with ``deploy/nginx.conf``, on free ports. First good
clients alone, then beside connections that say nothing, that trickle their headers, and
that trickle a body. Good clients are eight that wait for their answers; beside them
``/livez`` is asked ten times a second. Prints JSON: answers a second, statuses, p99 of
``/livez``, and the share of the answers alone.

The slow ones come from an address of their own, and nginx's limit for an address is
lifted here: with it, it would refuse most of them.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import graphs, open_loop, results
from benchmarks.support.inprocess import find
from benchmarks.support.nginx import nginx
from benchmarks.support.open_loop import Offer, Request
from benchmarks.support.servers import watched
from modelserver import bench

if TYPE_CHECKING:
    from typing_extensions import Self

_SLOW_ADDRESS = "127.0.0.2"
_NO_LIMIT = {"limit_conn clients 32;": "limit_conn clients 10000;"}
_LIVEZ_RATE = 10.0
_DRIP_S = 1.0
_HEAD = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
# What a connection says first, and what each second after that.
SLOW = {
    "silent": (b"", b""),
    "headers": (_HEAD, b"X-a: b\r\n"),
    "body": (_HEAD + _FORM + b"Content-Length: 90000\r\n\r\n", b"x"),
}


class Slow:
    """Slow connections, kept up: what the proxy closes is opened again.

    They are kept in a thread of their own, from ``with`` to its end.

    Args:
        port: of the proxy.
        kind: of ``SLOW``.
        connections: how many at a time.

    Attributes:
        opened: how many there were in all.
    """

    def __init__(self, port: int, kind: str, connections: int) -> None:
        self.opened = 0
        self._port = port
        self._first, self._drip = SLOW[kind]
        self._sockets: list[socket.socket | None] = [None] * connections
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._keep_up()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for connection in filter(None, self._sockets):
            connection.close()

    def _run(self) -> None:
        while not self._over.wait(_DRIP_S):
            self._keep_up()

    def _keep_up(self) -> None:
        """Open what is closed; have each of the others say a little more."""
        for index, connection in enumerate(self._sockets):
            if connection is None or not self._lives(connection):
                if connection is not None:
                    connection.close()
                self._sockets[index] = self._open()

    def _open(self) -> socket.socket | None:
        with contextlib.suppress(OSError):
            made = socket.create_connection(
                ("127.0.0.1", self._port), 5, source_address=(_SLOW_ADDRESS, 0)
            )
            made.sendall(self._first)
            made.settimeout(0)
            self.opened += 1
            return made
        return None

    def _lives(self, connection: socket.socket) -> bool:
        try:
            if self._drip:
                connection.send(self._drip)
            return bool(connection.recv(4096))
        except BlockingIOError:
            return True  # nothing was said, which is how it should be
        except OSError:
            return False


def good(port: int, request: Request, seconds: float) -> dict[str, Any]:
    """Measure good clients."""
    livez = Request("livez", open_loop.get("/livez"))
    with Offer(port, _LIVEZ_RATE, lambda _: livez) as offer:
        sent = open_loop.closed_loop(port, [request], seconds)
    health = open_loop.tally(offer.sent)["livez"]
    statuses = open_loop.tally(sent)[request.kind]["statuses"]
    return {
        "per_second": statuses.get("200", 0) / seconds,
        "statuses": statuses,
        "livez": health["statuses"],
        "livez_p99_ms": health["p99_ms"],
    }


def measure(port: int, request: Request, given: argparse.Namespace) -> dict[str, Any]:
    """Measure good clients alone, beside each kind of slow ones, and alone again."""
    good(port, request, min(2.0, given.seconds))
    rows = {"alone": good(port, request, given.seconds)}
    for kind in SLOW:
        results.say(f"slow clients: {given.connections} x {kind}")
        with Slow(port, kind, given.connections) as slow:
            rows[kind] = good(port, request, given.seconds)
        rows[kind]["opened"] = slow.opened
    rows["alone again"] = good(port, request, given.seconds)
    alone = (rows["alone"]["per_second"] + rows["alone again"]["per_second"]) / 2
    for row in rows.values():
        row["share"] = row["per_second"] / alone if alone else None
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--seconds", type=float, default=30, help="for each kind")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = given.folder
        if folder is None:
            folder = home
            graphs.write_do_nothing(folder)
        model = find(folder, "detection", given.model).name
        photo = bench.read_photo(given.photo) if given.photo else graphs.photo()
        server = stack.enter_context(watched(folder.resolve()))
        proxy = stack.enter_context(nginx(home, server.port, changes=_NO_LIMIT))
        request = Request("detect", open_loop.post(proxy.port, model, photo))
        rows = measure(proxy.port, request, given)
    facts = {"model": model, "connections": given.connections}
    results.write({**facts, "seconds": given.seconds, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
