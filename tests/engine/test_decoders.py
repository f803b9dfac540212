"""The pool of decoders in this process, and who waits for it."""

import io
import math
import threading
import time

import pytest
from PIL import Image

from modelserver.core.errors import (
    ClientGone,
    DeadlinePassed,
    ImageTooLarge,
    NotAnImage,
)
from modelserver.core.frames import Arena
from modelserver.core.messages.decodes import Fit, Limits
from modelserver.engine.decoders import InlineDecoders, Photo, Room, only, wait
from modelserver.engine.queue import Caller

SECONDS = 30


def png(size=(8, 6)):
    """Return a small photo."""
    file = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(file, "PNG")
    return Photo.of(file.getvalue())


def waits(seconds=SECONDS, gone=lambda: False):
    """Return a caller that waits so long from now."""
    return Caller(seconds, time.perf_counter() + seconds, gone)


class Told:
    """A frame that tells of its release."""

    def __init__(self, frame, released):
        self.frame = frame
        self.pixels = frame.pixels
        self.released = released

    def turn(self, pixels):
        self.pixels = pixels

    def release(self):
        self.frame.release()
        self.released.set()


class Held:
    """Frames of an arena, counted; cutting one waits while the gate is shut."""

    def __init__(self):
        self.gate = threading.Event()
        self.cutting = threading.Event()
        self.released = threading.Event()
        self._arena = Arena(1 << 20)
        self._arena.open()

    def allocate(self, shape):
        self.cutting.set()
        self.gate.wait(SECONDS)
        frame = self._arena.allocate(shape)
        return Told(frame, self.released)


@pytest.fixture
def decoders():
    """A pool, closed after the test."""
    pool = InlineDecoders(Limits(max_pixels=1000))
    yield pool
    pool.close()
    pool.close()


@pytest.fixture
def held():
    """Frames that are cut at once."""
    frames = Held()
    frames.gate.set()
    return frames


def test_a_photo_is_decoded_for_each_model(decoders, held):
    """An error for one is in its place."""
    fits, rooms = [Fit(), Fit((2, 3))], [Room("m", held.allocate)] * 2
    whole, small = wait(decoders.decode(png(), fits, rooms), waits())
    assert whole.frame.pixels.shape == (6, 8, 3)
    assert (small.width, small.height, small.window) == (8, 6, (0, 0, 1, 1))
    assert small.frame.pixels.shape == (2, 3, 3)
    assert only([small]) is small
    with pytest.raises(ImageTooLarge):
        only([ImageTooLarge(1, 1, 1)])


@pytest.mark.parametrize(
    ("photo", "error"), [(Photo.of(b"x"), NotAnImage), (png((100, 100)), ImageTooLarge)]
)
def test_an_error_for_all_models_is_the_jobs(photo, error, decoders, held):
    """A single model's is always."""
    for fits in ([Fit()], [Fit(), Fit((2, 3))]):
        rooms = [Room("m", held.allocate)] * len(fits)
        with pytest.raises(error):
            wait(decoders.decode(photo, fits, rooms), waits())
    with pytest.raises(error):
        wait(decoders.draw(photo, [], "PNG"), waits())


def test_a_photo_whose_time_is_over_is_not_decoded(decoders, held):
    """It waited for too long, and nobody waits for it."""
    job = decoders.decode(png(), [Fit()], [Room("m", held.allocate)], until=0.0)
    with pytest.raises(DeadlinePassed):
        job.result(SECONDS)
    with pytest.raises(DeadlinePassed):
        decoders.draw(png(), [], "PNG", until=0.0).result(SECONDS)
    assert not held.cutting.is_set()


@pytest.mark.parametrize(
    ("caller", "error"),
    [
        pytest.param(lambda: waits(0.05), DeadlinePassed, id="too late"),
        pytest.param(lambda: waits(gone=lambda: True), ClientGone, id="gone"),
    ],
)
def test_who_waits_no_more_leaves_no_frame_behind(caller, error, decoders):
    """The frame of a photo that was under way comes back by itself."""
    frames = Held()
    job = decoders.decode(png(), [Fit()], [Room("m", frames.allocate)], math.inf)
    assert frames.cutting.wait(SECONDS)
    with pytest.raises(error):
        wait(job, caller())
    assert not frames.released.is_set()
    frames.gate.set()
    assert frames.released.wait(SECONDS)


def test_a_job_that_waits_for_its_turn_is_dropped_when_nobody_waits_for_it(decoders):
    """It takes no thread; neither does one that is closed away."""
    frames = Held()
    jobs = [
        decoders.decode(png(), [Fit()], [Room("m", frames.allocate)])
        for _ in range(200)
    ]
    assert frames.cutting.wait(SECONDS)
    with pytest.raises(DeadlinePassed):
        wait(jobs[-1], waits(0.01))
    assert jobs[-1].cancelled()
    decoders.close()
    assert jobs[-2].cancelled()
    frames.gate.set()
