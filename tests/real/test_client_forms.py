"""Requests that odd but honest clients send, byte by byte, and a server as PID 1."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import tiny_graphs
from support.app_client import EDGE, SECONDS, form, photo
from support.servers import ROOT, children, started, wait_for

pytestmark = pytest.mark.real

FORM = form({"modelname": "m"}, photo())
USUAL = f"multipart/form-data; boundary={EDGE}"
UNSHARE = shutil.which("unshare")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one echoing detector."""
    folder, uploads, work = (tmp_path_factory.mktemp(name) for name in "mup")
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    with started("app.py", folder=folder, uploads=uploads, tmp_path=work) as running:
        running.wait()
        yield running


def ask(server, *lines, body=FORM, version="1.1"):
    """Send a request's lines and body over a plain socket; give status and JSON."""
    top = "\r\n".join([f"POST /detect HTTP/{version}", *lines, "", ""]).encode()
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
        client.sendall(top + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)


def lines(kind=USUAL, body=FORM):
    """The lines of a usual head."""
    return (
        "Host: 127.0.0.1",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )


@pytest.fixture(scope="module")
def usual(server):
    """What a usual request is answered."""
    status, found = ask(server, *lines())
    assert status == 200
    assert len(found) == 1
    return found


@pytest.mark.parametrize(
    "kind",
    [
        f"Multipart/Form-Data; boundary={EDGE}",
        f"multipart/form-data;boundary={EDGE}",
        f'multipart/form-data; boundary="{EDGE}"',
        f"multipart/form-data; Boundary={EDGE}",
        f"multipart/form-data ; boundary={EDGE} ",
        f"multipart/form-data; charset=utf-8; boundary={EDGE}",
        f'multipart/form-data; boundary="{EDGE}"; charset=UTF-8',
    ],
)
def test_a_content_type_may_be_spelt_in_many_ways(kind, server, usual):
    """Capitals, quotes, blanks and a charset change nothing."""
    assert ask(server, *lines(kind)) == (200, usual)


@pytest.mark.parametrize(
    "body",
    [
        b"a preamble, for mail readers\r\n" + FORM,
        FORM + b"an epilogue\r\n",
        FORM.removesuffix(b"\r\n"),
    ],
    ids=["preamble", "epilogue", "no last line end"],
)
def test_a_form_may_have_what_the_standard_allows(body, server, usual):
    """What stands around the parts is passed over."""
    assert ask(server, *lines(body=body), body=body) == (200, usual)


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
@pytest.mark.parametrize("after", [b"", b";name=value", b' ; x="y"'])
def test_a_form_may_come_in_chunks(size, after, server, usual):
    """Of any size, with extensions; the length is nowhere told."""
    pieces = [FORM[at : at + size] for at in range(0, len(FORM), size)]
    chunks = [b"%X%s\r\n%s\r\n" % (len(one), after, one) for one in pieces]
    body = b"".join([*chunks, b"0\r\n\r\n"])
    head = [line for line in lines() if not line.startswith("Content-Length")]
    answer = ask(server, *head, "Transfer-Encoding: chunked", body=body)
    assert answer == (200, usual)


@pytest.mark.parametrize("host", [(), ("Host: 127.0.0.1",)], ids=["no host", "host"])
def test_http_1_0_is_answered(host, server, usual):
    """Old clients name no host, and the connection is closed after the answer."""
    head = [line for line in lines() if line.startswith("Content")]
    assert ask(server, *host, *head, version="1.0") == (200, usual)


def unshared():
    """Give the words that make a process PID 1, of a user without a name."""
    words = [UNSHARE, "--user", "--map-user=54321", "--pid", "--fork", "--kill-child"]
    tried = UNSHARE and subprocess.run(
        [*words, "true"], capture_output=True, check=False
    )
    if not tried or tried.returncode:
        pytest.skip("no user namespaces for this user")
    return words


def test_it_serves_as_pid_1_of_a_user_without_a_name(tmp_path, folder, uploads):
    """As in containers with a random user: no home, no entry in passwd, nobody above.

    What it starts is reaped, SIGTERM ends it and its models, and nothing is left in the
    folder that it ran in, where such a user's home seems to be.
    """
    words = unshared()
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "MODEL_FOLDER": str(folder),
        "UPLOAD_FOLDER": str(uploads),
    }
    errors = tmp_path / "errors"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [*words, sys.executable, str(ROOT / "app.py")],
            cwd=ROOT,
            env=variables,
            stdout=log,
            stderr=log,
        )

    def answers():
        try:
            return ask(SimpleNamespace(port=port), *lines())[0] == 200
        except (OSError, IndexError):
            return False

    try:
        wait_for(answers, f"it answers: {errors.read_text()}", SECONDS)
        (first,) = children(process.pid)
        status = Path(f"/proc/{first}/status").read_text()
        assert re.search(r"NSpid:.*\t1\n", status)
        os.kill(first, signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert list(uploads.iterdir()) == []
    assert not (ROOT / "~").exists()
