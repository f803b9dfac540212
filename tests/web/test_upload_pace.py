"""How slowly the parts of a request may come, by a clock that is set by hand."""

import pytest

from modelserver.web.server.upload_pace import (
    BODY_S,
    HEAD_S,
    IDLE_S,
    LEAST_BYTES_S,
    Pace,
)

START = 1000.0


def drip(pace, every_s, size, most_s=1000):
    """Send a piece every so often; return after how long that was too slow."""
    now = START
    while now < START + most_s:
        now += every_s
        if now >= pace.deadline:
            return now - START
        pace.add(size, now)
    return None


def test_a_silent_client_is_given_up():
    """Silence ends a request after some seconds."""
    pace = Pace(START)
    assert pace.deadline == START + min(IDLE_S, HEAD_S)
    pace.begin(START, BODY_S)
    pace.add(5, START + 3)
    assert pace.deadline == START + 3 + IDLE_S


@pytest.mark.parametrize("free_s", [HEAD_S, BODY_S])
def test_a_client_that_drips_is_given_up(free_s):
    """A client that sends too little in all is given up."""
    pace = Pace(START)
    pace.begin(START, free_s)
    assert free_s <= drip(pace, 1, 1) <= free_s + 1


def test_a_fair_slow_client_is_heard_out():
    """A client of 50 kB a second sends its 50 MB."""
    pace = Pace(START)
    pace.begin(START, BODY_S)
    assert drip(pace, 1, 50_000) is None
    assert drip(Pace(START), 1, LEAST_BYTES_S // 2) is not None


def test_a_new_request_has_all_its_time():
    """Each request on a connection has the whole time."""
    pace = Pace(START)
    for number in range(5):
        now = START + number * BODY_S
        pace.begin(now)
        assert pace.deadline == now + min(IDLE_S, HEAD_S)


def test_the_rate_tells_who_is_slowest():
    """Bytes a second since the part began, also in its first moment."""
    pace = Pace(START)
    pace.add(500, START)
    assert pace.rate(START) > pace.rate(START + 5) == 100
