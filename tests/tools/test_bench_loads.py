"""Load from many clients at a time."""

import threading
from collections import Counter

import pytest

from modelserver.tools import bench
from modelserver.tools.bench import BenchError
from support.bench_servers import TIMING, raw_server, stand_in, unused_url

LONG = 60.0


def target(url, photos=(b"photo",)):
    """A target at a URL."""
    return bench.Target.of(url, "/detect", "net", photos)


@pytest.mark.parametrize(("clients", "requests"), [(1, 1), (3, 20), (4, 2)])
def test_a_number_of_requests_is_kept_to(clients, requests):
    """All clients together send so many, each over a connection of its own."""
    with stand_in() as server:
        seen = bench.run(target(server.url), clients, LONG, requests=requests)
    assert len(server.posts) == len(seen.samples) == requests
    assert server.connections == clients
    assert seen.clients == clients
    assert {sample.status for sample in seen.samples} == {200}
    assert seen.seconds == max(sample.ended_s for sample in seen.samples)


def test_a_sample_has_the_servers_timing_and_ours():
    """The header comes as it was sent; the times are of this process's clock."""
    with stand_in() as server:
        (sample,) = bench.run(target(server.url), 1, LONG, requests=1).samples
    assert sample.timing.decode().strip() == TIMING
    assert 0 < sample.took_ms / 1000 <= sample.ended_s


def test_a_server_without_timing_is_measured_too():
    """Other servers do not send the header."""
    with stand_in() as server:
        server.headers_too = {}
        (sample,) = bench.run(target(server.url), 1, LONG, requests=1).samples
    assert sample.timing == b""


def test_photos_come_in_turn():
    """Each client begins with another photo, so that all are on their way at once."""
    photos = [b"one", b"two", b"three"]
    with stand_in() as server:
        bench.run(target(server.url, photos), 1, LONG, requests=6)
        bodies = [body for _, _, body in server.posts]
        assert [next(p for p in photos if p in body) for body in bodies] == photos * 2
        server.posts.clear()
        together = threading.Barrier(3)

        def answer(_number):
            together.wait(LONG)
            return 200, b"[]"

        server.answer = answer
        bench.run(target(server.url, photos), 3, LONG, requests=3)
        bodies = [body for _, _, body in server.posts]
        assert {next(p for p in photos if p in body) for body in bodies} == set(photos)


def test_clients_stop_when_the_time_is_over():
    """A round has its length, and the answers that came within it."""
    with stand_in() as server:
        seen = bench.run(target(server.url), 2, 0.05)
    assert seen.seconds == 0.05
    assert all(0 < sample.ended_s <= 0.05 for sample in seen.samples)


def test_the_clock_starts_when_each_client_has_had_an_answer():
    """Answers before that are left out: the server was not at work for all clients."""
    early = 10
    others = threading.Semaphore(0)
    with stand_in() as server:

        def answer(number):
            if number == 0:  # one client's first request
                for _ in range(early):
                    others.acquire(timeout=LONG)
            others.release()
            return 200, b"[]"

        server.answer = answer
        seen = bench.run(target(server.url), 2, 0.05)
    assert len(server.posts) - len(seen.samples) >= early + 1


def test_every_status_is_noted():
    """Refusals and broken connections are samples; the client goes on."""
    with stand_in() as server:
        server.answer = lambda number: ((200, 503, 0, 200)[number], b"[]")
        seen = bench.run(target(server.url), 1, LONG, requests=4)
    statuses = [sample.status for sample in seen.samples]
    assert statuses == [200, 503, bench.NO_ANSWER, 200]


def test_an_answer_outside_is_left_out_unless_it_is_an_error():
    """Answers before or after the round are left out, but no error is hidden."""
    load = bench._Load(target("http://127.0.0.1:1"), 1, 1.0, None)
    load._started = 100.0
    load._samples[0] = [
        bench.Sample(status, 100.0 + ended_s, 1.0)
        for status in (200, 503)
        for ended_s in (-0.5, 0.5, 1.5)
    ]
    assert [(s.status, s.ended_s) for s in load.result().samples] == [
        (200, 0.5),
        (503, -0.5),
        (503, 0.5),
        (503, 1.5),
    ]


def test_a_server_that_goes_away_ends_its_clients():
    """They keep what they have, with one request that had no answer, and do not spin."""
    with stand_in() as server:
        server.headers_too = {"Connection": "close"}

        def answer(number):
            if number == 1:
                server.socket.close()
            return 200, b"[]"

        server.answer = answer
        seen = bench.run(target(server.url), 1, LONG)
    statuses = Counter(sample.status for sample in seen.samples)
    assert statuses[200] >= 1
    assert statuses[bench.NO_ANSWER] >= 1


def test_what_is_no_such_server_is_a_sentence():
    """An answer that cannot be measured is an error."""
    with (
        raw_server(b"HTTP/1.1 200 OK\r\n\r\n") as url,
        pytest.raises(BenchError, match="Content-Length is needed"),
    ):
        bench.run(target(url), 1, LONG)


def test_nobody_there_is_a_sentence():
    """The first connection tells; no thread is started."""
    before = threading.active_count()
    with pytest.raises(BenchError, match="No server answers"):
        bench.run(target(unused_url()), 3, LONG)
    assert threading.active_count() == before
