"""The two ways between a door and its engine, for tests that hold over both."""

import os
import socket
import tempfile
import threading
from pathlib import Path

from modelserver.core.refusals import make_page
from modelserver.engine.process import serve_doors

TRANSPORTS = ("call", "socket")


def pytest_generate_tests(metafunc):
    """Run the tests of a module that says ``OVER = TRANSPORTS`` over each of them."""
    if "transport" in metafunc.fixturenames and hasattr(metafunc.module, "OVER"):
        metafunc.parametrize("transport", metafunc.module.OVER, indirect=True)


def listen(folder):
    """A listening socket in a folder, as the arbiter makes it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(Path(folder) / "engine"))
    listener.listen(128)
    return listener


class EngineAtSocket:
    """An engine of this process behind a socket, for doors of this process."""

    def __init__(self, engine):
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory()
        self._page = make_page()
        self.doors = serve_doors(engine, listen(self._folder.name), self._page)

    def admit(self, backend):
        """Make a door of an app that has yet to start."""
        backend.join(str(Path(self._folder.name) / "engine"), self._page)

    def close(self):
        """End the engine, once the doors have gone."""
        closed = threading.Event()
        self.engine.loop.call(lambda: (self.doors.close(), closed.set()))
        closed.wait(10)
        self.engine.close()
        os.close(self._page)
        self._folder.cleanup()
