"""Which photo is decoded next, and what a decoder may say of it."""

import math
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import DeadlinePassed, Overloaded, RequestError
from modelserver.core.frames import Arena
from modelserver.core.messages.decodes import (
    Decoded,
    Drawn,
    Failed,
    Fit,
    Fitted,
    Limits,
    Placed,
    Started,
    Wants,
)
from modelserver.core.messages.requests import Refused, refused
from modelserver.engine.admission import Shares
from modelserver.engine.decoder_jobs import Job, Worker
from modelserver.engine.decoder_processes import DecoderProcesses
from modelserver.engine.decoder_queue import JobQueue, lateness
from modelserver.engine.decoders import Photo, Room

ANY = Fit()


class FakeLoop:
    """Stands for the engine's loop: calls at once, never later."""

    inside = True

    def soon(self, callback, *arguments):
        callback(*arguments)

    call = soon

    def after(self, _seconds, _callback, *_arguments):
        """Never: a test looks itself."""

    def watch(self, *_):
        """Nothing is there to be read."""

    unwatch = watch


class FakeConnection:
    """Stands for a decoder's socket; keeps what was sent."""

    def __init__(self):
        self.sent = []

    def send(self, data, descriptors=()):
        self.sent.append((data, descriptors))

    def fileno(self):
        return -1

    def close(self):
        """Nothing to close."""


def rooms_of(*names, pixels=100, every=1000):
    """Return models' rooms that share one."""
    shares = Shares(every, lambda: len(names))
    return [Room(name, None, pixels, shares) for name in names]


def job(number, room, *, costly=False, needs=0, until=math.inf):
    """Return a job for one model."""
    made = Job(number, Photo.of(b"x"), Limits(), until, fits=[ANY], rooms=[room])
    made.costly, made.needs = costly, [needs]
    return made


def always():
    return True


def never():
    return False


def test_jobs_are_taken_in_their_order_the_costly_ones_when_there_is_a_place():
    """One that was dropped comes before all others."""
    (room,) = rooms_of("m", pixels=10**9, every=10**9)
    queue = JobQueue()
    jobs = [job(number, room, costly=number % 2 == 0) for number in range(4)]
    for each in jobs:
        queue.add(each)
    assert (len(queue), queue.ordinary) == (4, 2)
    assert queue.take(never) is jobs[1]
    queue.add(jobs[1], first=True)
    assert [queue.take(always) for _ in jobs] == jobs
    assert queue.take(always) is None
    assert not queue.lacks_room


def test_a_job_without_room_holds_up_its_own_model_only():
    """It goes first once there is room again."""
    one, other = rooms_of("one", "other", pixels=100)
    assert one.take(60)
    queue = JobQueue()
    large, small, foreign = job(0, one, needs=50), job(1, one), job(2, other)
    for each in (large, small, foreign):
        queue.add(each)
    assert queue.take(always) is foreign
    assert queue.take(always) is None
    assert queue.lacks_room
    one.give(60)
    assert [queue.take(always), queue.take(always)] == [large, small]


def test_jobs_that_wait_for_too_long_are_told_why():
    """Not those whose callers wait for ever."""
    (room,) = rooms_of("m")
    queue = JobQueue(max_wait_s=1.0)
    patient, impatient = job(0, room), job(1, room, until=math.nextafter(math.inf, 0))
    late, full = job(2, room, until=5.0), job(3, room, needs=7, until=1e12)
    for each in (patient, impatient, late, full):
        each.queued = 4.0
        queue.add(each)
    assert queue.take_late(4.5) == []
    found = queue.take_late(5.5)
    assert found == [impatient, late, full]
    reasons = [lateness(each, 5.5) for each in found]
    assert [type(each) for each in reasons] == [Overloaded, DeadlinePassed, Overloaded]
    assert "decoder" in str(reasons[0])
    assert "memory" in str(reasons[2])
    assert queue.clear() == [patient]
    assert not queue.remove(patient)


def test_half_of_the_room_of_all_is_every_models_own():
    """The rest is for whoever comes first; what is given back is there again."""
    one, other = rooms_of("one", "other", pixels=100, every=120)
    assert one.take_some(200) == 90
    assert not one.take(1)
    assert other.take_some(100) == 30
    assert not other.take(1)
    one.give(90)
    assert other.take(60)
    assert other.take_some(100) == 0
    assert one.take(30)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 150)), max_size=40))
