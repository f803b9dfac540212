"""When the client tries again, and how long it waits."""

import asyncio
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver import client
from modelserver.client import Policy
from modelserver.client.errors import refusal
from modelserver.client.retries import Attempts, retry_after_s
from support.bench_servers import raw_server, stand_in, unused_url
from support.client_fakes import BOTH, Answers, found, note_waits, problem
from support.servers import wait_for

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


@pytest.fixture(params=BOTH)
def make(request):
    """Makes a client of either kind on some answers."""
    return BOTH[request.param]


@pytest.fixture
def waits(monkeypatch):
    """The seconds that a client would have waited."""
    return note_waits(monkeypatch)


def unavailable(retry_after=""):
    """A 503."""
    return refusal(client.Problem("t", "Full", 503, "Full."), retry_after)


class Clock:
    """A clock that stands."""

    now = 100.0

    def __call__(self):
        """What it shows."""
        return self.now


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 120 ", 120.0),
        ("9" * 400, 999999999999.0),
        (format_datetime(NOW + timedelta(seconds=5), usegmt=True), 5.0),
        (format_datetime(NOW - timedelta(days=5), usegmt=True), 0.0),
        ("Sun, 22 Nov 2026 12:00:07 -0000", 7.0),
        ("Sunday, 22-Nov-26 12:00:07 GMT", 7.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    """A header that is neither counts as none."""
    assert retry_after_s(header, NOW) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_breaks_the_client(header):
    """Any header gives seconds of at least 0, or None."""
    seconds = retry_after_s(header)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_the_server_is_never_asked_sooner_than_it_says(chance):
    """The wait is up to a quarter longer, so that refused clients do not come back together."""
    attempts = Attempts(Policy(), Clock(), lambda: chance)
    wait = attempts.wait_after(unavailable("4"))
    assert wait == 4 * (1 + chance / 4)


def test_without_a_word_waits_double():
    """Waits double from an eighth of a second up to eight seconds."""
    attempts = Attempts(Policy(retries=None, total_s=1e9), Clock(), lambda: 0.0)
    seen = [attempts.wait_after(unavailable()) for _ in range(60)]
    assert seen[:7] == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert set(seen[7:]) == {4.0}


def test_tries_are_counted():
    """After the last retry the error is raised."""
    attempts = Attempts(Policy(retries=2), Clock())
    for _ in range(2):
        attempts.wait_after(unavailable())
    last = unavailable()
    with pytest.raises(client.Unavailable) as caught:
        attempts.wait_after(last)
    assert caught.value is last


def test_tries_end_in_time():
    """No try begins after the total; a longer wait is not waited at all."""
    clock = Clock()
    attempts = Attempts(Policy(retries=None, total_s=10), clock, lambda: 0.0)
    assert attempts.wait_after(unavailable("10")) == 10
    clock.now += 4
    with pytest.raises(client.Unavailable):
        attempts.wait_after(unavailable("7"))


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 422, 429, 500, 504, 507])
def test_what_will_fail_again_is_not_tried_again(make, waits, status):
    """No 4xx is tried again, even with a Retry-After."""
    answers = Answers(problem(status, "no", **{"Retry-After": "1"}))
    with pytest.raises(client.Refused):
        make(answers).detect("net", b"photo")
    assert len(answers.requests) == 1
    assert waits == []


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(problem(503, "overloaded"), id="503"),
        pytest.param(problem(502, "bad-gateway"), id="502"),
        pytest.param(httpx.ConnectError("refused"), id="refused"),
        pytest.param(httpx.ConnectTimeout(""), id="connect timeout"),
        pytest.param(httpx.ReadError("reset"), id="reset"),
        pytest.param(httpx.RemoteProtocolError("cut off"), id="cut off"),
    ],
)
def test_what_may_work_later_is_tried_again(make, waits, failure):
    """The client sends the same photo, whole, again."""
    answers = Answers(failure, failure, found())
    assert len(make(answers).detect("net", b"photo")) == 2
    assert len(waits) == 2
    first, *others = [request.content for request in answers.requests]
    assert others == [first, first]


