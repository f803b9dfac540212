"""Requests that are made to harm, over raw sockets: refused in words, and survived."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import hostile_requests, tiny_graphs
from support.app_client import EDGE, SECONDS, form, photo
from support.echo_servers import echoing
from support.servers import children

pytestmark = pytest.mark.real

GOOD = form({"modelname": "m"}, photo())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one echoing detector, and the folder of its uploads."""
    with echoing(tmp_path_factory, MAX_UPLOAD_MB=12) as running:
        yield running


@pytest.fixture(autouse=True)
def it_lives_on(server):
    """After each test: the same worker, answering, with nothing left in its folder."""
    before = children(server.process.pid)
    yield
    assert children(server.process.pid) == before
    assert httpx.get(f"{server.url}/livez", timeout=SECONDS).status_code == 200
    assert list(server.uploads.iterdir()) == []


def head(*headers, method="POST", path="/detect", kind=True, host="127.0.0.1"):
    """The head of a request, up to its empty line."""
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    if kind:
        lines.append(f"Content-Type: multipart/form-data; boundary={EDGE}")
    return "\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode()


def whole(body, *headers, **options):
    """A request with its body's length."""
    return head(f"Content-Length: {len(body)}", *headers, **options) + body


def chunked(body, size):
    """A body in chunks."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def expect(answer, status, slug=None):
    """Check that an answer is a problem, and return its detail."""
    top, _, body = answer.partition(b"\r\n\r\n")
    while top.startswith(b"HTTP/1.1 100 "):
        top, _, body = body.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 %d " % status), answer[:500]
    assert b"application/problem+json" in top
    said = json.loads(body)
    assert said["type"] == (f"/problems/{slug}" if slug else "about:blank")
    assert not hostile_requests.LEAKS.search(body)
    return said["detail"]


LARGE = form({"modelname": "m"}, b"\xff" * (13 << 20))
MANY = form({f"field{number}": "x" for number in range(65)})
LONG = GOOD.replace(b"Content-", b"X: " + b"y" * 900_000 + b"\r\nContent-", 1)


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        pytest.param(whole(LARGE), 413, "upload-too-large", id="large"),
        pytest.param(
            head("Transfer-Encoding: chunked") + chunked(LARGE, 65536),
            413,
            "upload-too-large",
            id="large in chunks",
        ),
        pytest.param(
            head("Content-Length: 99999999", "Expect: 100-continue"),
            413,
            "upload-too-large",
            id="large if asked for",
        ),
        pytest.param(
            head("Transfer-Encoding: chunked") + chunked(b"x" * 1_000_000, 1),
            400,
            "bad-request",
            id="a million chunks",
        ),
        pytest.param(whole(MANY), 413, "upload-too-large", id="65 parts"),
        pytest.param(
            whole(form({"modelname": "m" * 600_000})), 413, "upload-too-large", id="long name"
        ),
        pytest.param(
            whole(form({"x": "m" * 600_000})), 400, "missing-field", id="long field"
        ),
        pytest.param(whole(LONG), 413, "upload-too-large", id="long part header"),
        pytest.param(whole(b"p" * (9 << 20) + GOOD), 400, "bad-request", id="preamble"),
        pytest.param(whole(GOOD[:-20]), 400, "bad-request", id="no last boundary"),
        pytest.param(
            head(f"Content-Length: {len(GOOD) - 9}") + GOOD, 400, "bad-request", id="short"
        ),
        pytest.param(
            whole(GOOD, "Content-Encoding: gzip"), 415, "unsupported-encoding", id="gzip"
        ),
        pytest.param(whole(b"{}", kind=False), 400, "bad-request", id="no type"),
        pytest.param(whole(GOOD, host=None), 400, "untrusted-host", id="no host"),
        pytest.param(
            whole(GOOD, host="evil.example"), 400, "untrusted-host", id="rebound host"
        ),
        pytest.param(whole(GOOD, "Host: b"), 400, None, id="two hosts"),
        pytest.param(
            whole(GOOD, "Transfer-Encoding: chunked"), 400, None, id="two lengths"
        ),
        pytest.param(
            head("Transfer-Encoding: br, chunked") + chunked(GOOD, 99),
            400,
            None,
            id="a coding that nobody has",
        ),
        pytest.param(
            whole(GOOD, "Sec-Fetch-Site: cross-site"), 403, "cross-site", id="cross-site"
        ),
        pytest.param(whole(GOOD, method="TRACE"), 405, None, id="trace"),
        pytest.param(whole(b"", path="/console"), 404, None, id="debugger"),
    ],
)  # fmt: skip
def test_each_is_refused_in_words(sent, status, slug, server):
    """With the documented status, whatever of it was still on its way."""
    expect(hostile_requests.talk(server.port, sent), status, slug)


def test_harmless_oddities_are_served(server):
    """A boundary of 200 characters, no encoding by name, a look before the body."""
    long = "b" * 200
    kind = f"Content-Type: multipart/form-data; boundary={long}"
    for sent in (
        whole(GOOD.replace(EDGE.encode(), long.encode()), kind, kind=False),
        whole(GOOD, "Content-Encoding: identity"),
        whole(GOOD, "Expect: 100-continue"),
        whole(GOOD + b"\r\n"),
        head("Transfer-Encoding: chunked") + chunked(GOOD, 10),
    ):
        answer = hostile_requests.talk(server.port, sent, half=False)
        assert b" 200 OK\r\n" in answer, sent


def test_forwarded_headers_of_anybody_change_nothing(server):
    """Nobody is let in for them; a proxy that answers for others lets nobody in."""
    sent = whole(GOOD, "X-Forwarded-For: ::1, 127.0.0.1", "X-Forwarded-Proto: https")
    assert b" 200 OK\r\n" in hostile_requests.talk(server.port, sent, half=False)
    sent = whole(GOOD, "X-Forwarded-For: 127.0.0.1, 192.0.2.1")
    expect(hostile_requests.talk(server.port, sent), 403, "loopback-only")


NAMES = [
    b"../x", b"..%2fx", b"/etc", b".", b"a\0b", b"a/b", b"a\\b", b"m" * 10_000,
    b"\r\nX: y", "\N{PILE OF POO}".encode(), b"\xff\xfe", b"__proto__", b"CON",
    b"m\n2026-01-01 INFO fake", b"\x1b[31mred",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_a_hostile_model_name_is_just_not_found(name, server):
    """In the form of a name that is not there."""
    body = GOOD.replace(b"\r\n\r\nm\r\n", b"\r\n\r\n" + name + b"\r\n", 1)
    expect(hostile_requests.talk(server.port, whole(body)), 404, "model-not-found")


@pytest.mark.parametrize("name", [*NAMES[:-2], b"x" * 300], ids=lambda n: repr(n[:12]))
def test_a_hostile_file_name_is_not_looked_at(name, server):
    """It names nothing on the server; what no header may hold is refused."""
    escaped = name.replace(b"\r\n", b"%0D%0A")
    body = GOOD.replace(b"photo.jpg", escaped)
    answer = hostile_requests.talk(server.port, whole(body), half=False)
    assert re.match(rb"HTTP/1.1 (200|400|413) ", answer)


def test_answers_do_not_mix(server):
    """Pairs at once, with the same file name: each has its own photo's answer."""

    def one(red):
        body = form({"modelname": "m"}, photo((red, 0, 0)))
        answer = hostile_requests.talk(server.port, whole(body), half=False)
        return int(re.search(rb'"class":(\d+)', answer)[1])

    reds = [number % 256 for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, reds))
    assert found == [tiny_graphs.echoed(red, 0, 0)[0] for red in reds]


