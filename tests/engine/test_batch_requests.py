"""Several photos and models over stand-ins: what is held, and for how long."""

import math
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import (
    ImageTooLarge,
    Overloaded,
    RunFailed,
    UndecodableImage,
)
from modelserver.engine.batch_requests import BatchRequest, Shared
from modelserver.engine.decoders import Photo, Prepared
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
        data = prepare(SimpleNamespace(prepare=lambda data, _caller: data))
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


class FakeDecoders:
    """Stands for a pool of decoders; a job comes to what a test says."""

    def __init__(self, *found, error=None):
        self.found = list(found)
        self.error = error
        self.jobs = []

    def decode(self, photo, fits, rooms, until):
        self.jobs.append((photo, fits, rooms, until))
        future = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.found)
        return future


class FakeFrame:
    """Stands for a frame; counts how often it was given back."""

    released = 0

    def release(self):
        self.released += 1


class FakeModel:
    """Stands for a model; counts the photos that it had decoded for itself."""

    fit, room = "fit", "room"

    def __init__(self):
        self.own = 0

    def prepare(self, _photo, _caller):
        self.own += 1
        return "its own"


def image(frame=None):
    return Prepared(frame or FakeFrame(), 4, 3, (0, 0, 1, 1))


def shared(models, decoders):
    return Shared(Photo.of(b"photo"), models, decoders, Caller(60.0, math.inf))


def test_a_photo_is_decoded_once_for_all_models_that_are_asked():
    """Each gets its own image; those that nobody took are given back."""
    models = [FakeModel() for _ in range(3)]
    frames = [FakeFrame() for _ in models]
    decoders = FakeDecoders(*map(image, frames))
    with shared(models, decoders) as photo:
        assert photo.prepare(models[1]).frame is frames[1]
        assert photo.prepare(models[0]).frame is frames[0]
    assert [frame.released for frame in frames] == [0, 0, 1]
    ((given, fits, rooms, until),) = decoders.jobs
    assert (given.data, fits, rooms) == (b"photo", ["fit"] * 3, ["room"] * 3)
    assert until == math.inf


def test_a_photo_that_has_no_room_for_all_is_decoded_for_each():
    """Each model then asks for itself, as a request of its own would."""
    models = [FakeModel() for _ in range(2)]
    frame = FakeFrame()
    with shared(models, FakeDecoders(Overloaded(), image(frame))) as photo:
        assert photo.prepare(models[0]) == "its own"
        assert photo.prepare(models[1]).frame is frame
    with shared(models, FakeDecoders(error=Overloaded())) as photo:
        assert [photo.prepare(model) for model in models] == ["its own"] * 2
    assert [model.own for model in models] == [2, 1]


def test_a_photo_that_cannot_be_decoded_is_refused_to_each_model():
    """It is tried once; a photo that is too large for one may suit another."""
    models = [FakeModel() for _ in range(2)]
    decoders = FakeDecoders(error=UndecodableImage("broken"))
    with shared(models, decoders) as photo:
        for model in models:
            with pytest.raises(UndecodableImage):
                photo.prepare(model)
    assert len(decoders.jobs) == 1
    with shared(models, FakeDecoders(ImageTooLarge(9, 9, 1), image())) as photo:
        with pytest.raises(ImageTooLarge):
            photo.prepare(models[0])
        assert photo.prepare(models[1]).width == 4


def test_a_model_that_was_not_there_when_others_asked_decodes_for_itself():
    """As one that was loaded only by this request."""
    late = FakeModel()
    with shared([], FakeDecoders()) as photo:
        assert photo.prepare(late) == "its own"
