"""The one use case, over stand-ins: what is given back whatever happens."""

import os
import queue
import time
from concurrent.futures import Future
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.core.contract import Detection
from modelserver.core.errors import (
    BadRequest,
    ClientGone,
    DeadlinePassed,
    ModelNotFound,
    Overloaded,
    RunFailed,
    UndecodableImage,
    UnknownLabel,
)
from modelserver.core.messages import Array, ImageResult
from modelserver.core.messages.requests import Evaluate, Seen, Tensor, Wish
from modelserver.core.signatures import Signature
from modelserver.engine.decoders import Photo, Prepared
from modelserver.engine.loop import Loop
from modelserver.engine.queue import Batcher
from modelserver.engine.service import Service
from modelserver.tasks import Metadata
from modelserver.tasks.detection import DetectionTask
from modelserver.tasks.labels import LabelMap
from support.app_client import SECONDS, make_settings

GOOD = {
    "boxes": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32),
    "scores": np.array([0.9], np.float32),
    "classes": np.array([1.0], np.float32),
}
SIGNATURE = Signature(
    kind="detection", input="x:0", dtype="uint8", layout="NHWC", outputs={}
)


class FakeFrame:
    """Stands for a frame; counts how often it was given back."""

    released = 0

    def release(self):
        self.released += 1


class FakeModel:
    """Stands for a model with one slot; a test says what its runs come to.

    Attributes:
        started: each run's future.
        answer: what a run comes to at once; ``None``: nothing, for ever.
    """

    fit, room, facts = "fit", "room", SimpleNamespace(device="CPU")

    def __init__(self, capacity=1):
        self.labels = LabelMap({1: "one"}, ())
        self.metadata = Metadata(SIGNATURE, self.labels)
        self.queue = Batcher(
            self.run, run_slots=1, max_batch=1, capacity=capacity, key=lambda _: None
        )
        self.answer = GOOD
        self.started = []

    def check(self, tensor):
        """Take numbers of one type."""
        if tensor.dtype != "|u1":
            raise BadRequest("not these")

    def run(self, _items):
        future = Future()
        self.started.append(future)
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        elif self.answer is not None:
            future.set_result([ImageResult(self.answer, 0.0)])
        return future

    def submit(self, frame, slot):
        future = self.queue.submit(frame, slot)
        future.add_done_callback(lambda _: frame.release())
        return future


class FakeDecoders:
    """Stands for the decoders.

    Attributes:
        error: what a job comes to; else an image for each model.
        waits: jobs come to nothing until a test says so.
        jobs: future and number of models of each.
    """

    def __init__(self):
        self.error = None
        self.waits = False
        self.jobs = []
        self.frames = []

    def decode(self, _photo, fits, _rooms, _until):
        future = Future()
        self.jobs.append((future, len(fits)))
        if not self.waits:
            self.end(future, len(fits))
        return future

    def copy(self, _photo, _tensor, _room, _until):
        return self.decode(None, [None], None, None)

    def end(self, future, count):
        if self.error is not None:
            future.set_exception(self.error)
            return
        frames = [FakeFrame() for _ in range(count)]
        self.frames += frames
        future.set_result(
            [Prepared(f, 20, 10, (0.0, 0.0, 1.0, 1.0), 1, 0.25) for f in frames]
        )

    def draw(self, _photo, marks, form, _until):
        future = Future()
        future.set_result(f"{len(list(marks))} {form}".encode())
        return future


class FakeRegistry(dict):
    """Stands for the registry; counts leases."""

    leases = 0

    def title(self, name, _kind):
        return name if name in self else ""

    def take(self, name, _kind, *, raw=False):
        if name not in self:
            raise ModelNotFound(name, self)
        self.leases += 1
        snapshot = SimpleNamespace(digest=f"digest of {name}")
        return name, SimpleNamespace(loaded=self[name], snapshot=snapshot)

    def give_back(self, _version):
        self.leases -= 1

    def of(self, _kind):
        return [SimpleNamespace(name=name, loaded=self[name]) for name in self]


