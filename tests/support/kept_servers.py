"""Real servers around the stand-in app and the stand-in engine, started both ways."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import SECONDS, alive, children, wait_for

ROOT = Path(__file__).parents[2]
STUB = """from modelserver.web.server import engine_keeper
engine_keeper.ENGINE_PROCESS = True
engine_keeper.MODULE = "support.stub_engine"
"""
BOTH = {"python": ["app.py"], "gunicorn": ["-m", "gunicorn", "app:app"]}


class Kept:
    """A server of several doors and an engine, in a session of its own.

    Attributes:
        fault: the file that tells an engine what to do wrong.
    """

    def __init__(self, words, folder, doors=2, options="", **environ):
        (folder / "gunicorn.conf.py").write_text(
            STUB + (ROOT / "gunicorn.conf.py").read_text()
        )
        shutil.copy(ROOT / "tests" / "support" / "standin.py", folder / "app.py")
        self.fault = folder / "fault"
        self._out, self._err = folder / "stdout", folder / "stderr"
        self.doors_wanted = doors
        variables = {
            "PORT": "0",
            "LOG_FORMAT": "text",
            "STUB_ENGINE": "1",
            "ENGINE_FAULT": str(self.fault),
            "GUNICORN_CMD_ARGS": f"--workers {doors} {options}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env={**os.environ, **variables, **environ},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self):
        """All that was printed."""
        return self._out.read_text()

    @property
    def errors(self):
        """All that was logged."""
        return self._err.read_text()

    @property
    def port(self):
        """Where it listens."""
        return int(re.search(r"Listening at: http://127.0.0.1:(\d+)", self.errors)[1])

    @property
    def engines(self):
        """Process ids of the engines that serve."""
        return [
            pid
            for pid in children(self.process.pid)
            if f"engine {pid} " in self.out and alive(pid)
        ]

    @property
    def started(self):
        """Process ids of all engines that ever served, in their order."""
        return [
            int(pid) for pid in re.findall(r"^engine (\d+) ", self.out, re.MULTILINE)
        ]

    @property
    def engine(self):
        """The engine's process id."""
        (pid,) = self.engines
        return pid

    @property
    def doors(self):
        """Process ids of the doors that have started."""
        started = map(int, re.findall(r"started in (\d+)", self.out))
        return sorted(set(started) & set(filter(alive, children(self.process.pid))))

    def wait(self):
        """Wait until all doors and an engine are there."""
        wait_for(
            lambda: (
                self.process.poll() is not None
                or (len(self.doors) == self.doors_wanted and len(self.engines) == 1)
            ),
            "all are there",
        )
        assert self.process.poll() is None, self.errors
        return self

    def get(self, path):
        """GET a path on a connection of its own; return the text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def send(self, number):
        """Send the arbiter a signal."""
        self.process.send_signal(number)

    def end(self, number=signal.SIGTERM):
        """Send a signal, and wait for the end; returns the exit code."""
        self.send(number)
        return self.process.wait(SECONDS)

    def family(self):
        """All its processes."""
        return [self.process.pid, *children(self.process.pid)]

    def is_free(self):
        """Return whether its port can be listened on."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
            return True


@pytest.fixture
def keep(tmp_path):
    """A function that starts servers, of which nothing is left in the end."""
    servers = []

    def keep(way="python", **more):
        servers.append(Kept(BOTH[way], tmp_path, **more))
        return servers[-1]

    yield keep
    for server in servers:
        family = server.family()
        for pid in family:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        wait_for(lambda family=family: not any(map(alive, family)), "all are gone")
