"""Slow, silent and greedy clients against the shipped nginx before a real server."""

import io
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.support import open_loop
from support import slow_clients
from support.app_client import EDGE, form, noise, photo
from support.echo_servers import echoing
from support.nginx import NGINX, nginx
from support.servers import SECONDS, children, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

NO_LIMIT = {"limit_conn clients 32;": "limit_conn clients 10000;"}
HEAD = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
FORM = f"Content-Type: multipart/form-data; boundary={EDGE}\r\n".encode()
PAIRED = "multipart/form-data; boundary=B"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with an echoing detector."""
    with echoing(tmp_path_factory, "echo") as running:
        yield running


@pytest.fixture(scope="module")
def shipped(server, tmp_path_factory):
    """The shipped proxy, as it is."""
    with nginx(tmp_path_factory.mktemp("nginx"), server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def unlimited(server, tmp_path_factory):
    """The shipped proxy without its limit for an address: here all have one."""
    folder = tmp_path_factory.mktemp("nginx")
    with nginx(folder, server.port, changes=NO_LIMIT) as proxy:
        yield proxy


def answer_of(client):
    """All that comes on a connection until it is closed or broken off."""
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except ConnectionError:
        return answer
    return answer


@pytest.mark.skipif(
    not shutil.which("slowhttptest"), reason="slowhttptest is not installed"
)
@pytest.mark.parametrize(
    ("path", "attack"),
    [
        pytest.param(
            "/livez", ["-H", "-i", "5", "-t", "GET", "-x", "24"], id="headers"
        ),
        pytest.param(
            "/detect",
            ["-B", "-i", "5", "-s", "8192", "-t", "POST", "-f", PAIRED],
            id="body",
        ),
        pytest.param(
            "/livez",
            ["-X", "-w", "1", "-y", "8", "-n", "2", "-z", "1", "-k", "3"],
            id="read",
        ),
    ],
)
def test_slowhttptest_finds_the_service_available(path, attack, unlimited, tmp_path):
    """500 connections for half a minute, by the field's own tool."""
    command = ["slowhttptest", *attack, "-c", "500", "-r", "200", "-l", "30", "-p", "3"]
    command += ["-g", "-o", tmp_path / "report", "-u", unlimited.url + path]
    subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    rows = (tmp_path / "report.csv").read_text().splitlines()[1:]
    available = [row.rpartition(",")[2].strip() for row in rows if row.strip()]
    assert len(available) > 5
    assert set(available) == {"500"}  # the tool draws "yes" as high as its connections
    assert httpx.get(unlimited.url + "/livez").status_code == 200


@pytest.mark.parametrize("kind", list(slow_clients.SLOW))
def test_500_slow_connections_change_no_answer(kind, server, unlimited):
    """Everybody else is answered with 200, probes too; the worker is the same."""
    before = children(server.process.pid)
    data = open_loop.post(unlimited.port, "echo", photo())
    request = open_loop.Request("detect", data)
    alone = slow_clients.good(unlimited.port, request, 10)
    with slow_clients.Slow(unlimited.port, kind, 500) as slow:
        row = slow_clients.good(unlimited.port, request, 10)
    print(f"next to 500 x {kind}: {row}; alone: {alone}")
    assert slow.opened >= 500
    assert set(row["statuses"]) == {"200"}
    assert set(row["livez"]) == {"200"}
    assert children(server.process.pid) == before


def test_a_fair_slow_client_is_served(shipped):
    """5 MB at 50 kB/s take 100 s, and are answered."""
    pixels = noise((1100, 1600))
    file = photo_of(pixels)
    body = form({"modelname": "echo"}, file)
    assert 4_500_000 < len(body) < 6_000_000
    with shipped.connect(seconds=SECONDS) as client:
        client.sendall(HEAD + FORM + b"Content-Length: %d\r\n\r\n" % len(body))
        start = time.monotonic()
        for at in range(0, len(body), 5000):
            client.sendall(body[at : at + 5000])
            threading.Event().wait(max(0, start + at / 50_000 - time.monotonic()))
        assert answer_of(client).startswith(b"HTTP/1.1 200 ")


def photo_of(pixels):
    """A PNG of some pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD, id="half a head"),
        pytest.param(HEAD + FORM + b"Content-Length: 9000\r\n\r\n--", id="some body"),
    ],
)
def test_who_says_no_more_is_cut(said, shipped):
    """The connection is closed without anybody's doing; no thread of ours waited."""
    with shipped.connect() as client:
        client.sendall(said)
        assert not answer_of(client).startswith(b"HTTP/1.1 200")


def test_headers_in_crumbs_are_cut(shipped):
    """A byte a second does not keep a head open: it has five seconds in all."""
    with shipped.connect() as client:
        client.setblocking(False)
        for byte in HEAD + b"X: " + b"y" * 60:
            try:
                client.sendall(bytes([byte]))
                threading.Event().wait(1)
                if client.recv(65536) == b"":
                    return
            except BlockingIOError:
                continue
            except ConnectionError:
                return
    pytest.fail("it is still open")


def test_a_body_in_crumbs_never_reaches_the_server(shipped, server):
    """The proxy has no limit for all of a body: it keeps it, unknown to the server."""
    with shipped.connect() as client:
        client.sendall(HEAD + FORM + b"Content-Length: 9000\r\n\r\n")
        for _ in range(15):
            client.sendall(b"x")
            threading.Event().wait(1)
        held = connections(server.port)
        assert held <= 32  # kept ones of nginx's; none of them has a request
        for _ in range(20):
            assert httpx.get(shipped.url + "/livez").status_code == 200


def connections(port):
    """How many connections a port of this machine has."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_one_address_cannot_have_it_all(shipped):
    """The 33rd request under way of an address is refused; another's is served."""
    half = HEAD + FORM + b"Content-Length: 9000\r\n\r\n--"
    clients = [shipped.connect("127.0.0.2") for _ in range(40)]
    try:
        for client in clients:
            client.sendall(half)
        # nginx's workers count together, but each looks at its connections in its time.
        wait_for(lambda: len(answered(clients)) == 8, "eight of them are refused")
        with shipped.connect("127.0.0.2") as one_more:
            one_more.sendall(half)
            answer = answer_of(one_more)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert re.search(rb"Retry-After: \d", answer)
        assert b"application/problem+json" in answer
        answer = httpx.post(
            shipped.url + "/detect",
            data={"modelname": "echo"},
            files={"file": photo()},
        )
        assert answer.status_code == 200
    finally:
        for client in clients:
            client.close()


def answered(clients):
    """Those of some connections that something has come on."""
    return select.select(clients, [], [], 0)[0]


def test_who_never_reads_is_cut(shipped):
    """Answers that nobody takes pile up for 30 s at most; others are served."""
    request = b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", shipped.port))
        client.settimeout(SECONDS)
        with pytest.raises(ConnectionError):
            send_for_ever(client, request * 50)
        assert httpx.get(shipped.url + "/livez").status_code == 200


def send_for_ever(client, data):
    """Send the same again and again, until the connection breaks."""
    while True:
        client.sendall(data)