def test_the_servers_word_is_waited_for(make, waits):
    """The client waits for Retry-After, in any spelling of the header's name."""
    answers = Answers(problem(503, "full", **{"retry-after": "3"}), found())
    make(answers).detect("net", b"photo")
    assert 3 <= waits[0] <= 3.75


def test_patience_has_an_end(make, waits):
    """The last error says why, in the server's words."""
    answers = Answers(problem(503, "overloaded"))
    with pytest.raises(client.Unavailable, match="This is overloaded"):
        make(answers, retries=3).detect("net", b"photo")
    assert len(answers.requests) == 4


def test_a_policy_may_be_given(make, waits):
    """``retries`` takes a ``Policy`` in place of a number."""
    answers = Answers(problem(503, "full", **{"Retry-After": "5"}))
    with pytest.raises(client.Unavailable):
        make(answers, retries=Policy(None, total_s=1)).detect("net", b"photo")
    assert waits == []


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (httpx.ConnectError("no route"), client.Unreachable, "No server answers at"),
        (httpx.ReadTimeout(""), client.TimedOut, "takes too long: ReadTimeout"),
        (httpx.WriteTimeout("slow"), client.TimedOut, "takes too long: slow"),
        (httpx.WriteError("reset"), client.ConnectionBroken, "broke: reset"),
        (httpx.UnsupportedProtocol("?"), client.BadAnswer, "is not understood"),
    ],
)
def test_the_networks_errors_are_ours(make, failure, kind, said):
    """Each error has the address, in one sentence, and the cause behind it."""
    with pytest.raises(kind, match=said) as caught:
        make(Answers(failure), retries=0).detect("net", b"photo")
    assert "server.test:5000" in str(caught.value)
    assert caught.value.__cause__ is failure
    assert caught.value.problem is None


def once(kind, url, **options):
    """Ask a server on a socket, by either client."""
    if kind == "sync":
        with client.Client(url, **options) as made:
            return made.detect("net", b"photo")

    async def ask():
        async with client.AsyncClient(url, **options) as made:
            return await made.detect("net", b"photo")

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", BOTH)
def test_a_connection_that_breaks_is_made_anew(kind):
    """The client connects again after a server closes without an answer."""
    with stand_in() as server:
        server.answer = lambda number: (200, b"[]") if number else (0, b"")
        assert list(once(kind, server.url)) == []
        assert len(server.posts) == 2


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(b"", client.ConnectionBroken, id="nothing"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[",
            client.ConnectionBroken,
            id="cut off",
        ),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", client.ConnectionBroken, id="another"),
        pytest.param(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
            client.Rejected,
            id="early refusal",
        ),
    ],
)
def test_a_broken_answer_is_an_error_of_ours(kind, answer, error):
    """Any bytes on the wire give a result or a ClientError."""
    with raw_server(answer) as url, pytest.raises(error):
        once(kind, url, retries=0)


@pytest.mark.parametrize("kind", BOTH)
def test_nobody_there_is_unreachable(kind):
    """The error comes after the retries that were allowed."""
    with pytest.raises(client.Unreachable, match="No server answers at 127"):
        once(kind, unused_url(), retries=1)


@pytest.mark.parametrize("kind", BOTH)
def test_a_server_that_hangs_is_given_up(kind):
    """The client gives up after the timeout, and does not ask again."""
    released = threading.Event()
    with stand_in() as server:

        def hang(_number):
            released.wait(60)
            return 200, b"[]"

        server.answer = hang
        try:
            with pytest.raises(client.TimedOut):
                once(kind, server.url, timeout=0.5)
        finally:
            released.set()
        wait_for(lambda: server.posts, "it was asked")
        assert len(server.posts) == 1


def test_threads_share_a_client():
    """Each gets its own answer, over few connections that are kept."""
    with stand_in() as server, client.Client(server.url) as made:
        server.answer = lambda number: (
            200,
            b'[{"class":%d,"label":"","confidence":1,"bounding_box":[0,0,1,1]}]'
            % number,
        )
        seen = []

        def ask():
            answers = [made.detect("net", b"photo") for _ in range(20)]
            seen.extend(answer[0].class_id for answer in answers)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == list(range(80))
        assert server.connections <= 8
