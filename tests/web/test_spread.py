"""Connections spread over doors: the board on which doors tell of theirs, and its use."""

import os
import socket

import pytest

from modelserver.web.server import worker as module
from modelserver.web.server.spread import Board
from support.worker_loops import LIVE, make

__all__ = ["make"]  # a fixture


@pytest.fixture
def seats():
    """Yield the places of three doors, of which two have told."""
    board = Board()
    seats = [board.seat(number) for number in (1, 2, 3)]
    seats[0].tell(10)
    seats[1].tell(10)
    return seats


def test_a_door_that_is_alone_steps_back_for_nobody():
    """It has all connections."""
    seat = Board().seat(1)
    seat.tell(1000)
    assert not seat.step_back()


def test_a_door_that_has_clearly_more_steps_back(seats):
    """One or two more are nothing."""
    first, second, _ = seats
    for more, expected in ((0, False), (2, False), (3, True), (50, True)):
        first.tell(10 + more)
        assert bool(first.step_back()) == expected
        assert not second.step_back()


def test_a_new_door_is_one_that_has_none(seats):
    """Others step back for it once it has told."""
    first, _, third = seats
    assert not first.step_back()
    third.tell(0)
    assert first.step_back()
    assert not third.step_back()


@pytest.mark.parametrize("way", ["leave", "clear"])
def test_a_door_that_has_gone_is_waited_for_by_nobody(way):
    """It told so itself, or the arbiter did."""
    board = Board()
    first, second = board.seat(63), board.seat(64)
    first.tell(10)
    second.tell(0)
    assert first.step_back()
    if way == "leave":
        second.leave()
    else:
        board.clear(64)
    assert not first.step_back()


def take(seat, most=1000):
    """Take what has come, as far as a door may; return how much that is."""
    taken = 0
    while taken < most and not seat.step_back():
        taken += 1
    return taken


def test_a_door_that_does_not_come_counts_less_and_less(seats):
    """One more is taken each time; a door that hangs does not count in the end."""
    first, second, third = seats
    first.tell(20)
    third.tell(20)
    taken = [take(first)]
    for _ in range(9):
        first.come_back(waiting=True)
        taken.append(take(first))
    assert taken == [0, 1, 2, 3, 4, 5, 6, 7, 8, 1000]
    assert third.step_back()
    second.tell(10)
    assert take(first) == 1


def test_a_door_that_comes_late_counts_in_full(seats):
    """What it told meanwhile shows that it is there."""
    first, second, _ = seats
    first.tell(20)
    for _ in range(20):
        assert take(first) <= 1
        second.tell(10)
        first.come_back(waiting=True)


def test_a_door_that_took_what_was_left_to_it_counts_in_full(seats):
    """Whatever it did before."""
    first, _, _ = seats
    first.tell(20)
    for _ in range(5):
        take(first)
        first.come_back(waiting=True)
    take(first)
    first.come_back(waiting=False)
    assert take(first) == 0


@pytest.mark.process
def test_other_processes_see_the_same_board():
    """It is made before the doors are forked."""
    board = Board()
    seat = board.seat(1)
    seat.tell(10)
    child = os.fork()
    if not child:
        board.seat(2).tell(0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert seat.step_back()


@pytest.fixture
def pair(make, monkeypatch):
    """Yield two doors that share a listening socket, and a clock set by hand."""
    board, listener = Board(), socket.create_server(("127.0.0.1", 0), backlog=100)
    doors = [make(100, age=age, board=board, listener=listener) for age in (1, 2)]
    for door in doors:
        door.set_accept_enabled(True)
        door.turn()
    yield doors
    for door in doors:
        if door._accepting:
            door.poller.unregister(listener)


def come(door, count):
    """Some clients connect and ask."""
    for _ in range(count):
        client = socket.create_connection(door.listener.getsockname(), timeout=20)
        client.sendall(LIVE)
        door.clients.append(client)
    assert module.has_data(door.listener, 5000)


def turn(door):
    """Turn a door's loop as gunicorn does."""
    door.set_accept_enabled(True) if not door._accepting else None
    door.turn()


def test_the_door_that_wakes_first_leaves_some_to_the_other(pair):
    """Of 32 that come at once each has its half, more or less."""
    first, second = pair
    come(first, 32)
    for _ in range(12):
        turn(first)
        turn(second)
    counts = [door.nr_conns for door in pair]
    assert sum(counts) == 32
    assert max(counts) <= 20


def test_a_door_that_steps_back_takes_what_nobody_takes(pair):
    """The other one hangs."""
    first, _ = pair
    come(first, 20)
    turn(first)
    assert first.nr_conns == 3
    turn(first)
    assert (first.nr_conns, first._accepting) == (3, False)
    taken = []
    for _ in range(4):
        first._back_until = 0.001
        turn(first)
        taken.append(first.nr_conns)
    assert taken == [4, 6, 9, 13]


def test_a_door_takes_connections_again_once_it_is_no_longer_ahead(pair):
    """Two doors that wait for each other would leave all others waiting."""
    first, second = pair
    come(first, 40)
    for _ in range(12):
        turn(first)
        turn(second)
    assert first.nr_conns + second.nr_conns == 40


def test_a_door_that_ends_lets_others_go_ahead(pair):
    """They are told, and step back for it no longer."""
    first, second = pair
    second.alive = False
    second.set_accept_enabled(False)
    come(first, 20)
    turn(first)
    assert first.nr_conns == 20


def test_a_door_waits_no_longer_than_it_steps_back(pair, monkeypatch):
    """Its loop wakes for what it left to others."""
    first, _ = pair
    come(first, 20)
    turn(first)
    waits = []
    monkeypatch.setattr(first.poller, "select", lambda wait: waits.append(wait) or [])
    first.wait_for_and_dispatch_events(1.0)
    assert waits == [module._LOOK_S]
