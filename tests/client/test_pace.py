"""How many requests of a folder are on their way at a time."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.client.pace import Pace, Stopped
from support.servers import wait_for


def test_so_many_at_a_time_and_no_more():
    """The next one waits until a turn ends."""
    pace = Pace(2)
    inside = threading.Event()

    def third():
        with pace.turn():
            inside.set()

    thread = threading.Thread(target=third)
    with pace.turn():
        with pace.turn():
            thread.start()
            wait_for(lambda: pace._queue, "it waits")
            assert not inside.is_set()
        thread.join()
    assert inside.is_set()


def test_turns_come_in_the_order_of_asking():
    """A request that was refused is not overtaken for ever."""
    pace, order, threads = Pace(1), [], []

    def ask(number):
        with pace.turn():
            order.append(number)

    with pace.turn():
        for number in range(5):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            wait_for(lambda n=number: len(pace._queue) == n + 1, "it waits")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_refusal_leaves_as_many_as_the_server_took():
    """After a refusal the limit is the number of requests that the server took, at least one."""
    pace = Pace(8)
    with pace.turn(), pace.turn():
        pace.note_refusal()
        assert pace.limit == 2
    pace.note_refusal()
    assert pace.limit == 1


def test_a_steady_server_is_asked_for_more():
    """The limit grows by one at a time, up to the most."""
    pace = Pace(3)
    pace.note_refusal()
    assert pace.limit == 1
    limits = []
    for _ in range(12):
        pace.note_answer()
        limits.append(pace.limit)
    assert limits == [1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]


@given(st.integers(1, 9), st.lists(st.sampled_from(["note_answer", "note_refusal"])))
def test_the_limit_stays_within_bounds(most, events):
    """After any events the limit is from one to the most."""
    pace = Pace(most)
    for event in events:
        getattr(pace, event)()
        assert 1 <= pace.limit <= most


def test_stopping_wakes_all_that_wait():
    """Stopping wakes the requests that wait for a turn, and those that pause."""
    pace, stopped = Pace(1), []

    def turn():
        try:
            with pace.turn():
                raise AssertionError("its turn never comes")
        except Stopped:
            stopped.append("turn")

    def pause():
        try:
            pace.pause(1e6)
        except Stopped:
            stopped.append("pause")

    threads = [threading.Thread(target=one) for one in (turn, pause)]
    with pace.turn():
        for thread in threads:
            thread.start()
        wait_for(lambda: pace._queue, "it waits")
        pace.stop()
        for thread in threads:
            thread.join()
    assert sorted(stopped) == ["pause", "turn"]


def test_a_pause_ends_by_itself():
    """A pause ends when its time is over."""
    Pace(1).pause(0)
    pace = Pace(1)
    pace.stop()
    with pytest.raises(Stopped):
        pace.pause(0)
