"""The number of threads, and the models' shares of them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import Overloaded
from modelserver.engine.admission import SPARE_THREADS, Shares, threads
from support.app_client import make_settings


class Requests:
    """Requests that are with models, and those that were refused.

    Attributes:
        inside: how many are with each model.
        models: how many models there are.
    """

    def __init__(self, room, models):
        self.shares = Shares(room, lambda: self.models)
        self.models = models
        self.inside = {}
        self.leave = []

    def come(self, model):
        """Let one more in; return whether there was room."""
        try:
            self.shares.enter(model)
        except Overloaded:
            return False
        self.inside[model] = self.inside.get(model, 0) + 1
        self.leave.append(model)
        return True

    def go(self, position):
        """End one of them."""
        model = self.leave.pop(position)
        self.shares.leave(model)
        self.inside[model] -= 1

    def fill(self, model):
        """Let in as many as there is room for; return their number."""
        return next(count for count in range(10_000) if not self.come(model))


@given(
    room=st.integers(1, 40),
    models=st.integers(1, 8),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=120),
)
def test_no_model_is_refused_its_part_and_all_keep_to_the_room(room, models, steps):
    """This holds for any order of requests."""
    requests = Requests(room, models)
    part = max(room // (2 * models), int(models <= room))
    for comes, number in steps:
        if comes:
            model = f"m{number % models}"
            below = requests.inside.get(model, 0) < part
            assert requests.come(model) or not below
        elif requests.leave:
            requests.go(number % len(requests.leave))
        assert len(requests.leave) <= room
    while requests.leave:
        requests.go(0)
    # Nothing is left of them: one model alone has half of the room and the room for all.
    own = max(room // (2 * models), int(models <= room))
    assert requests.fill("m0") == room - (models - 1) * own


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_a_model_below_its_part_is_let_in_while_models_come_and_go(counts):
    """Parts follow the present models; others' requests stay where they are."""
    requests = Requests(24, 1)
    for number, models in enumerate(counts):
        requests.models = models
        model = f"m{number % models}"
        below = requests.inside.get(model, 0) < max(24 // (2 * models), 1)
        assert requests.come(model) or not below


def test_requests_beyond_a_busy_models_part_are_not_counted_twice():
    """When its first requests end, the others move up into its part."""
    requests = Requests(8, 2)  # two for each, and four for all
    assert requests.fill("a") == 6
    requests.go(0)
    requests.go(0)
    assert requests.fill("b") == 4


def test_one_model_alone_has_all_of_the_room():
    """No other model needs a part then."""
    assert Requests(7, 1).fill("a") == 7


def test_of_little_room_each_model_has_a_part():
    """Each model has room for one request, as far as the room goes."""
    requests = Requests(3, 2)
    assert requests.fill("a") == 2
    assert requests.fill("b") == 1


def test_with_more_models_than_room_there_are_no_parts():
    """Requests are then admitted in the order in which they come."""
    requests = Requests(3, 4)
    assert requests.fill("a") == 3
    assert not requests.come("b")


@pytest.mark.parametrize(
    ("total", "room"), [(148, 148 - SPARE_THREADS), (20, 15), (4, 3), (2, 1), (1, 1)]
)
def test_some_threads_are_spared_for_requests_that_never_wait(total, room):
    """Sixteen are spared, or a quarter if there are few."""
    requests = Requests(room, 1)
    requests.shares = Shares.of(total, lambda: 1)
    assert requests.fill("a") == room


def test_there_are_threads_for_two_models_and_some_to_spare(monkeypatch):
    """Slots and queues of both fit; a setting has precedence."""
    settings = make_settings(SLOTS=4, QUEUE_LENGTH=10)
    assert threads(settings) == 2 * (4 + 10) + SPARE_THREADS
    assert threads(make_settings(THREADS=7)) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads(make_settings(QUEUE_LENGTH=10)) == 2 * (1 + 10) + SPARE_THREADS