class World:
    """A service in a loop of its own, and what it replied.

    Attributes:
        seen: what the metrics were told.
    """

    def __init__(self, **environ):
        self.loop = Loop()
        self.loop.start()
        self.model = FakeModel()
        self.other = FakeModel()
        self.registry = FakeRegistry(m=self.model, n=self.other)
        self.decoders = FakeDecoders()
        self.seen = []
        self.service = Service(
            self.registry,
            make_settings(**environ),
            self.decoders,
            self.loop,
            self.seen.append,
        )
        self.replies = queue.SimpleQueue()
        self.photos = []

    def call(self, function, *arguments):
        """Call a function in the loop, and return its result."""
        future = Future()

        def run():
            try:
                future.set_result(function(*arguments))
            except Exception as error:  # noqa: BLE001 - for the test's own thread
                future.set_exception(error)

        self.loop.call(run)
        return future.result(SECONDS)

    def begin(self, *models, seconds=SECONDS, **facts):
        """Begin a request, and return it."""
        until = time.perf_counter() + seconds
        message = Evaluate(1, "detection", models, seconds, until, **facts)
        photo = Photo(os.open(os.devnull, os.O_RDONLY))
        self.photos.append(photo)
        return self.call(self.service.evaluate, message, photo, self.replies.put)

    def reply(self):
        """Return the next reply: what was seen, or an error."""
        reply = self.replies.get(timeout=SECONDS)
        return reply if isinstance(reply, Seen) else reply.rebuild()

    def evaluate(self, *models, **facts):
        """Return the reply to a request of one model."""
        self.begin(*models, **facts)
        return self.reply()

    def check(self):
        """Check that all that was taken was given back, once."""
        assert self.call(lambda: self.registry.leases) == 0
        assert not self.service._shares._inside
        for model in self.registry.values():
            for future in model.started:
                if not future.done():
                    self.call(future.set_result, [ImageResult(GOOD, 1.0)])
            assert (model.queue.inside, model.queue.waiting) == (0, 0)
            assert model.queue._preparing == len(model.queue._unprepared) == 0
        assert all(frame.released == 1 for frame in self.decoders.frames)
        assert all(photo.descriptor is None for photo in self.photos)
        assert self.replies.empty()


@pytest.fixture
def world():
    """A service over two models, all of which must be unused after the test."""
    made = World(REQUEST_TIMEOUT_S=30)
    yield made
    try:
        made.check()
    finally:
        made.loop.stop()


def test_an_evaluation_tells_what_was_seen_and_how_long_it_took(world):
    """And gives its place back."""
    seen = world.evaluate("m")
    (found,) = msgspec.json.decode(seen.answer, type=list[Detection])
    assert (found.label, seen.model, seen.digest) == ("one", "m", "digest of m")
    assert (seen.width, seen.height, seen.batch) == (20, 10, 1)
    assert seen.run == 0.0
    assert seen.decode == 0.25
    assert seen.wait >= 0.0
    (observed,) = world.seen
    assert observed.title == "m"
    assert [label for label, _ in observed.scores] == ["one"]


def test_a_photo_is_decoded_once_for_all_models_that_are_asked(world):
    """Each model answers for itself."""
    world.begin("m", "x", "n")
    replies = [world.reply() for _ in range(3)]
    assert isinstance(replies[0], ModelNotFound)
    assert {reply.model for reply in replies[1:]} == {"m", "n"}
    assert [count for _, count in world.decoders.jobs] == [2]


def test_a_photo_that_has_no_room_for_all_is_decoded_for_each(world):
    """Each model's decode then stands alone."""
    world.decoders.error = Overloaded()
    world.begin("m", "n")
    assert [type(world.reply()) for _ in range(2)] == [Overloaded] * 2
    assert [count for _, count in world.decoders.jobs] == [2, 1, 1]


@pytest.mark.parametrize("error", [UndecodableImage("x"), Overloaded()])
def test_a_place_is_left_when_the_image_cannot_be_decoded(error, world):
    """The next image has it."""
    world.decoders.error = error
    for _ in range(5):
        assert type(world.evaluate("m")) is type(error)
    assert world.model.started == []