def check(server, count, seed):
    """Send mutated requests; none may cost more than its own refusal."""
    requests = hostile_requests.seeds(GOOD, EDGE)
    outcome = hostile_requests.run(server.port, requests, count=count, seed=seed)
    assert outcome.bad == []
    assert outcome.statuses[200] > count / 50, outcome.statuses
    assert outcome.statuses[400] > count / 50, outcome.statuses
    assert sum(outcome.statuses.values()) == count


def test_two_thousand_mutated_requests(server):
    """No 5xx but 503 and 507, nothing told, the same worker."""
    check(server, 2_000, seed=0)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_requests(server):
    """The same, for as long as it takes; other requests than the fast part's."""
    check(server, 100_000, seed=1_000_000)


@pytest.mark.slow
def test_a_client_that_stops_is_told_so(server):
    """Ten seconds of silence within a body are 408 and the end of the connection."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD[:-30])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    expect(answer, 408, "body-too-slow")
    assert time.monotonic() - began > 9


@pytest.mark.slow
def test_a_fair_slow_client_is_served(server):
    """5 MB at 50 kB a second: longer than a minute, never silent."""
    body = form({"modelname": "m"}, photo() + bytes(5_000_000))
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(head(f"Content-Length: {len(body)}"))
        for at in range(0, len(body), 25_000):
            connection.sendall(body[at : at + 25_000])
            time.sleep(0.5)  # the load itself, not a wait for something
        assert b" 200 OK\r\n" in connection.recv(65536)
