"""An engine's process as the arbiter starts it, and doors to it, in real processes."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import msgspec
import pytest

from modelserver.core import contract
from modelserver.core.messages.control import READY
from modelserver.core.messages.requests import Wish
from modelserver.core.refusals import make_page
from modelserver.web.callers import Caller
from modelserver.web.server.process_keeper import make_environ
from modelserver.web.socket_link import SocketLink
from support.app_client import photo
from support.transports import listen

SECONDS = 60
COMMAND = (sys.executable, "-m", "modelserver.engine.process")


class Arbiter:
    """What the arbiter holds for an engine, and how it starts one."""

    def __init__(self, tmp_path, folder, **environ):
        self.address = tmp_path / "engine"
        self.listener = listen(tmp_path)
        self.page = make_page()
        self.environ = {
            **os.environ,
            "MODEL_FOLDER": str(folder),
            "UPLOAD_FOLDER": str(tmp_path),
            "RELOAD_S": "3600",
            **environ,
        }
        self.links, self.processes, self.controls = [], [], []

    def start(self, *tasks, ready=True, **options):
        """Start an engine; give its process and the arbiter's end of its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(SECONDS)
        descriptors = [self.listener.fileno(), self.page, theirs.fileno()]
        with theirs:
            process = subprocess.Popen(
                [*COMMAND, *map(str, descriptors), *(tasks or ["detection"])],
                pass_fds=descriptors,
                env=make_environ(self.environ),
                **options,
            )
        self.processes.append(process)
        self.controls.append(ours)
        if ready:
            assert ours.recv(100) == READY
        return process, ours

    def link(self):
        """A door's way to the engine."""
        link = SocketLink(str(self.address), self.page)
        link.start()
        self.links.append(link)
        return link

    def close(self):
        for link in self.links:
            link.close()
        for process in self.processes:
            process.kill()
            process.wait()
        for control in self.controls:
            control.close()
        self.listener.close()
        os.close(self.page)


@pytest.fixture
def arbiter(tmp_path, folder):
    """A function that makes an arbiter; all that it started ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(**environ):
            made = Arbiter(tmp_path, folder, **environ)
            stack.callback(made.close)
            return made

        yield make


def states(link):
    """Each model's state, by its name."""
    found = msgspec.msgpack.decode(link.ask("models"), type=contract.Models)
    return {model.name: model.state for model in found.models}


def eventually(condition):
    """Wait until something holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def evaluate(link, tmp_path, seconds=SECONDS, **options):
    """Have the model ``m`` look at a photo."""
    path = tmp_path / "photo"
    path.write_bytes(photo())
    with path.open("rb") as upload:
        caller = Caller(seconds, time.perf_counter() + seconds)
        asked = link.evaluate("detection", ["m"], upload, caller, Wish(), **options)
        with asked as waiting:
            return waiting.answer()
