"""The worker under too much: silent connections, full queues, clients that leave."""

import fcntl
import json
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import tiny_graphs
from support.app_client import EDGE, SECONDS, form, photo
from support.servers import is_watched, started, wait_for

pytestmark = pytest.mark.real

WHITE = (255, 255, 255)
DARK = (100, 0, 0)
# Of what a client sends after it was refused, so much is read.
REFUSED_BYTES = 900_000
# In a model's queue.
PLACES = 2
# What the main loop says of the time that it took.
UNREAD = "total;dur=0"


def connect(server):
    """A connection to a server."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)


def message(model, colour, *headers):
    """A request with a photo of one colour, as bytes."""
    body = form({"modelname": model}, photo(colour))
    lines = [
        "POST /detect HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: multipart/form-data; boundary={EDGE}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send(server, model, colour):
    """Send a request and leave its answer for later."""
    connection = connect(server)
    connection.sendall(message(model, colour))
    return connection


def read(connection):
    """One answer's head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"Content-Length"]):
        body += connection.recv(65536)
    return head, body


def ask(server, model, colour=DARK, timeout_ms=None):
    """POST a photo, perhaps with a deadline."""
    headers = {"X-Request-Timeout-Ms": str(timeout_ms)} if timeout_ms else {}
    return server.post("/detect", model, photo(colour), headers=headers)


def is_refused_unread(server):
    """Whether doors refuse photos in their main loop; else one waits for a while."""
    answer = ask(server, "a", timeout_ms=200)
    return answer.headers["Server-Timing"] == UNREAD


def queued(server, model):
    """How many photos wait for a model's slot."""
    return metric(server, rf'queue_depth{{model="{model}"}}')


def metric(server, name):
    """One of the server's numbers; 0 if it has none of this name."""
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    line = re.search(rf"^modelserver_{name} (\S+)", text, re.MULTILINE)
    return float(line[1]) if line else 0


def fill(server, model):
    """Let runs hang in all slots, and photos wait in all places."""
    hanging = []
    # A door may refuse some of them: it counts what it is at as photos that come.
    while queued(server, model) < PLACES:
        hanging.append(send(server, model, WHITE))
    return hanging


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two models that hang when they see white, in little room."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.hangs_when_white())
    with started(
        "app.py",
        folder=folder,
        uploads=tmp_path_factory.mktemp("pics"),
        tmp_path=tmp_path_factory.mktemp("server"),
        SLOTS=1,
        QUEUE_LENGTH=PLACES,
        THREADS=12,
        RUN_TIMEOUT_S=600,
        # Longer than all tests take: what fills the queues waits until then.
        REQUEST_TIMEOUT_S=600,
    ) as running:
        running.wait()
        yield running
        for pid in running.runners():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def one_full(server):
    """The first model's slots hang and its queue is full."""
    hanging = fill(server, "a")
    yield server
    for connection in hanging:
        connection.close()


@pytest.fixture(scope="module")
def both_full(one_full):
    """The second's too."""
    hanging = fill(one_full, "b")
    wait_for(lambda: is_refused_unread(one_full), "the doors know")
    yield one_full
    for connection in hanging:
        connection.close()


def test_one_models_full_queue_leaves_the_others_requests_unharmed(one_full):
    """The second model answers all that comes one after another."""
    statuses = [ask(one_full, "b").status_code for _ in range(20)]
    assert statuses == [200] * 20
    refused = ask(one_full, "a")
    assert (refused.status_code, refused.headers["Retry-After"] >= "1") == (503, True)


def test_health_is_answered_while_all_slots_hang(both_full):
    """By the threads that are kept for it, however many ask for photos."""
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, both_full, "ab"[n % 2]) for n in range(40)]
        alive = [httpx.get(f"{both_full.url}/livez", timeout=10) for _ in range(10)]
    assert {answer.status_code for answer in alive} == {200}
    assert {answer.result().status_code for answer in asked} == {503}
    assert httpx.get(f"{both_full.url}/readyz", timeout=10).status_code == 200


def expect_refusal(answer):
    """The answer of the main loop, which never read the form."""
    head, body = answer
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"\r\nServer-Timing: {UNREAD}\r\n".encode() in head
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b"\r\nConnection: close\r\n" in head
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert b"\r\nX-Request-Id: " in head
    retry = [line for line in head.split(b"\r\n") if line.startswith(b"Retry-After: ")]
    assert int(retry[0].split()[1]) >= 1
    assert json.loads(body)["type"] == "/problems/overloaded"


def test_a_client_that_is_still_sending_reads_its_refusal(both_full):
    """Its body is read and thrown away for a while: no reset destroys the answer."""
    head = message("a", DARK).partition(b"Content-Length")[0]
    with connect(both_full) as connection:
        connection.sendall(head + b"Content-Length: 2000000\r\n\r\n")
        connection.sendall(b"x" * REFUSED_BYTES)
        expect_refusal(read(connection))
        assert connection.recv(1) == b""


