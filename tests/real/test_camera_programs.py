"""Programs that watch cameras ask a real server, byte by byte as they do it."""

import json
import socket

import pytest

from support.app_client import photo
from support.camera_requests import LISTS, UPDATES, photos
from support.echo_servers import echoing
from support.servers import SECONDS

pytestmark = pytest.mark.real

RED = (200, 100, 50)
MODEL = "ipcam-general"
# Frigate's own array, and the least confidence that it does not stop at.
MOST, LEAST = 20, 0.4
PHOTOS = photos(photo(RED, form="JPEG"), MODEL)
# What Blue Iris and Agent DVR read of an answer, and of which type.
MEMBERS = {
    "success": bool,
    "message": str,
    "predictions": list,
    "count": int,
    "command": str,
    "moduleId": str,
    "executionProvider": str,
    "canUseGPU": bool,
    "inferenceMs": int,
    "processMs": int,
    "analysisRoundTripMs": int,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one detector, for this machine alone, and so without a token."""
    labels = 'item { id: 21 name: "dog" }\n'
    with echoing(tmp_path_factory, MODEL, labels) as running:
        yield running


def ask(server, asked, times=1):
    """Send a request, again and again on one connection; return the last answer's JSON."""
    address = ("127.0.0.1", server.port)
    with (
        socket.create_connection(address, timeout=SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(times):
            connection.sendall(asked.to(server.port))
            assert answers.readline().split()[1] == b"200"
            length = 0
            while line := answers.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = answers.read(length)
    return json.loads(body)


@pytest.mark.parametrize("asked", PHOTOS, ids=lambda asked: asked.name)
def test_a_photo_is_answered_as_the_program_reads_it(asked, server):
    """Twice on one connection: objects by the surest, in whole pixels, none unsure."""
    told = ask(server, asked, times=2)
    assert {name: type(told[name]) for name in MEMBERS} == MEMBERS
    assert told["success"]
    found = told["predictions"]
    assert 1 <= len(found) == told["count"] <= MOST
    confidences = [one["confidence"] for one in found]
    assert confidences == sorted(confidences, reverse=True)
    assert min(confidences) >= LEAST
    assert found[0]["label"] == "dog"
    for one in found:
        box = [one[side] for side in ("x_min", "y_min", "x_max", "y_max")]
        assert all(type(side) is int for side in box)
        assert 0 <= box[0] <= box[2] <= 32
        assert 0 <= box[1] <= box[3] <= 24


@pytest.mark.parametrize("asked", LISTS, ids=lambda asked: asked.name)
def test_the_models_are_listed_by_their_names(asked, server):
    """A POST without a body, which they are chosen from."""
    told = ask(server, asked)
    assert told["success"]
    assert told["models"] == [MODEL]
    assert told["command"] == "list"


@pytest.mark.parametrize("asked", UPDATES, ids=lambda asked: asked.name)
def test_there_is_never_an_update(asked, server):
    """The versions are there, in the parts that are read."""
    told = ask(server, asked)
    assert told["updateAvailable"] is False
    assert told["version"] is None
    for which in ("current", "latest"):
        assert {"major", "minor", "patch", "build", "file", "releaseNotes"} <= set(
            told[which]
        )
