"""The one use case, over stand-ins: what is given back whatever happens."""

import contextlib
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from modelserver.core.errors import (
    BadModelOutput,
    DeadlinePassed,
    ModelNotFound,
    Overloaded,
    RunFailed,
    UndecodableImage,
)
from modelserver.core.messages import ImageResult
from modelserver.core.signatures import Signature
from modelserver.engine.decoders import Prepared
from modelserver.engine.queue import Batcher, Caller
from modelserver.engine.service import Service
from modelserver.tasks import DETECTION, Metadata
from modelserver.tasks.detection import DetectionTask
from modelserver.tasks.labels import LabelMap
from support.app_client import make_settings

GOOD = {
    "boxes": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32),
    "scores": np.array([0.9], np.float32),
    "classes": np.array([1.0], np.float32),
}


SIGNATURE = Signature(
    kind="detection", input="x:0", dtype="uint8", layout="NHWC", outputs={}
)


class FakeModel:
    """Stands for a model with one slot; a test says what its runs come to.

    Attributes:
        prepared: how many images were decoded.
        started: each run's future.
        answer: what a run comes to at once; ``None``: nothing, for ever.
    """

    def __init__(self):
        self.labels = LabelMap({1: "one"}, ())
        self.facts = SimpleNamespace(signature=SIGNATURE)
        self.metadata = Metadata(SIGNATURE, self.labels)
        self.queue = Batcher(
            self.run, run_slots=1, max_batch=1, capacity=1, key=lambda _: None
        )
        self.error = None
        self.answer = GOOD
        self.prepared = 0
        self.started = []

    def run(self, _items):
        future = Future()
        self.started.append(future)
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        elif self.answer is not None:
            future.set_result([ImageResult(self.answer, 0.0)])
        return future

    def prepare(self, data, _caller=None):
        self.prepared += 1
        if self.error is not None:
            raise self.error
        return Prepared(data, 20, 10, (0.0, 0.0, 1.0, 1.0))

    def submit(self, frame, slot):
        return self.queue.submit(frame, slot)


class FakeRegistry(dict):
    """Stands for the registry; counts leases."""

    leases = 0

    def title(self, name, _kind):
        return name if name in self else ""

    @contextlib.contextmanager
    def lease(self, name, _kind):
        if name not in self:
            raise ModelNotFound(name, self)
        self.leases += 1
        try:
            snapshot = SimpleNamespace(digest=f"digest of {name}")
            yield SimpleNamespace(loaded=self[name], snapshot=snapshot)
        finally:
            self.leases -= 1


@pytest.fixture
def world():
    """A service over one model, all of which must be unused after the test."""
    registry = FakeRegistry(m=FakeModel())
    service = Service(registry, make_settings(REQUEST_TIMEOUT_S=30))
    model = registry["m"]
    yield SimpleNamespace(service=service, model=model, registry=registry)
    assert registry.leases == 0
    service.has_threads(1)
    with service._shares.count("m"):  # there is room for one only, and it is free
        pass
    for future in model.started:
        if not future.done():
            future.set_result([ImageResult(GOOD, 1.0)])
    assert (model.queue.inside, model.queue.waiting) == (0, 0)


def caller(seconds):
    """A caller who waits so long from now."""
    return Caller(seconds, time.perf_counter() + seconds)


def test_an_evaluation_tells_what_was_seen_and_how_long_it_took(world):
    """And gives its place back."""
    evaluation = world.service.evaluate(DETECTION, "m", b"photo")
    assert [one.label for one in evaluation.result] == ["one"]
    assert (evaluation.model, evaluation.width, evaluation.height) == ("m", 20, 10)
    assert evaluation.timings.run == 0.0
    assert evaluation.timings.total > 0.0


@pytest.mark.parametrize("error", [UndecodableImage("x"), Overloaded(), MemoryError()])
def test_a_place_is_left_when_the_image_cannot_be_decoded(error, world):
    """The next image has it."""
    world.model.error = error
    for _ in range(5):
        with pytest.raises(type(error)):
            world.service.evaluate(DETECTION, "m", b"photo")
    assert world.model.queue.inside == 0
    assert world.model.started == []


