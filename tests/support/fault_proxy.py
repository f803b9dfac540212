"""A proxy between a client and a server that breaks what passes through it.

A fault is a list of steps for what the client sends, and one for what the server answers:
``Pass(bytes)`` lets so many through, ``Trickle(bytes)`` lets them through one by one,
``STALL`` holds everything until the proxy is told to go on, ``CUT`` closes both sides in
order, ``RESET`` breaks both off. What comes after the last step passes.
"""

import contextlib
import ctypes
import socket
import threading
from dataclasses import dataclass

CHUNK = 65536


@dataclass(frozen=True)
class Pass:
    """Let so many bytes through."""

    size: int


@dataclass(frozen=True)
class Trickle:
    """Let so many bytes through, each in a packet of its own."""

    size: int


STALL, CUT, RESET = "stall", "cut", "reset"


class FaultProxy:
    """Listens on a free port, and does to each connection what it was told.

    Args:
        port: of the server.
        up, down: the steps for what the client sends and for what comes back.

    Attributes:
        port: where clients connect.
        on: set it to end all stalls.
    """

    def __init__(self, port, *, up=(), down=()):
        self._server = port
        self._steps = {"up": list(up), "down": list(down)}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = []
        self._threads = [threading.Thread(target=self._accept)]
        self.port = self._listener.getsockname()[1]
        self.on = threading.Event()
        self.stalled = threading.Event()

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self.on.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for one in (*self._sockets, self._listener):
            one.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            for way, pair in (("up", (client, server)), ("down", (server, client))):
                pump = threading.Thread(target=self._pump, args=(way, *pair))
                self._threads.append(pump)
                pump.start()

    def _pump(self, way, source, sink):
        with contextlib.suppress(OSError):
            for step in self._steps[way]:
                if step == STALL:
                    self.stalled.set()
                    self.on.wait()
                elif step in (CUT, RESET):
                    self._end(step, source, sink)
                    return
                else:
                    self._through(source, sink, step)
            while data := source.recv(CHUNK):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _through(self, source, sink, step):
        size = 1 if isinstance(step, Trickle) else CHUNK
        left = step.size
        while left and (data := source.recv(min(size, left))):
            sink.sendall(data)
            left -= len(data)

    def _end(self, step, *both):
        for one in both:
            with contextlib.suppress(OSError):
                if step == RESET:
                    break_off(one)
                one.shutdown(socket.SHUT_RDWR)


def break_off(connection):
    """Send a reset at once, though other threads wait for the socket.

    Linux does so when a connected socket is connected to no address.
    """
    ctypes.CDLL(None).connect(connection.fileno(), bytes(16), 16)
