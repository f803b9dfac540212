"""Several photos and models over stand-ins: what is held, and for how long."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import Overloaded, RunFailed
from modelserver.decoder import DecodedImage
from modelserver.engine.batch_requests import BatchRequest, Shared, _serves
from modelserver.engine.queue import Caller
from modelserver.engine.service import Evaluation, Timings
from modelserver.tasks import DETECTION
from modelserver.tasks.options import Options


class FakeService:
    """Stands for the service; counts what is begun and not ended.

    Attributes:
        room: how many may be begun at a time.
        most: how many there were.
        errors: what beginning or ending some photo raises.
    """

    def __init__(self, room=100):
        self.room = room
        self.inside = 0
        self.most = 0
        self.errors = {}
        self.prepared = []

    def begin(self, task, name, prepare, caller):
        if self.inside >= self.room:
            raise Overloaded
        data = prepare(SimpleNamespace(prepare=lambda data: data))
        if ("begin", data) in self.errors:
            raise self.errors["begin", data]
        self.inside += 1
        self.most = max(self.most, self.inside)
        return SimpleNamespace(
            task=task, name=name, data=data, stack=self, caller=caller
        )

    def end(self, begun, _options):
        self.inside -= 1
        if ("end", begun.data) in self.errors:
            raise self.errors["end", begun.data]
        return Evaluation(begun.task, begun.name, begun.data, Timings(0, 0, 0, 0), 1, 1)

    def close(self):
        self.inside -= 1


def evaluate(service, photos):
    caller = Caller(1.0, time.perf_counter() + 1.0)
    return BatchRequest(service, DETECTION, caller, Options()).evaluate(photos, ["m"])


@given(
    st.lists(st.sampled_from(["good", "begin", "end"]), max_size=12),
    st.integers(0, 6),
)
def test_whatever_comes_of_each_the_rest_is_answered_in_order(kinds, room):
    """A few at a time; nothing is held afterwards."""
    service = FakeService(room)
    photos = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    for data in photos:
        kind = data.split()[0]
        service.errors[kind, data] = RunFailed()
    outcomes = evaluate(service, photos)
    assert service.inside == 0
    assert service.most <= 4
    for data, outcome in zip(photos, outcomes, strict=True):
        if room == 0:
            assert isinstance(outcome, Overloaded)
        elif data.startswith("good"):
            assert outcome.result == data
        else:
            assert isinstance(outcome, RunFailed)


def test_a_bug_leaves_nothing_behind():
    """What was begun is given back."""
    service = FakeService()
    service.errors["begin", "x"] = KeyError("a bug")
    with pytest.raises(KeyError):
        evaluate(service, ["a", "b", "x"])
    assert service.inside == 0


def picture(form, shape, size):
    return DecodedImage(np.zeros((*shape, 3), np.uint8), *size, 1, form)


@pytest.mark.parametrize(
    ("form", "full", "given", "wanted", "same"),
    [
        ("PNG", True, (10, 10), None, True),
        ("JPEG", True, None, None, True),
        ("JPEG", False, (10, 10), (10, 10), True),
        ("JPEG", False, (10, 10), (12, 12), False),
        ("JPEG", False, (10, 10), None, False),
        ("JPEG", True, None, (10, 10), False),
        ("JPEG", True, (10, 10), None, True),
        ("JPEG", True, None, (20, 15), False),
        ("JPEG", True, None, (21, 15), True),
        ("JPEG", True, None, (20, 16), True),
    ],
)
def test_a_picture_serves_whom_another_decode_would_give_the_same(
    form, full, given, wanted, same
):
    """A reduced one those alone who want as much."""
    shape = (40, 30) if full else (20, 15)
    assert _serves(picture(form, shape, (30, 40)), given, wanted) is same


class FakeDecoder:
    """Stands for a model that decodes; counts what it gave and got back.

    Attributes:
        room: how many photos there is memory for; one that is prepared takes its own.
    """

    def __init__(self, at_least=None, error=None, room=2):
        self.at_least = at_least
        self.error = error
        self.room = room
        self.held = 0
        self.decodes = 0

    def decode(self, _data):
        if self.held >= self.room:
            raise Overloaded
        self.held += 1
        self.decodes += 1
        return self, picture("PNG", (40, 30), (30, 40))

    def release(self):
        self.held -= 1

    def fit(self, given):
        if self.error is not None:
            raise self.error
        if self.held >= self.room:
            raise Overloaded
        return given

    def prepare(self, data):
        return self.decode(data)[1]


def test_a_shared_photo_is_given_back_whatever_came_of_it():
    """Decoded once, in the first one's memory, and held until the last has it."""
    first, second = FakeDecoder(), FakeDecoder(error=Overloaded())
    with Shared(b"photo") as photo:
        photo.prepare(first)
        with pytest.raises(Overloaded):
            photo.prepare(second)
        photo.prepare(FakeDecoder())
        assert (first.held, first.decodes, second.decodes) == (1, 1, 0)
    assert first.held == 0


def test_a_photo_that_has_room_once_only_is_not_held_for_others():
    """Each model decodes it for itself, as it would for a request of its own."""
    models = [FakeDecoder(room=1) for _ in range(3)]
    with Shared(b"photo") as photo:
        for model in models:
            assert photo.prepare(model).format == "PNG"
        # What is prepared has what was given back.
        assert [model.held for model in models] == [1, 1, 1]
    assert [model.held for model in models] == [1, 1, 1]
    assert [model.decodes for model in models] == [2, 2, 2]


def test_a_photo_that_has_no_room_at_all_is_refused():
    """With nothing held of it."""
    model = FakeDecoder(error=Overloaded(), room=1)
    with Shared(b"photo") as photo:
        photo.prepare(model)
        with pytest.raises(Overloaded):
            photo.prepare(model)
    assert model.held == 1  # the first one's
