"""Doors that are replaced under load, and clients that do not notice."""

import os
import signal

import pytest

from support.kept_servers import keep
from support.servers import wait_for
from support.steady_clients import Steady, get_slowly

__all__ = ["keep"]  # a fixture

pytestmark = pytest.mark.real


def grow(load, count):
    """Wait until so many more requests were made."""
    before = len(load.statuses)
    wait_for(lambda: len(load.statuses) >= before + count, "the load goes on")


def test_a_door_that_is_told_to_end_fails_no_request(keep):
    """Each door is sent SIGTERM in turn; another takes its place."""
    server = keep(doors=2).wait()
    with Steady(server.port, get_slowly) as load:
        for _ in range(6):
            old = server.doors[0]
            grow(load, 100)
            os.kill(old, signal.SIGTERM)
            wait_for(lambda old=old: old not in server.doors, "it has gone")
            server.wait()
        grow(load, 100)
    assert (set(load.statuses), load.lost) == ({200}, 0)


def test_a_door_that_is_killed_loses_no_more_than_it_had(keep):
    """Requests in flight break off, and are answered when they are sent again."""
    server = keep(doors=2).wait()
    with Steady(server.port, get_slowly) as load:
        for _ in range(20):
            old = server.doors[0]
            grow(load, 20)
            os.kill(old, signal.SIGKILL)
            wait_for(lambda old=old: old not in server.doors, "it has gone")
            server.wait()
            if load.lost:
                break
    assert load.lost > 0
    assert set(load.statuses) == {200}


def test_fewer_and_more_doors_fail_no_request(keep):
    """The operator's SIGTTOU and SIGTTIN, in turns."""
    server = keep(doors=3).wait()
    with Steady(server.port, get_slowly) as load:
        for number, doors in [(signal.SIGTTOU, 2), (signal.SIGTTIN, 3)] * 4:
            grow(load, 100)
            server.send(number)
            server.doors_wanted = doors
            wait_for(lambda doors=doors: len(server.doors) == doors, "they are there")
    assert (set(load.statuses), load.lost) == ({200}, 0)


@pytest.mark.parametrize("doors", [1, 2])
def test_doors_that_are_replaced_by_count_fail_no_request(doors, keep):
    """Gunicorn's ``max_requests`` works: a door holds no model."""
    server = keep(doors=doors, options="--max-requests 100").wait()
    with Steady(server.port, get_slowly) as load:
        wait_for(lambda: len(load.statuses) >= 1500, "many were replaced")
    assert (set(load.statuses), load.lost) == ({200}, 0)
    assert server.errors.count("Autorestarting worker") > 5
    assert server.get("/engine") == str(server.engine)
