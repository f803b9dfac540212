"""Clients that stall, break off and vanish, in real connections to a real server."""

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import tiny_graphs
from support.app_client import EDGE, form, photo
from support.fault_proxy import CUT, RESET, STALL, FaultProxy, Pass, Trickle, break_off
from support.servers import SECONDS, children, started, wait_for

pytestmark = pytest.mark.real

THREADS = 8
KIND = f"Content-Type: multipart/form-data; boundary={EDGE}\r\n".encode()
LOW_LIMIT = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
    " sys.argv = ['app.py']; runpy.run_path('app.py', run_name='__main__')"
)


def whole_request(red=100, extra=b"Connection: close\r\n"):
    """A POST of a photo of one red, with its length."""
    body = form({"modelname": "echo"}, photo((red, 0, 0), (64, 48)))
    length = b"Content-Length: %d\r\n" % len(body)
    return (
        b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        + KIND
        + length
        + extra
        + b"\r\n"
        + body
    )


REQUEST = whole_request()
BODY_AT = REQUEST.index(b"\r\n\r\n") + 4


class Watch:
    """A server, and what must not grow.

    Attributes:
        descriptors, threads: of door and engine, once they have served.
    """

    def __init__(self, server, folders):
        self.server = server
        self.folders = folders
        (door,), engine = server.doors(), server.engine()
        self.processes = (door, engine)
        with ThreadPoolExecutor(4 * THREADS) as clients:
            list(clients.map(self.ask, range(16 * THREADS)))
        self.descriptors = self.count("fd")
        self.threads = self.count("task")

    def count(self, what):
        """How many descriptors or threads the door and the engine have."""
        folders = (Path(f"/proc/{pid}/{what}") for pid in self.processes)
        return sum(len(list(folder.iterdir())) for folder in folders)

    def ask(self, red, port=None):
        """Send a good request, again after a 503; the class that is answered."""
        answer = b"HTTP/1.1 503 "
        while answer.startswith(b"HTTP/1.1 503 "):
            answer = talk(port or self.server.port, whole_request(red % 256))
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return int(re.search(rb'"class":(\d+)', answer)[1])

    def is_as_before(self):
        """Nothing is left, nothing was logged, the next request is answered."""
        assert self.ask(60) == tiny_graphs.echoed(60, 0, 0)[0]
        wait_for(lambda: self.count("fd") <= self.descriptors, "connections are closed")
        assert self.count("task") <= self.threads + THREADS
        assert [path for folder in self.folders for path in folder.iterdir()] == []
        assert set(children(self.server.process.pid)) == set(self.processes)
        log = self.server._out.with_name("stderr").read_text()
        assert "Traceback" not in log
        assert '"level":"error"' not in log.replace(": ", ":")


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    """A server with few threads and a temporary folder of its own."""
    folder = tmp_path_factory.mktemp("models")
    uploads, temporary = (tmp_path_factory.mktemp(name) for name in ("pics", "tmp"))
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    with started(
        "app.py",
        folder=folder,
        uploads=uploads,
        tmp_path=tmp_path_factory.mktemp("server"),
        TMPDIR=temporary,
        WORKERS=1,
        THREADS=THREADS,
        LOG_FORMAT="json",
    ) as server:
        server.wait()
        yield Watch(server, (uploads, temporary))