def test_a_bug_in_a_decode_is_answered(world, caplog):
    """And logged, with the request's number."""
    world.decoders.error = MemoryError()
    error = world.evaluate("m", request_id="mine")
    assert "mine" in str(error)
    assert "MemoryError" in caplog.text


def test_a_run_that_fails_reaches_its_caller(world):
    """With the runner's own error."""
    world.model.answer = RunFailed()
    assert isinstance(world.evaluate("m"), RunFailed)


def test_outputs_of_no_use_are_the_models_fault(world):
    """Not a bug of ours."""
    world.model.answer = {"boxes": np.zeros(3)}
    assert world.evaluate("m").slug == "bad-model-output"


def test_a_picture_is_drawn_once_the_model_has_given_its_place_back(world):
    """The photo with the marks on it, instead of an answer in JSON."""
    seen = world.evaluate("m", picture="PNG")
    assert (seen.picture, seen.answer) == (b"1 PNG", b"")


def test_the_deadline_that_passed_is_told_as_the_client_gave_it(world):
    """Its own, where that is shorter than the server's."""
    world.model.answer = None
    assert "within 0.01 seconds" in str(world.evaluate("m", seconds=0.01))


def test_an_answer_that_came_too_late_is_none(world, monkeypatch):
    """Also where making it took the time."""

    def parse(*_args):
        time.sleep(0.3)
        return []

    monkeypatch.setattr(DetectionTask, "parse", parse)
    error = world.evaluate("m", seconds=0.2)
    assert isinstance(error, DeadlinePassed)
    assert "0.2 seconds" in str(error)


def test_who_has_waited_in_vain_is_never_run(world):
    """His place is free at once, though the run before still hangs."""
    world.model.answer = None
    for _ in range(4):
        assert isinstance(world.evaluate("m", seconds=0.02), DeadlinePassed)
    assert len(world.model.started) == 1


def test_a_time_that_ends_during_a_decode_ends_the_decode(world):
    """Nobody waits for it any more; what it gives all the same is given back."""
    world.decoders.waits = True
    assert isinstance(world.evaluate("m", seconds=0.2), DeadlinePassed)
    ((future, _),) = world.decoders.jobs
    assert future.cancelled()


@pytest.mark.parametrize("picture", [None, "JPEG"])
def test_who_goes_away_is_not_decoded_on(world, picture):
    """And has his place no more."""
    world.decoders.waits = True
    request = world.begin("m", picture=picture)
    world.call(world.service.leave, request)
    assert isinstance(world.reply(), ClientGone)
    world.call(world.service.leave, request)
    assert world.decoders.jobs[0][0].cancelled()
    assert world.model.queue.counts["client-gone"] == 1


def test_a_door_that_goes_leaves_its_places_at_once(world):
    """Those of images that wait, too, so that others' photos find room."""
    model = world.registry["m"] = world.model = FakeModel(capacity=2)
    model.answer = None
    requests = [world.begin("m") for _ in range(3)]
    assert model.queue.waiting == 2
    assert isinstance(world.evaluate("m"), Overloaded)
    for request in requests:
        world.call(world.service.drop, request)
        world.call(world.service.drop, request)
        assert isinstance(world.reply(), ClientGone)
    assert model.queue.waiting == 0
    assert [frame.released for frame in world.decoders.frames] == [0, 1, 1]
    assert world.begin("m") is not None
    world.call(model.started[0].set_result, [ImageResult(GOOD, 1.0)])
    world.call(model.started[1].set_result, [ImageResult(GOOD, 1.0)])
    assert isinstance(world.reply(), Seen)


def test_who_is_refused_has_nothing_decoded(world):
    """A full queue costs next to nothing."""
    world.model.answer = None
    slots = [world.call(world.model.queue.admit) for _ in range(2)]
    assert isinstance(world.evaluate("m"), Overloaded)
    for slot in slots:
        world.call(world.model.queue.leave, slot)
    assert world.decoders.jobs == []


def test_an_upload_that_took_all_the_time_is_not_decoded(world):
    """Nobody waits for it any more."""
    assert isinstance(world.evaluate("m", seconds=0.0), DeadlinePassed)
    assert world.decoders.jobs == []


