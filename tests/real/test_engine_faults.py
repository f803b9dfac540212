"""Doors and an engine that are killed, stopped or misused in the middle of work."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from modelserver.core.errors import ModelNotReady
from modelserver.core.messages.requests import Ask, Welcome
from modelserver.core.packets import PacketSocket
from modelserver.engine.questions import Rendered
from modelserver.web import socket_link
from modelserver.web.server.process_keeper import make_environ
from support import tiny_graphs
from support.app_client import photo
from support.engine_processes import SECONDS, arbiter, evaluate, eventually, states

pytestmark = pytest.mark.process

__all__ = ["arbiter"]  # a fixture

# A door of its own process: sends so many photos, tells of it, and never ends.
DOOR = """
import sys, time
from pathlib import Path
from modelserver.core.messages.requests import Wish
from modelserver.web.callers import Caller
from modelserver.web.socket_link import SocketLink

address, page, photo, number = sys.argv[1:]
link = SocketLink(address, int(page))
link.start()
upload = Path(photo).open("rb")
for _ in range(int(number)):
    caller = Caller(60.0, time.perf_counter() + 60.0)
    link.evaluate("detection", ["m"], upload, caller, Wish())
print("sent", flush=True)
time.sleep(600)
"""


@pytest.fixture
def serve(arbiter, folder):
    """A function that starts an engine whose model takes its time."""

    def serve(seconds=0.3, **environ):
        tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.slow_detector(seconds))
        (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }')
        made = arbiter(SLOTS="1", QUEUE_LENGTH="4", MAX_QUEUE_WAIT_S="60", **environ)
        process, _ = made.start()
        link = made.link()
        eventually(lambda: states(link) == {"m": "READY"})
        return made, process, link

    return serve


@contextlib.contextmanager
def door(made, tmp_path, number=5):
    """A door's process that has sent so many photos; killed at the end."""
    (tmp_path / "sent").write_bytes(photo())
    words = [made.address, made.page, tmp_path / "sent", number]
    process = subprocess.Popen(
        [sys.executable, "-c", DOOR, *map(str, words)],
        stdout=subprocess.PIPE,
        pass_fds=[made.page],
        env=make_environ(os.environ),
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "sent\n"
            yield process
        finally:
            process.kill()


def metric(link, name, labels="[^}]*"):
    """The sum of a metric's samples."""
    told = msgspec.msgpack.decode(link.ask("metrics"), type=Rendered)
    line = rf"^modelserver_{name}(?:{{{labels}}})? (.*)$"
    return sum(map(float, re.findall(line, told.body.decode(), re.MULTILINE)))


def doors(link):
    """How many doors are connected."""
    return metric(link, "processes", 'process="door"')


def files(process):
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def test_a_killed_doors_places_and_memory_come_back(serve, tmp_path):
    """Four doors die with a full queue each; the next photo is answered as the first."""
    made, process, link = serve(MAX_PIXELS_IN_FLIGHT=str(40_000_000))
    evaluate(link, tmp_path)
    before = files(process)
    for _ in range(4):
        with door(made, tmp_path) as other:
            eventually(lambda: metric(link, "queue_depth") > 0)
            other.kill()
        eventually(lambda: metric(link, "queue_depth") == 0)
        assert evaluate(link, tmp_path).number
    assert metric(link, "dropped_total") > 0
    eventually(lambda: files(process) <= before)
    assert process.poll() is None


def test_a_stopped_door_holds_up_no_other(serve, tmp_path):
    """Its answers wait for it, and it gets them once it goes on."""
    made, process, link = serve(0.05)
    with door(made, tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        for _ in range(5):
            eventually(lambda: metric(link, "queue_depth") == 0)
            assert evaluate(link, tmp_path).number
        assert doors(link) == 2
        other.send_signal(signal.SIGCONT)
    eventually(lambda: doors(link) == 1)
    assert process.poll() is None


def test_a_stopped_engine_answers_what_it_had_once_it_goes_on(
    serve, tmp_path, monkeypatch
):
    """Meanwhile new photos are refused after a second, and none is lost or doubled."""
    _, process, link = serve(0.05)
    counted = metric(link, "batch_size_sum")
    with ThreadPoolExecutor(3) as pool:
        process.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patient:
            # On a busy machine it is silent for a second before they have asked.
            patient.setattr(socket_link, "_AWAY_S", SECONDS)
            asked = [pool.submit(evaluate, link, tmp_path) for _ in range(3)]
            eventually(lambda: len(link._waiting) == len(asked))
        eventually(lambda: link._page.age_s > 1.0)
        begun = time.monotonic()
        with pytest.raises(ModelNotReady, match="All models are restarting"):
            evaluate(link, tmp_path)
        assert time.monotonic() - begun < SECONDS / 2
        process.send_signal(signal.SIGCONT)
        assert {one.result(SECONDS).model for one in asked} == {"m"}
    assert metric(link, "batch_size_sum") == counted + len(asked)


def test_half_open_connections_hold_up_nobody(serve, tmp_path):
    """A hundred that never say a word, and some that say nonsense."""
    made, process, link = serve(0.01)
    before = files(process)
    with contextlib.ExitStack() as stack:
        silent = []
        for number in range(100):
            connection = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            connection.settimeout(SECONDS)
            connection.connect(str(made.address))
            if number % 10 == 0:
                connection.send(b"\x01\x00nonsense")
            silent.append(connection)
        for connection in silent:
            welcome = PacketSocket(connection).receive()[0]
            assert welcome == msgspec.msgpack.encode(Welcome())
        for _ in range(5):
            assert evaluate(link, tmp_path).number
        assert doors(link) == 1 + 90
        PacketSocket(silent[1]).send(msgspec.msgpack.encode(Ask(1, "models")))
        assert PacketSocket(silent[1]).receive()[0]
    eventually(lambda: files(process) <= before)
