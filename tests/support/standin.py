"""A small app with the door that the real ones have, to be served by gunicorn in tests.

``/hold`` answers when something is written to the FIFO of the variable ``FIFO``;
``/wait`` answers when the models are closed. What happens is reported on stdout. With the
variable ``STUB_ENGINE`` there is a stand-in for the engine's process, too.
"""

import atexit
import os
import socket
import threading
import time
from pathlib import Path

from flask import Flask

from modelserver.core.errors import StartError
from modelserver.core.logs import report
from modelserver.core.settings import Settings
from modelserver.tasks import DETECTION
from modelserver.web.server import engine_keeper
from modelserver.web.server.config import serve, start_errors


class Backend:
    """Starts and closes nothing, and says so with its process's id."""

    spool = None
    dialects = ()

    def __init__(self):
        self.closed = threading.Event()
        self.settings = Settings.from_environ()
        self.door = None
        self.engine = "none"
        self._started = False

    @property
    def tasks(self):
        """Detection; nobody is told before the start if a variable says so."""
        if "NO_TASKS" in os.environ and not self._started:
            raise AttributeError("tasks")
        return (DETECTION,)

    def has_threads(self, _total):
        """Take note of nothing."""

    def start(self):
        """Start, or fail as asked by a variable."""
        if "FAIL_START" in os.environ:
            raise StartError("There is no GPU.")
        self._started = True
        report(f"started in {os.getpid()}")

    def join(self, address, _page):
        """Connect to the engine, which may be away."""
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door.connect(address)

    def ask(self):
        """Ask the engine once who it is."""
        if self.door is not None and self.engine == "none":
            self.engine = self.door.recv(100).decode()
        return self.engine

    def greet(self, _address):
        """Say nothing."""

    def close(self):
        """Close once."""
        if not self.closed.is_set():
            report(f"closed in {os.getpid()}")
            self.closed.set()


def create_app():
    """Make the app, or fail as asked by a variable."""
    if "FAIL_APP" in os.environ:
        raise StartError("The app is broken.")
    app = Flask("standin")
    backend = app.extensions["modelserver"] = Backend()
    atexit.register(backend.close)

    @app.get("/pid")
    def pid():
        return str(os.getpid())

    @app.get("/engine")
    def engine():
        return backend.ask()

    @app.get("/slow")
    def slow():
        time.sleep(0.02)
        return ""

    @app.get("/hold")
    def hold():
        report("holding")
        return Path(os.environ["FIFO"]).read_text()

    @app.get("/wait")
    def wait():
        report("waiting")
        backend.closed.wait()
        return "closed"

    return app


if "STUB_ENGINE" in os.environ:
    engine_keeper.ENGINE_PROCESS = True
    engine_keeper.MODULE = "support.stub_engine"

with start_errors():
    app = create_app()

if __name__ == "__main__":
    serve(app, default_port=5000)