def talk(port, data):
    """Send bytes and give all that comes, until the end or a reset."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        answer = b""
        try:
            client.sendall(data)
            while part := client.recv(65536):
                answer += part
        except OSError:
            return answer
        return answer


@pytest.mark.parametrize(
    ("up", "down"),
    [
        pytest.param([Pass(30), CUT], [], id="cut in the head"),
        pytest.param([Pass(30), RESET], [], id="reset in the head"),
        pytest.param([Pass(BODY_AT + 40), CUT], [], id="cut in the body"),
        pytest.param([Pass(BODY_AT + 40), RESET], [], id="reset in the body"),
        pytest.param([Pass(len(REQUEST) - 1), CUT], [], id="all but a byte"),
        # No answer comes, however fast it is made.
        pytest.param([Pass(len(REQUEST)), RESET], [STALL], id="reset while it waits"),
        pytest.param([], [Pass(20), CUT], id="cut in the answer"),
        pytest.param([], [Pass(20), RESET], id="reset in the answer"),
    ],
)
def test_who_breaks_off_leaves_nothing_behind(up, down, watch):
    """Wherever it happens, and whoever sees it first."""
    for _ in range(5):
        with FaultProxy(watch.server.port, up=up, down=down) as proxy:
            answer = talk(proxy.port, REQUEST)
        assert not answer.endswith(b"]")
    watch.is_as_before()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    at=st.integers(0, len(REQUEST)),
    end=st.sampled_from([CUT, RESET]),
)
def test_a_client_may_vanish_at_any_byte(at, end, watch):
    """In head, body and after; the next client is served."""
    with socket.create_connection(("127.0.0.1", watch.server.port), SECONDS) as client:
        client.sendall(REQUEST[:at])
        if end == RESET:
            break_off(client)
    watch.is_as_before()


@pytest.mark.parametrize(
    ("up", "down"),
    [
        pytest.param([Trickle(len(REQUEST))], [], id="request"),
        pytest.param([], [Trickle(100)], id="answer"),
    ],
)
def test_what_comes_in_crumbs_is_whole(up, down, watch):
    """A packet a byte changes nothing."""
    with FaultProxy(watch.server.port, up=up, down=down) as proxy:
        assert watch.ask(90, proxy.port) == tiny_graphs.echoed(90, 0, 0)[0]
    watch.is_as_before()


def test_who_stalls_holds_up_nobody_else(watch):
    """Four times as many uploads stand still as there are threads; then they go on."""
    with (
        FaultProxy(watch.server.port, up=[Pass(BODY_AT + 40), STALL]) as proxy,
        ThreadPoolExecutor(4 * THREADS) as clients,
    ):
        slow = [clients.submit(watch.ask, 30, proxy.port) for _ in range(4 * THREADS)]
        assert proxy.stalled.wait(SECONDS)
        for red in range(20):
            assert watch.ask(red) == tiny_graphs.echoed(red, 0, 0)[0]
        proxy.on.set()
        found = {one.result(SECONDS) for one in slow}
    assert found == {tiny_graphs.echoed(30, 0, 0)[0]}
    watch.is_as_before()


def test_a_thousand_disconnects_in_the_upload(watch):
    """No file, no thread and no descriptor is lost."""

    def hang_up(number):
        at = BODY_AT + number % (len(REQUEST) - BODY_AT)
        with socket.create_connection(("127.0.0.1", watch.server.port)) as client:
            client.sendall(REQUEST[:at])

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(hang_up, range(1000)))
    watch.is_as_before()


@pytest.mark.slow
def test_two_hundred_clients_are_killed(watch):
    """SIGKILL, with the request sent and the answer on its way or not."""
    program = (
        "import socket, sys, time; s = socket.create_connection(('127.0.0.1',"
        " int(sys.argv[1]))); s.sendall(sys.stdin.buffer.read()); print(flush=True);"
        " time.sleep(600)"
    )
    for number in range(200):
        command = [sys.executable, "-S", "-c", program, str(watch.server.port)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            client.stdin.write(REQUEST[: len(REQUEST) - number % 2])
            client.stdin.close()
            client.stdout.readline()
            client.kill()
    watch.is_as_before()


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"POST /nowhere HTTP/1.1\r\n", id="404"),
        pytest.param(b"PUT /detect HTTP/1.1\r\n", id="405"),
        pytest.param(b"POST /livez HTTP/1.1\r\n", id="a route without a body"),
        pytest.param(b"GET /livez HTTP/1.1\r\n", id="GET with a body"),
        pytest.param(b"POST /detect HTTP/1.1\r\nContent-Type: a/b\r\n", id="refused"),
    ],
)
@pytest.mark.parametrize("size", [60, 3_000_000], ids=["small", "large"])
def test_a_body_that_nobody_read_is_no_request(first, size, watch):
    """What follows on the connection is answered as itself, or not at all."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    body = (smuggled * (size // len(smuggled) + 1))[:size]
    head = first + b"Host: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % size
    last = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answer = talk(watch.server.port, head + body + last)
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answer)
    assert len(statuses) <= 2
    if len(statuses) == 2:
        assert statuses[1] == b"200"
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2]) == {"live": True}
    watch.is_as_before()


def test_few_descriptors_and_many_connections(folder, uploads, tmp_path):
    """With ``ulimit -n 256`` and 1,000 sockets the worker lives, and serves after."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    with started(
        "-c", LOW_LIMIT, folder=folder, uploads=uploads, tmp_path=tmp_path, WORKERS=1
    ) as server:
        server.wait()
        family = children(server.process.pid)
        (door,) = server.doors()
        limits = Path(f"/proc/{door}/limits").read_text()
        assert re.search(r"Max open files +256 ", limits)
        clients = []
        for _ in range(1000):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            clients.append(client)
        wait_for(
            lambda: len(list(Path(f"/proc/{door}/fd").iterdir())) > 100,
            "they are taken",
        )
        for client in clients:
            client.close()
        server.wait("/livez")
        assert server.post("/detect", "echo", photo()).status_code == 200
        assert children(server.process.pid) == family