def test_a_run_that_fails_reaches_its_caller(world):
    """With the runner's own error."""
    world.model.answer = RunFailed()
    with pytest.raises(RunFailed):
        world.service.evaluate(DETECTION, "m", b"photo")


def test_outputs_of_no_use_are_the_models_fault(world):
    """Not a bug of ours."""
    world.model.answer = {"boxes": np.zeros(3)}
    with pytest.raises(BadModelOutput):
        world.service.evaluate(DETECTION, "m", b"photo")


def test_the_deadline_that_passed_is_told_as_the_client_gave_it(world):
    """Its own, where that is shorter than the server's."""
    world.model.answer = None
    with pytest.raises(DeadlinePassed, match=r"within 0\.01 seconds"):
        world.service.evaluate(DETECTION, "m", b"photo", caller(0.01))


def test_an_answer_that_came_too_late_is_none(world):
    """Also where making it took the time."""
    who = caller(0.2)

    class Slow(DetectionTask):
        def parse(self, *_args):
            time.sleep(0.3)
            return []

    begun = world.service.begin(Slow(), "m", lambda model: model.prepare(b"photo"), who)
    with pytest.raises(DeadlinePassed, match=r"within 0\.2 seconds"):
        world.service.end(begun)


def test_without_a_caller_the_servers_limit_holds(world):
    """As where Python code evaluates by itself."""
    world.model.answer = None
    settings = make_settings(REQUEST_TIMEOUT_S=0.1)
    service = Service(world.registry, settings)
    with pytest.raises(DeadlinePassed, match=r"within 0\.1 seconds"):
        service.evaluate(DETECTION, "m", b"photo")


def test_time_that_passed_since_an_image_was_ready_is_not_given_again(world):
    """Others of the same request were waited for in between."""
    world.model.answer = None
    who = caller(0.05)
    begun = world.service.begin(
        DETECTION, "m", lambda model: model.prepare(b"photo"), who
    )
    submitted = begun.submitted
    submitted = submitted._replace(decoded=submitted.decoded - 5)
    earlier = begun._replace(submitted=submitted)
    start = time.perf_counter()
    with pytest.raises(DeadlinePassed):
        world.service.end(earlier)
    assert time.perf_counter() - start < 4


def test_who_has_waited_in_vain_is_never_run(world):
    """His place is free at once, though the run before still hangs."""
    world.model.answer = None
    for _ in range(4):
        with pytest.raises(DeadlinePassed):
            world.service.evaluate(DETECTION, "m", b"photo", caller(0.01))
    assert len(world.model.started) == 1
    assert world.model.queue.counts["left"] == 3


def test_who_is_refused_has_nothing_decoded(world):
    """A full queue costs next to nothing."""
    world.model.answer = None
    slots = [world.model.queue.admit() for _ in range(2)]
    with pytest.raises(Overloaded):
        world.service.evaluate(DETECTION, "m", b"photo")
    for slot in slots:
        world.model.queue.leave(slot)
    assert world.model.prepared == 0


def test_an_upload_that_took_all_the_time_is_not_decoded(world):
    """Nobody waits for it any more."""
    with pytest.raises(DeadlinePassed):
        world.service.evaluate(
            DETECTION, "m", b"photo", Caller(1.0, time.perf_counter())
        )
    assert world.model.prepared == 0


def test_a_model_that_is_not_there_takes_no_share(world):
    """Or any name would."""
    world.service.has_threads(1)
    for number in range(3):
        with pytest.raises(ModelNotFound):
            world.service.evaluate(DETECTION, f"x{number}", b"photo")


def test_a_model_whose_share_is_in_use_is_refused(world):
    """Before it has a place in the queue."""
    world.service.has_threads(1)
    with world.service._shares.count("m"), pytest.raises(Overloaded, match="too many"):
        world.service.evaluate(DETECTION, "m", b"photo")
