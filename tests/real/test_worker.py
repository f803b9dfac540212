"""The worker, over real sockets: kept connections, and what gunicorn itself refuses."""

import json
import re
import socket
import threading

import pytest

from support import tiny_graphs
from support.app_client import SECONDS, form, photo
from support.echo_servers import echoing

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one echoing detector."""
    with echoing(tmp_path_factory) as running:
        yield running


def talk(server, *pieces):
    """Send bytes on one connection and give all that comes until it is closed."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=SECONDS) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def request(body, *headers, path="/detect"):
    """A POST of a form, as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: multipart/form-data; boundary=edge-of-a-part",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_a_connection_that_is_kept_answers_each_request_in_turn(server):
    """Far more than a thread stays for, some of them sent together."""
    reds = [index % 256 for index in range(200)]
    bodies = [form({"modelname": "m"}, photo((red, 0, 0))) for red in reds]
    requests = [request(body, f"Content-Length: {len(body)}") for body in bodies]
    last = request(b"", "Content-Length: 0", "Connection: close", path="/livez")
    answers = talk(server, *requests, last)
    classes = [int(word) for word in re.findall(rb'"class":(\d+)', answers)]
    assert classes == [tiny_graphs.echoed(red, 0, 0)[0] for red in reds]


def test_a_client_that_closes_its_side_after_its_request_is_answered(server):
    """As ``nc -N`` and some scripts do, also if the photo takes a while."""
    body = form({"modelname": "m"}, photo((100, 0, 0), (5000, 4000)))
    sent = request(body, f"Content-Length: {len(body)}", "Connection: close")
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert re.findall(rb"HTTP/1.1 (\d+)", answer)[-1] == b"200"


@pytest.mark.parametrize("stray", [b"\r\n", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
def test_a_stray_line_end_after_a_body_is_no_request(stray, apart, server):
    """As clients send it that print a line after their form."""
    body = form({"modelname": "m"}, photo((100, 0, 0)))
    sent = request(body, f"Content-Length: {len(body)}")
    last = request(b"", "Content-Length: 0", "Connection: close", path="/livez")
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        answer = b""
        for piece in (sent, stray, sent) if apart else (sent + stray + sent,):
            connection.sendall(piece)
            if apart and piece == sent:
                answer += connection.recv(65536)
        connection.sendall(stray + last)
        while data := connection.recv(65536):
            answer += data
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"405"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 99 + b"\r\n", 431),
        (request(b"", "Content-Length: x"), 400),
        (request(b"", "Expect: miracles"), 417),
    ],
    ids=["line", "long line", "long header", "many headers", "length", "expect"],
)
def test_what_gunicorn_refuses_is_a_problem_too(sent, status, server):
    """In the same form as all errors, with an id, and nothing of it echoed."""
    head, _, body = talk(server, sent).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/problem+json" in head
    assert b"X-Request-Id: " in head
    assert b"Server-Timing: " in head
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["error"] == problem["detail"]
    assert b"nonsense" not in body


@pytest.mark.parametrize(
    ("path", "kind", "members"),
    [
        ("/v2/models/m/infer", "application/octet-stream", ["error"]),
        ("/v1/models/m:predict", "application/json", ["error"]),
        ("/detect", "application/json", ["error", "detections"]),
        (
            "/v1/vision/detection",
            "multipart/form-data; boundary=x",
            ["success", "error", "code", "duration"],
        ),
    ],
)
@pytest.mark.parametrize("refusal", [("999999999", b"413"), ("nonsense", b"400")])
def test_what_the_worker_refuses_is_said_in_each_protocols_form(
    path, kind, members, refusal, server
):
    """Bodies that are too large, and heads that cannot be read."""
    length, status = refusal
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    answer = talk(server, f"{head}Content-Length: {length}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert b"Content-Type: application/json\r\n" in head
    assert list(json.loads(body)) == members


@pytest.mark.parametrize("size", [b"0x5", b"-5", b"g", b"5\r\nhello"])
def test_a_chunk_of_no_size_is_a_bad_request(size, server):
    """Not an error of the server's; the answer says what it is, and quotes nothing."""
    body = size + b"\r\nhello\r\n"
    answer = talk(
        server, request(body, "Transfer-Encoding: chunked", "Connection: close")
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b"is malformed: " in answer
    assert b"b'" not in answer


def test_a_body_in_chunks_is_read_like_any_other(server):
    """As curl sends what it reads from a pipe."""
    whole = form({"modelname": "m"}, photo((100, 0, 0)))
    chunks = b"".join(
        f"{len(part):x}\r\n".encode() + part + b"\r\n"
        for part in (whole[:50], whole[50:])
    )
    answer = talk(
        server,
        request(
            chunks + b"0\r\n\r\n", "Transfer-Encoding: chunked", "Connection: close"
        ),
    )
    assert b'"class":11' in answer


def test_the_clients_own_time_runs_while_its_body_comes(server):
    """It counts from the head, as the client does."""
    body = form({"modelname": "m"}, photo())
    length = f"Content-Length: {len(body)}"
    headers = ("X-Request-Timeout-Ms: 150", "Expect: 100-continue", "Connection: close")
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        connection.sendall(request(b"", length, *headers))
        # The head was read by then.
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        threading.Event().wait(0.2)
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 504 ")


def test_a_body_that_goes_to_the_upload_folder_first_is_read_like_any_other(server):
    """Larger than what is kept in memory, as a form, in chunks and by itself."""
    large = photo((100, 0, 0)) + bytes(3_000_000)
    whole = form({"modelname": "m"}, large)
    length = f"Content-Length: {len(whole)}"
    assert b'"class":11' in talk(server, request(whole, length, "Connection: close"))
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(whole), whole)
    coding = "Transfer-Encoding: chunked"
    assert b'"class":11' in talk(server, request(chunks, coding, "Connection: close"))
    lines = [
        "POST /detect?modelname=m HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(large)}",
        "Connection: close",
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    assert b'"class":11' in talk(server, head + large)


def test_an_old_clients_body_is_read(server):
    """HTTP/1.0 has lengths too, and closes after the answer."""
    body = form({"modelname": "m"}, photo((100, 0, 0)))
    sent = request(body, f"Content-Length: {len(body)}").replace(b"/1.1", b"/1.0", 1)
    assert b'"class":11' in talk(server, sent)


def test_stalled_uploads_and_silent_connections_hold_up_nobody(server):
    """Ten times as many as there are threads."""
    body = form({"modelname": "m"}, photo((100, 0, 0)))
    whole = request(body, f"Content-Length: {len(body)}", "Connection: close")
    stalled = []
    for number in range(900):
        connection = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        connection.sendall(whole[: number % (len(whole) - 1)])
        stalled.append(connection)
    for _ in range(20):
        assert b'"class":11' in talk(server, whole)
    last = stalled[-1]
    last.sendall(whole[899 % (len(whole) - 1) :])
    assert last.recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in stalled:
        connection.close()
