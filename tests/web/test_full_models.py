"""Models that are full, as clients see it, however door and engine are joined."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import tiny_graphs
from support.app_client import SECONDS, photo, post
from support.transports import TRANSPORTS

OVER = TRANSPORTS
LABELS = 'item { id: 21 name: "red" }'


@pytest.fixture
def serve_slowly(folder, serving):
    """A function that serves models that take a second, one photo at a time."""

    def serve(*names, **environ):
        for name in names:
            path = folder / f"{name}.frozen.pb"
            tiny_graphs.write(path, tiny_graphs.slow_detector(1.0))
            (folder / f"{name}.label_map.pbtxt").write_text(LABELS)
        limits = {"SLOTS": 1, "QUEUE_LENGTH": 1, "MAX_QUEUE_WAIT_S": 60}
        return serving(**{**limits, **environ})

    return serve


def send(client, model="m"):
    """Send a photo; give the answer's status and problem."""
    answer = post(client.application.test_client(), "/detect", model, photo())
    said = answer.json
    return answer.status_code, said["title"] if isinstance(said, dict) else ""


def refusal(client, handled=0):
    """What a door's main loop would say to a photo now."""
    return client.application.extensions["modelserver"].refusal(handled)


def eventually(condition):
    """Wait until something holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_full_model_refuses_and_its_neighbour_does_not(serve_slowly):
    """Whoever finds no place is told at once, and all others are answered."""
    client = serve_slowly("m", "n")
    with ThreadPoolExecutor(9) as clients:
        sent = [clients.submit(send, client) for _ in range(8)]
        other = clients.submit(send, client, "n")
        answers = [one.result(SECONDS) for one in sent]
        assert other.result(SECONDS)[0] == 200
    assert {status for status, _ in answers} == {200, 503}
    assert {title for status, title in answers if status == 503} == {"Overloaded"}
    assert send(client) == (200, "")


def test_a_door_knows_without_asking_that_all_models_are_full(serve_slowly):
    """Not before, and not once there is room again."""
    client = serve_slowly("m")
    assert refusal(client, handled=16) is None
    with ThreadPoolExecutor(8) as clients:
        sent = [clients.submit(send, client) for _ in range(8)]
        eventually(lambda: refusal(client) is not None)
        assert refusal(client).status == 503
        assert refusal(client).retry_after_s >= 1
        for one in sent:
            one.result(SECONDS)
    eventually(lambda: refusal(client) is None)


def test_who_cannot_wait_so_long_is_refused_and_never_run(serve_slowly):
    """The caller's own limit counts, once the model's pace is known."""
    client = serve_slowly("m", QUEUE_LENGTH=8)
    assert send(client) == (200, "")
    with ThreadPoolExecutor(5) as clients:
        sent = [clients.submit(send, client) for _ in range(4)]
        backend = client.application.extensions["modelserver"]
        (entry,) = backend.engine.registry
        eventually(lambda: entry.loaded.queue.waiting >= 2)
        hurried = client.application.test_client()
        answer = post(
            hurried, "/detect", "m", photo(), headers={"X-Request-Timeout-Ms": "300"}
        )
        assert answer.status_code == 503
        assert answer.json["title"] == "Overloaded"
        assert [one.result(SECONDS)[0] for one in sent] == [200] * 4