def test_a_model_that_is_not_there_takes_no_share(world):
    """Or any name would."""
    world.service._shares._room = 1
    for number in range(3):
        assert isinstance(world.evaluate(f"x{number}"), ModelNotFound)


def test_a_model_whose_share_is_in_use_is_refused(world):
    """Before it has a place in the queue."""
    world.service._shares._room = 2
    world.call(world.service._shares.enter, "m")
    assert "too many" in str(world.evaluate("m"))
    world.call(world.service._shares.leave, "m")


def test_a_label_that_no_model_has_refuses_the_whole_request(world):
    """All models that the request asks count, not only those of this message."""
    error = world.evaluate("m", wish=Wish(labels=("two",)))
    assert isinstance(error, UnknownLabel)
    world.other.labels = LabelMap({1: "two"}, ())
    seen = world.evaluate("m", wish=Wish(labels=("two",)), among=("m", "n"))
    assert seen.answer == b"[]"


def test_no_more_is_decoded_ahead_of_a_model_than_its_slots_and_one_batch(world):
    """The others wait undecoded until a run has ended."""
    model = world.registry["m"] = world.model = FakeModel(capacity=9)
    model.answer = None
    for _ in range(6):
        world.begin("m")
    assert len(world.decoders.jobs) == 3  # one runs, a slot's and a batch's wait
    for number in range(6):
        world.call(model.started[number].set_result, [ImageResult(GOOD, 1.0)])
        assert isinstance(world.reply(), Seen)
    assert len(world.decoders.jobs) == 6


ENDS = {"leave": "leave", "drop": "drop", "expire": "_expire"}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "two", "decode", "fail", "run", "leave", "drop", "expire"]
        ),
        st.integers(0, 5),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_however_requests_end_all_is_given_back_and_each_model_answers_once(actions):
    """Decodes, runs, failures, clients that go and times that end, in any order."""
    world = World()
    try:
        _act(world, actions)
    finally:
        world.loop.stop()


def _act(world, actions):
    world.decoders.waits = True
    for model in world.registry.values():
        model.answer = None
    requests, expected = [], 0
    for action, number in actions:
        jobs = [job for job in world.decoders.jobs if not job[0].done()]
        runs = [f for m in world.registry.values() for f in m.started if not f.done()]
        if action in {"begin", "two"}:
            names = ("m", "n") if action == "two" else ("m",)
            requests.append(world.begin(*names))
            expected += len(names)
        elif action in {"decode", "fail"} and jobs:
            world.decoders.error = RunFailed() if action == "fail" else None
            world.call(world.decoders.end, *jobs[number % len(jobs)])
        elif action == "run" and runs:
            result = [ImageResult(GOOD, 1.0)]
            world.call(runs[number % len(runs)].set_result, result)
        elif action in ENDS and requests:
            end = getattr(world.service, ENDS[action])
            if (request := requests[number % len(requests)]) is not None:
                world.call(end, request)
    for request in filter(None, requests):
        world.call(world.service._expire, request)
    for _ in range(expected):
        world.reply()
    world.check()


def test_numbers_go_a_photos_way_and_all_outputs_come_back(world):
    """Packed by their names, or those that were asked for; nothing is parsed."""
    seen = world.evaluate("m", tensor=Tensor("|u1", (1, 2)))
    found = msgspec.msgpack.decode(seen.answer, type=dict[str, Array])
    assert found.keys() == GOOD.keys()
    assert found["scores"].unpack().tolist() == GOOD["scores"].tolist()
    some = world.evaluate("m", tensor=Tensor("|u1", (1, 2), outputs=("scores",)))
    assert msgspec.msgpack.decode(some.answer, type=dict[str, Array]).keys() == {
        "scores"
    }
    assert len(world.decoders.frames) == 2
    world.check()


def test_numbers_that_a_model_does_not_take_cost_nothing(world):
    """They are refused before a place is taken; and they are for one model."""
    refused = world.evaluate("m", tensor=Tensor("<f4", (1, 2)))
    assert "not these" in str(refused)
    assert "one model" in str(world.evaluate("m", "n", tensor=Tensor("|u1", (1,))))
    assert world.decoders.jobs == []
    world.check()
