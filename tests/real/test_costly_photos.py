"""Photos that cost much, on a real server: others find a place, and nothing is wasted."""

import io
import os
import re
import select
import socket
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from support import tiny_graphs
from support.app_client import EDGE, form, photo
from support.repeating import Repeating
from support.servers import SECONDS, started, wait_for

pytestmark = pytest.mark.real

# One decoder a core, two at least; some of them may be just starting.
SHARE = max(2, os.cpu_count() or 1) // 2
# Some wait all the while, and leave room for others of their model.
CROWD = SHARE + 2
# More than a slow machine takes for all of it: nothing here is refused for its time.
FOR_EVER = 1000


def many_scans():
    """Return a progressive JPEG of 4 MP and 600 scans: seconds, in C, for 200 kB."""
    file = io.BytesIO()
    Image.new("RGB", (2048, 2000), (90, 120, 30)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 590 + b"\xff\xd9"


def large():
    """Return a PNG of 25 MP."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((5000, 5000, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one echoing detector."""
    folder, uploads, home = map(tmp_path_factory.mktemp, ("models", "pics", "server"))
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    with started(
        "app.py",
        folder=folder,
        uploads=uploads,
        tmp_path=home,
        WORKERS=1,
        DECODE_TIMEOUT_S=FOR_EVER,
        REQUEST_TIMEOUT_S=FOR_EVER,
        MAX_QUEUE_WAIT_S=FOR_EVER,
    ) as running:
        running.wait()
        yield running


def decoders(server):
    """Return the numbers of decoders by state, of waiting photos, and of ends."""
    text = httpx.get(server.url + "/metrics", timeout=SECONDS).text
    pattern = r'modelserver_decode(?:rs|r_ends_total)\{.*?"(\w+)"\} (\d+)'
    found = {state: int(value) for state, value in re.findall(pattern, text)}
    (waiting,) = re.findall(r"(?m)^modelserver_decodes_waiting (\d+)", text)
    return (
        {"costly": 0, "busy": 0, "left": 0, "deadline": 0}
        | found
        | {"waiting": int(waiting)}
    )


@contextmanager
def asking(server, data, *headers):
    """Ask for a photo without waiting for the answer; vanish in the end."""
    body = form({"modelname": "echo"}, data)
    head = [
        "POST /detect HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: multipart/form-data; boundary={EDGE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode() + body)
        yield client


class Crowd(Repeating):
    """Clients that ask for a photo again and again, and vanish in the end.

    Attributes:
        answers: one for each answer.
    """

    def __init__(self, server, data):
        super().__init__(CROWD)
        self.answers = []
        self._server = server
        self._data = data

    def ask(self):
        """Ask once, and wait for the answer or the end."""
        with asking(self._server, self._data) as client:
            while not self.over.is_set():
                if select.select([client], [], [], 0.05)[0]:
                    self.answers.append(client.recv(20))
                    break


def ended(server):
    """Return how many decoders were ended as nobody waited for them any more.

    The door tells so a moment after the deadline, if the engine does not see it first.
    """
    now = decoders(server)
    return now["left"] + now["deadline"]


def is_idle(server):
    """Return whether no photo is decoded or waits for it."""
    now = decoders(server)
    return not (now["busy"] or now["costly"] or now["waiting"])


@pytest.mark.parametrize("data", [many_scans(), large()], ids=["scans", "25 MP"])
def test_costly_photos_have_half_of_the_decoders_and_small_ones_a_place(server, data):
    """Small ones of any format are answered while costly ones wait for their turn."""
    small = [photo(), photo(form="JPEG"), photo(form="WEBP")]
    with Crowd(server, data) as crowd:
        wait_for(lambda: decoders(server)["waiting"], "costly photos wait")
        first = []
        for file in 5 * small:
            before = len(crowd.answers)
            assert server.post("/detect", "echo", file).status_code == 200
            first.append(len(crowd.answers) - before)
            assert decoders(server)["costly"] <= SHARE
    # Had each waited for its turn, two that came before it would have been first.
    assert min(first) < 2
    wait_for(lambda: is_idle(server), "nobody decodes for clients that have gone")
    assert server.post("/detect", "echo", photo()).status_code == 200


def test_a_photo_whose_client_has_gone_is_not_decoded_on(server):
    """Its decoder is ended, and another one takes its place."""
    before = decoders(server)["left"]
    with asking(server, many_scans()):
        wait_for(lambda: decoders(server)["costly"] == 1, "it is decoded")
    wait_for(lambda: decoders(server)["left"] == before + 1, "its decoder is ended")
    wait_for(lambda: is_idle(server), "nothing is decoded")


def test_a_photo_whose_deadline_has_passed_is_not_decoded_on(server):
    """It is a 504, and its decoder is ended."""
    before = ended(server)
    for milliseconds in (500, 1000, 4000, 16000):
        header = f"X-Request-Timeout-Ms: {milliseconds}"
        with asking(server, many_scans(), header) as client:
            answer = client.recv(65536)
        assert re.match(rb"HTTP/1.1 50[34] ", answer)
        wait_for(lambda: is_idle(server), "nothing is decoded")
        # On a slow machine, or if it is foreseen, none is begun in so short a time.
        if ended(server) > before:
            assert answer.startswith(b"HTTP/1.1 504 ")
            return
    pytest.fail("no decoder was ended")