def test_rooms_never_hold_more_than_they_have(wishes):
    """However they are asked; given back, all is free."""
    rooms = dict(zip("ab", rooms_of("a", "b", pixels=100, every=150), strict=True))
    held = {"a": 0, "b": 0}
    for name, pixels in wishes:
        if rooms[name].take(pixels):
            held[name] += pixels
        elif held[name]:
            rooms[name].give(held[name])
            held[name] = 0
        assert max(held.values()) <= 100
        assert sum(held.values()) <= 150
    for name, pixels in held.items():
        rooms[name].give(pixels)
    assert rooms["a"].take(100)


def test_a_job_takes_what_it_is_known_to_need_or_what_most_need():
    """A photo that is larger than the room has it all alone."""
    (room,) = rooms_of("m", pixels=100)
    each = job(0, room)
    assert each.take_room()
    assert each.granted == [100]
    assert each.want(0, 5000)
    assert each.keep_room(0, 40) == 40
    second = job(1, room, needs=70)
    assert not second.take_room()
    assert second.granted == [0]
    room.give(40)
    assert second.take_room()
    assert not second.want(0, 5000) or second.granted == [100]
    second.give_room()
    second.give_room()
    assert room.take(100)


@pytest.fixture
def taken():
    """A pool, one of its decoders, and the job that this does."""
    pool = DecoderProcesses(FakeLoop(), Limits(), pixels=1000, command=("false",))
    (room,) = [pool.room("m", None)]
    arena = Arena(1 << 16)
    arena.open()
    worker = Worker(0, FakeConnection(), None)
    worker.memory = arena.memory
    each = job(7, room)
    assert each.take_room()
    worker.job, worker.state = each, "busy"
    yield pool, worker, each
    each.close()
    arena.close()


def image(offset=0, shape=(4, 5, 3), **how):
    """Return a message about an image."""
    usual = {"width": 5, "height": 4, "window": (0.0, 0.0, 1.0, 1.0)}
    usual |= {"orientation": 1, "format": "PNG"}
    return Placed(offset, Fitted(shape, **(usual | how)))


@pytest.mark.parametrize(
    "message",
    [
        Decoded(8, (image(),)),
        Decoded(7, ()),
        Decoded(7, (image(), image())),
        Decoded(7, (image(offset=1 << 16),)),
        Decoded(7, (image(shape=(4, 5, 1)),)),
        Decoded(7, (image(shape=(0, 5, 3)),)),
        Decoded(7, (image(shape=(-4, -5, 3)),)),
        Decoded(7, (image(shape=(1 << 40, 1 << 40, 3)),)),
        Decoded(7, (image(width=0),)),
        Decoded(7, (image(window=(0.0, math.nan, 1.0, 1.0)),)),
        Decoded(7, (image(orientation=9),)),
        Drawn(7, 1 << 16, 1),
        Drawn(8, 0, 1),
        Wants(7, 1, 5, costly=False),
        Wants(8, 0, 5, costly=False),
        Started(1, filtered=True),
    ],
)
def test_what_no_decoder_says_is_nonsense(message, taken):
    """The job is still there, for whoever ends the decoder."""
    pool, worker, each = taken
    with pytest.raises(ValueError, match=r".+"):
        pool._take(worker, message)
    assert not each.future.done()


def test_a_decoder_that_is_being_ended_is_not_listened_to(taken):
    """Its job has been given up."""
    pool, worker, each = taken
    worker.state = "ending"
    pool._take(worker, Decoded(7, (image(),)))
    assert not each.future.done()


@pytest.fixture
def costly(taken):
    """The same as ``taken``, and a second decoder whose job is a costly one."""
    pool, worker, each = taken
    other = Worker(1, FakeConnection(), None)
    other.job, other.state = job(9, each.rooms[0], costly=True), "busy"
    pool._count = 2
    pool._crew._workers.update({0: worker, 1: other})
    yield pool, worker, each
    other.job.close()


def test_a_decoder_that_is_ended_for_a_costly_photo_does_not_count_as_one(
    costly, monkeypatch
):
    """Until it is gone; then the photo waits as a costly one."""
    pool, worker, each = costly
    monkeypatch.setattr(worker, "spent_s", lambda: 1.0)
    pool._look_at(worker, each, 0.0)
    assert (worker.state, pool.sample().costly) == ("ending", 1)
    pool._gone(worker)
    assert each.costly
    assert (len(pool._queue), pool._queue.ordinary) == (1, 0)