def test_a_kept_connection_is_refused_in_the_same_way(both_full):
    """Though its socket has been with a thread before."""
    with connect(both_full) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head, _ = read(connection)
        assert head.startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: is_watched(both_full, connection), "its thread gives it back")
        connection.sendall(message("a", DARK))
        expect_refusal(read(connection))
        assert connection.recv(1) == b""


def test_nobody_waits_for_a_stopped_reader_of_the_output(folder, uploads, tmp_path):
    """A terminal after Ctrl-S, or a pager, takes no more lines: photos are answered."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    os.mkfifo(tmp_path / "stdout")
    reader = os.open(tmp_path / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    with (
        started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server,
        httpx.Client(timeout=SECONDS) as client,
    ):
        server.wait()
        for _ in range(200):
            files = {"file": ("p.png", photo(WHITE))}
            answer = client.post(f"{server.url}/detect", files=files)
            assert answer.status_code == 200
        lines = []
        # What could not be written comes once there is room.
        wait_for(
            lambda: (
                lines.append(read_all(reader)) or b"".join(lines).count(b"\n") >= 200
            ),
            "every line has come",
        )
    os.close(reader)


def read_all(descriptor):
    """What can be read now."""
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def test_only_photos_are_refused_unread(both_full):
    """Other paths and methods get their own answers."""
    for line, status in (("POST /detected", 404), ("GET /models", 200)):
        with connect(both_full) as connection:
            connection.sendall(
                f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()
            )
            assert read(connection)[0].startswith(f"HTTP/1.1 {status} ".encode())


def test_what_nobody_waits_for_is_never_run(folder, uploads, tmp_path):
    """A run on white would hang in the only slot: none of those was run."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.hangs_when_white())
    # Slow runs of a busy machine are no reason to refuse or to give up.
    options = {"SLOTS": 1, "QUEUE_LENGTH": 20, "THREADS": 20, "WORKERS": 1}
    options |= {"REQUEST_TIMEOUT_S": SECONDS, "MAX_QUEUE_WAIT_S": SECONDS}
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, **options
    ) as server:
        server.wait()
        # What is slow the first time is done with.
        assert [ask(server, "m").status_code for _ in range(5)] == [200] * 5
        (runner,) = server.runners()
        os.kill(runner, signal.SIGSTOP)
        try:
            waiting = [send(server, "m", DARK) for _ in range(4)]
            # At most two lie in the stopped process's socket.
            wait_for(lambda: queued(server, "m") >= 2, "the others wait")
            gone = send(server, "m", WHITE)
            wait_for(lambda: queued(server, "m") >= 3, "the white one waits")
            next_one = send(server, "m", WHITE)
            gone.close()
            next_one.close()
            # At once: after 10 s of silence the process would be ended.
            with ThreadPoolExecutor(2) as clients:
                late = clients.submit(ask, server, "m", timeout_ms=500)
                white = clients.submit(ask, server, "m", WHITE, timeout_ms=300)
            # That one, which waits undecoded, is dropped at once, after the other is told of.
            left = 'dropped_total{model="m",reason="client-gone"}'
            wait_for(lambda: metric(server, left), "the engine knows")
        finally:
            os.kill(runner, signal.SIGCONT)
        for connection in waiting:
            assert read(connection)[0].startswith(b"HTTP/1.1 200 ")
            connection.close()
        statuses = [one.result().status_code for one in (late, white)]
        assert statuses == [504, 504]
        assert "within 0.3 seconds" in white.result().json()["detail"]
        assert ask(server, "m").status_code == 200
        assert server.runners() == {runner}
        assert ask(server, "m", timeout_ms="soon").status_code == 400


def test_silent_connections_hold_no_thread_and_make_room(folder, uploads, tmp_path):
    """Of more than there may be, the oldest are closed; the others are served."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    options = {"THREADS": 4, "GUNICORN_CMD_ARGS": "--worker-connections 40"}
    options["WORKERS"] = 1
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, **options
    ) as server:
        server.wait()
        silent = [connect(server) for _ in range(30)]
        assert httpx.get(f"{server.url}/livez", timeout=10).status_code == 200
        silent += [connect(server) for _ in range(60)]
        assert ask(server, "m").status_code == 200
        assert [connection.recv(1) for connection in silent[:40]] == [b""] * 40
        silent[-1].sendall(message("m", DARK))
        assert read(silent[-1])[0].startswith(b"HTTP/1.1 200 ")
        for connection in silent:
            connection.close()
        wait_for(lambda: ask(server, "m").status_code == 200, "it serves on")
