"""A worker's main loop without a process, for tests to turn by hand."""

import logging
import selectors
import socket
from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from modelserver.engine.uploads import Spool
from modelserver.tasks import DETECTION
from modelserver.web.server import worker as module
from modelserver.web.server.connections import Lingering
from modelserver.web.server.worker import Worker

PHOTO = b"POST /detect HTTP/1.1\r\nHost: a\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


class App:
    """Stands for the app: what it says about photos, and what it is told."""

    def __init__(self, spool):
        self.extensions = {"modelserver": self}
        self.settings = SimpleNamespace(max_upload_mb=1, api_token="")
        self.tasks = (DETECTION,)
        self.dialects = ()
        self.spool = spool
        self.refuses = None
        self.unread_headers = ""
        self.unreadable = []
        self.handled = []
        self.counted = []
        self.answered = []

    def refusal(self, handled):
        self.handled.append(handled)
        return self.refuses

    def count_refusal(self, error, path, status, dialect):
        self.counted.append(error)
        self.answered.append((path, status, dialect.name if dialect else ""))

    def count_unreadable(self, status):
        self.unreadable.append(status)


class Loop(Worker):
    """A worker without a process: a test makes its events and ends its requests."""

    def __init__(self, connections, spool, age=1, board=None, listener=None):
        self.age = age
        self.app = SimpleNamespace(board=board)
        self.cfg = Config()
        self.cfg.set("keepalive", 5)
        self.cfg.set("threads", 2)
        self.log = logging.getLogger("loop")
        self.worker_connections = connections
        self.nr_conns = 0
        self.alive = True
        self.pending_conns, self.keepalived_conns = deque(), deque()
        self.poller = selectors.DefaultSelector()
        self.wsgi = App(spool)
        self.tpool = self
        self.with_threads = []
        self._lingering = Lingering(lambda: self.poller, self.add)
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.sockets = [self.listener]
        self._accepting = False
        self.clients = []

    def add(self, change):
        self.nr_conns += change

    def submit(self, _handle, conn):
        """Stand for the thread pool."""
        self.with_threads.append(conn)
        return Future()

    def come(self, data=b""):
        """A client connects, and perhaps sends something; the worker takes it."""
        client = socket.create_connection(self.listener.getsockname(), timeout=20)
        client.sendall(data)
        self.clients.append(client)
        assert module.has_data(self.listener, 5000)
        self.accept(self.listener)
        return client

    def turn(self):
        """Tell the worker of what can be read."""
        self.wait_for_and_dispatch_events(timeout=0)
        self.murder_pending()

    def end(self, conn, *, keep=False):
        """A thread has answered a connection, and is done with it."""
        if keep:
            conn.parser.go_on()
        future = Future()
        future.set_result(keep)
        self.finish_request(conn, future)

    def end_all(self):
        """All clients close, and everything comes to its end."""
        for client in self.clients:
            client.close()
        self.turn()
        for conn in list(self._arriving):
            self._drop(conn)
        while self.with_threads:
            self.end(self.with_threads.pop())
            self.turn()


@pytest.fixture
def make(tmp_path):
    """Make a worker for so many connections, none of which is left after the test."""
    loops = []

    def one(connections=10, **more):
        loops.append(Loop(connections, Spool(tmp_path), **more))
        return loops[-1]

    yield one
    for loop in loops:
        with loop.listener, loop.poller:
            loop.end_all()
        assert (loop.nr_conns, loop._handled, len(loop._lingering)) == (0, 0, 0)
        assert loop._arriving == {}