def test_a_decoder_that_gives_a_costly_photo_back_does_not_count_as_one(costly):
    """Not even while it is told so; then the photo waits as a costly one."""
    pool, worker, each = costly
    told = []
    worker.connection.send = lambda _data: told.append(pool.sample().costly)
    pool._take(worker, Wants(7, 0, 0, costly=True))
    assert told == [1]
    assert each.costly
    assert (len(pool._queue), pool._queue.ordinary) == (1, 0)


@pytest.mark.parametrize(("why", "until"), [("timeout", math.inf), ("deadline", 0.0)])
def test_a_photo_that_was_ended_is_counted_before_its_client_is_told(
    why, until, taken, monkeypatch
):
    """Who asks for the numbers then finds it there."""
    pool, worker, each = taken
    each.until = until
    monkeypatch.setattr(worker, "spent_s", lambda: 1000.0)
    counted = []
    each.future.add_done_callback(lambda _: counted.append(pool._crew.ended[why]))
    pool._look_at(worker, each, 0.0)
    assert counted == [1]


def test_frames_of_an_answer_come_back_once(taken):
    """With their pixels, to their model's room."""
    pool, worker, each = taken
    pool._take(worker, Decoded(7, (image(),)))
    (prepared,) = each.future.result(0)
    room = each.rooms[0]
    assert not room.take(981)
    prepared.frame.release()
    prepared.frame.release()
    assert room.take(1000)


def test_an_answer_that_nobody_waits_for_is_given_back(taken):
    """The client may go at any moment."""
    pool, worker, each = taken
    assert each.future.cancel()
    pool._take(worker, Decoded(7, (image(),)))
    assert each.rooms[0].take(1000)


numbers = st.one_of(st.integers(-3, 9), st.integers(-(1 << 70), 1 << 70))
anything = st.recursive(
    st.one_of(
        numbers, st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.binary()
    ),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(data=st.binary(max_size=60), value=anything, tag=st.integers(0, 6))
def test_any_bytes_of_a_decoder_are_an_answer_or_refused(data, value, tag):
    """No other error leaves the reader, and no other job is touched."""
    pool = DecoderProcesses(FakeLoop(), Limits(), pixels=1000, command=("false",))
    decoder = pool._crew._messages
    tagged = [tag, 7, *(value if isinstance(value, list) else [value])]
    for content in (
        data,
        msgspec.msgpack.encode(value) if fits(value) else b"",
        msgspec.msgpack.encode(tagged) if fits(value) else b"",
    ):
        worker = Worker(0, FakeConnection(), None)
        each = job(7, pool.room("m", None))
        worker.job, worker.state = each, "busy"
        try:
            pool._take(worker, decoder.decode(content))
        except (msgspec.DecodeError, ValueError):
            continue
        finally:
            each.close()
        if each.future.done():
            assert isinstance(each.future.exception(), RequestError)


def fits(value):
    """Return whether msgpack can write a value's numbers."""
    if isinstance(value, list):
        return all(map(fits, value))
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 64


def test_a_failure_is_the_error_that_the_decoder_had(taken):
    """An error of no kind that there is becomes an internal one."""
    pool, worker, each = taken
    pool._take(worker, Failed(7, refused(7, Overloaded(what="Full"))))
    assert isinstance(each.future.exception(0), Overloaded)
    assert Refused(1, "", "", "NoSuchError", "x").rebuild().slug == "internal-error"


def test_a_photos_descriptor_is_for_reading_only(tmp_path):
    """However it was opened here; its bytes are those of the file."""
    path = tmp_path / "photo"
    path.write_bytes(b"photo")
    for flags in (os.O_RDWR, os.O_RDONLY):
        photo = Photo(os.open(path, flags))
        again, nbytes = photo.open_again()
        assert (os.read(again, 10), nbytes) == (b"photo", 5)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(again, b"x")
        os.close(again)
        photo.close()
    again, nbytes = Photo.of(b"bytes").open_again()
    assert (os.read(again, 10), nbytes) == (b"bytes", 5)
    os.close(again)
