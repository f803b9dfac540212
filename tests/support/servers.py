"""Real servers for the slow tests: started as an operator starts them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SECONDS = 120


class Server:
    """A started server.

    Attributes:
        url: where it listens.
    """

    def __init__(self, process, port, out):
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._out = out

    @property
    def stdout(self):
        """All that it has printed so far."""
        return self._out.read_text()

    def wait(self, path="/readyz", statuses=(200,)):
        """Wait until a path answers with one of some statuses."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server has ended"
            try:
                response = httpx.get(self.url + path, timeout=10)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code in statuses:
                return response
            time.sleep(0.02)
        raise AssertionError(f"{path} did not answer {statuses}")

    def post(self, path, model, file, name="photo.jpg", **options):
        """POST a photo as curl does."""
        return httpx.post(
            self.url + path,
            data={"modelname": model},
            files={"file": (name, file)},
            timeout=SECONDS,
            **options,
        )

    def doors(self):
        """Process ids of its workers."""
        return doors(self.process.pid)

    def engine(self):
        """Process id of its engine."""
        return engine(self.process.pid)

    def uploads(self):
        """How many uploads, of its folder ``pics``, the engine holds."""
        found = 0
        for link in Path(f"/proc/{self.engine()}/fd").iterdir():
            try:
                found += "/pics/" in str(link.readlink())
            except OSError:
                continue
        return found

    def descendants(self):
        """Process ids of all its processes but the first."""
        found, fresh = set(), {self.process.pid}
        while fresh:
            fresh = {
                child for pid in fresh for child in children(pid) if child not in found
            }
            found |= fresh
        return found

    def runners(self):
        """Process ids of the models' processes."""
        return {
            pid
            for pid in self.descendants()
            if b"modelserver.runner.child" in command(pid)
        }

    def end(self, number=signal.SIGTERM):
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def children(pid):
    """Process ids of a process's children, in all its threads."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in tasks.read_text().split()]
        except OSError:
            continue
    return found


def engine(arbiter):
    """Process id of the engine that an arbiter keeps."""
    (found,) = (
        pid for pid in children(arbiter) if b"modelserver.engine" in command(pid)
    )
    return found


def doors(arbiter):
    """Process ids of an arbiter's workers, in order."""
    return sorted(set(children(arbiter)) - {engine(arbiter)})


def command(pid):
    """Command line of a process, empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_watched(server, connection):
    """Whether a door's main loop waits for what comes by a client's connection."""
    ours, theirs = (
        f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
        for host, port in (connection.getsockname(), connection.getpeername())
    )
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines())
    links = [f"socket:[{row[9]}]" for row in rows if row[1:3] == [theirs, ours]]
    return any(
        link in links for door in server.doors() for link in _watched_files(door)
    )


def _watched_files(pid):
    """What a process's pollers watch, as its links to it say."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):  # closed meanwhile
            for number in re.findall(r"(?m)^tfd: +(\d+) ", info.read_text()):
                yield str(Path(f"/proc/{pid}/fd/{number}").readlink())


def alive(pid):
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, what, seconds=SECONDS):
    """Wait until a condition holds, within a bound that is generous by default."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@contextmanager
def started(
    *arguments,
    folder,
    uploads,
    tmp_path,
    python=sys.executable,
    cwd=ROOT,
    **environ,
):
    """Start a server on a free port, in the project's folder; end it after the test."""
    out = tmp_path / "stdout"
    err = tmp_path / "stderr"
    environment = {
        **os.environ,
        "MODEL_FOLDER": str(folder),
        "UPLOAD_FOLDER": str(uploads),
        "PORT": "0",
        **{name: str(value) for name, value in environ.items()},
    }
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [python, *arguments],
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=stderr,
        )
    server = Server(process, 0, out)
    try:
        wait_for(
            lambda: (
                re.search(r"Listening at", err.read_text())
                or process.poll() is not None
            ),
            "it listens",
        )
        match = re.search(r"Listening at: http://[\d.]+:(\d+)", err.read_text())
        assert match, err.read_text()
        server.port = int(match[1])
        server.url = f"http://127.0.0.1:{match[1]}"
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
