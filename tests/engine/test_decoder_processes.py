"""Decoders in processes of their own: real ones, also taken over by their photos."""

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelserver.core.errors import (
    DeadlinePassed,
    ImageTooLarge,
    InternalError,
    NotAnImage,
    Overloaded,
    UndecodableImage,
)
from modelserver.core.frames import Arena
from modelserver.core.messages import Mark
from modelserver.core.messages.decodes import Fit, Limits
from modelserver.engine.decoder_processes import DecoderProcesses
from modelserver.engine.decoder_template import can_fork
from modelserver.engine.decoders import InlineDecoders, Photo, Prepared, Room
from modelserver.engine.loop import Loop
from modelserver.runner.memories import Memories

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not can_fork(), reason="there is no fork or no memfd"),
]
SECONDS = 60
LIMITS = Limits(max_pixels=4_000_000)
FITS = [Fit(), Fit((6, 8), (12, 16)), Fit((6, 8), channels=1)]
HOSTILE = (sys.executable, "-m", "support.hostile_decoder")
TESTS = str(Path(__file__).parents[1])


def picture(form="PNG", size=(80, 60), **how):
    """Return a photo's bytes: red on the left and blue on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **how)
    return file.getvalue()


def eventually(condition):
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def pool(monkeypatch):
    """A function that starts a pool; its processes are gone after the test."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    made = []

    def start(*options, limits=LIMITS, **how):
        loop = Loop()
        loop.start()
        command = (*HOSTILE, *options)
        decoders = DecoderProcesses(loop, limits, count=2, command=command, **how)
        decoders.start()
        decoders.loop = loop
        made.append(decoders)
        return decoders

    yield start
    for decoders in made:
        pids = decoders.pids
        decoders.close()
        decoders.loop.stop()
        eventually(lambda pids=pids: not any(map(alive, pids)))


def alive(pid):
    """Return whether a process runs, and is no zombie."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def at_work(decoders):
    """Return the number of decoders that do something."""
    return decoders.sample().busy + decoders.sample().costly


def there(decoders):
    """Return the number of decoders that are ready."""
    return decoders.sample().idle + at_work(decoders)


def ask(decoders, data, fits=FITS[:1], until=float("inf"), room=None):
    """Ask for a photo."""
    room = room or decoders.room("m", None)
    return decoders.decode(Photo.of(data), fits, [room] * len(fits), until)


def outcome(decoders, data, **how):
    """Return what came of a photo: its image, or the error."""
    error = (future := ask(decoders, data, **how)).exception(SECONDS)
    if error is not None:
        return error
    (image,) = future.result()
    image.frame.release()
    return image


def seen(frame):
    """Return a frame's pixels, as a runner maps them."""
    memories = Memories()
    descriptor = frame.memory.open_read_only()
    memories.map(frame.memory.number, descriptor, frame.memory.size)
    os.close(descriptor)
    return memories.view(frame.memory.number, frame.offset, frame.shape).copy()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_a_process_decodes_as_a_thread_does(form, pool):
    """The pixels, shapes and windows are the same to the bit."""
    arena = Arena(1 << 22)
    arena.open()
    inline = InlineDecoders(LIMITS)
    data = picture(form, (400, 300))
    rooms = [inline.room("m", arena.allocate)] * 3
    expected = inline.decode(Photo.of(data), FITS, rooms).result(SECONDS)
    found = ask(pool(), data, FITS).result(SECONDS)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[1:-1] == theirs[1:-1]  # but the time it took
        assert np.array_equal(seen(ours.frame), theirs.frame.pixels)
        with pytest.raises(RuntimeError):
            ours.frame.pixels  # noqa: B018 - the engine does not see them
        ours.frame.release()
        ours.frame.release()
    inline.close()


def test_errors_of_a_photo_are_those_of_a_decode_here(pool):
    """For one model and for several."""
    decoders = pool(limits=Limits(max_pixels=100_000))
    assert isinstance(outcome(decoders, b""), NotAnImage)
    assert isinstance(outcome(decoders, b"text"), NotAnImage)
    assert isinstance(outcome(decoders, picture()[:-30]), UndecodableImage)
    large = picture("JPEG", (640, 480))
    assert isinstance(outcome(decoders, large), ImageTooLarge)
    too_large, small = ask(decoders, large, FITS[:2]).result(SECONDS)
    assert isinstance(too_large, ImageTooLarge)
    assert small.frame.shape == (6, 8, 3)
    small.frame.release()


def test_a_photo_is_drawn_on(pool):
    """The file is that of a drawing here."""
    decoders, inline = pool(), InlineDecoders(LIMITS)
    marks = [Mark("cat", f"cat {number}", (0.1, 0.2, 0.5, 0.6)) for number in range(3)]
    photo = Photo.of(picture("JPEG", (640, 480)))
    for form in ("JPEG", "PNG"):
        drawn = decoders.draw(photo, marks, form).result(SECONDS)
        assert drawn == inline.draw(photo, marks, form).result(SECONDS)
    with pytest.raises(NotAnImage):
        decoders.draw(Photo.of(b""), marks, "PNG").result(SECONDS)
    # More marks than a packet holds.
    decoders.draw(photo, marks * 3000, "JPEG").result(SECONDS)
    inline.close()


def test_an_uploads_file_is_read_by_its_descriptor(pool, tmp_path):
    """It may be closed once the job is there."""
    path = tmp_path / "photo"
    path.write_bytes(picture())
    photo = Photo(os.open(path, os.O_RDWR))
    decoders = pool()
    job = decoders.decode(photo, [Fit()], [decoders.room("m", None)])
    photo.close()
    photo.close()
    assert job.result(SECONDS)[0].width == 80


@pytest.mark.parametrize("word", [b"crash", b"exit", b"nonsense \xff", b"nonsense "])
def test_a_photo_that_ends_its_decoder_is_refused_alone(word, pool, caplog):
    """Another process takes its place, and other photos are decoded meanwhile."""
    decoders = pool()
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: there(decoders) == 2)
    before = set(decoders.pids)
    bad, good = ask(decoders, word), ask(decoders, picture())
    assert isinstance(bad.exception(SECONDS), UndecodableImage)
    assert good.result(SECONDS)[0].width == 80
    eventually(lambda: there(decoders) == 2)
    assert len(before & set(decoders.pids)) == 2
    assert "A decoder" in caplog.text


def test_a_decoder_is_shut_in(pool):
    """It opens, connects, makes and kills nothing, and it has its socket alone."""
    decoders = pool()
    found = str(outcome(decoders, b"tricks")).rstrip(".").split()
    tries = dict(part.split("=") for part in found if "=" in part)
    assert tries.pop("memory") == "MemoryError"
    assert len(tries) == 10
    assert set(tries.values()) == {"PermissionError"}
    eventually(lambda: there(decoders) == 2)
    template, *pids = decoders.pids
    for pid in pids:
        links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert links.count("/dev/null") == 3
        # And its memory, by which it can change what it decoded itself.
        others = {link.partition(":")[0] for link in links if link != "/dev/null"}
        assert others == {"socket", "/memfd"}
        environ = Path(f"/proc/{pid}/environ").read_text()
        assert "API_TOKEN" not in environ
    assert alive(template)


def test_a_photo_that_takes_too_much_memory_is_refused(pool):
    """Its decoder stays; so it does after a bug of ours, which is logged."""
    decoders = pool()
    before = decoders.pids
    assert "memory" in str(outcome(decoders, b"eat"))
    assert isinstance(outcome(decoders, b"bug"), InternalError)
    assert isinstance(outcome(decoders, picture()), Prepared)
    assert decoders.pids[: len(before)] == before


def test_a_photo_that_takes_too_long_is_refused(pool):
    """Its decoder is killed."""
    decoders = pool(timeout_s=0.3)
    assert "more than 0.3 s" in str(outcome(decoders, b"burn 1000"))
    assert decoders.sample().ended["timeout"] == 1
    assert isinstance(outcome(decoders, picture()), Prepared)


def endless_gif():
    """Return a GIF with millions of empty parts before its pixels."""
    data = picture("GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + bytes(20_000_000) + data[at:]


def many_scans():
    """Return a progressive JPEG of four hundred scans, which no deadline ends in C."""
    data = picture("JPEG", (2500, 1600), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 400 + b"\xff\xd9"


@pytest.mark.parametrize("data", [endless_gif(), many_scans()], ids=["gif", "jpeg"])
def test_work_that_no_guard_bounds_is_bounded_by_time(data, pool):
    """Neither Python's steps nor C's can hold a decoder for longer."""
    decoders = pool(timeout_s=0.15)
    assert "more than 0.15 s" in str(outcome(decoders, data))
    assert isinstance(outcome(decoders, picture()), Prepared)


def test_photos_that_take_long_leave_a_decoder_to_others(pool):
    """One at a time of two, at a low priority; the rest waits its turn."""
    decoders = pool(timeout_s=100)
    assert isinstance(outcome(decoders, picture()), Prepared)
    slow = [ask(decoders, b"burn 100") for _ in range(4)]
    eventually(lambda: decoders.sample()[:3] == (1, 0, 1))
    for _ in range(20):
        assert isinstance(outcome(decoders, picture()), Prepared)
    sample = decoders.sample()
    assert (sample.costly, sample.waiting) == (1, 3)
    nice = [os.getpriority(os.PRIO_PROCESS, pid) for pid in decoders.pids[1:]]
    assert max(nice) == os.getpriority(os.PRIO_PROCESS, 0) + 10
    for each in slow:
        each.cancel()
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: at_work(decoders) == 0)


def test_a_header_tells_that_a_photo_takes_long(pool):
    """A large PNG is not begun next to another one."""
    decoders = pool(limits=Limits(), timeout_s=100)
    large = picture(size=(3000, 2000), compress_level=1)
    jobs = [ask(decoders, large) for _ in range(3)]
    assert all(job.result(SECONDS)[0].width == 3000 for job in jobs)
    assert decoders.sample().ended.get("costly", 0) == 0


def test_nobody_decodes_for_those_who_wait_no_more(pool):
    """A cancelled job is dropped, or its decoder killed; so is a late one."""
    decoders = pool(timeout_s=100)
    eventually(lambda: there(decoders) == 2)
    running, late = (
        ask(decoders, b"sleep 1000"),
        ask(decoders, b"sleep 1000", until=time.perf_counter() + 2.0),
    )
    eventually(lambda: at_work(decoders) == 2)
    waiting = ask(decoders, picture())
    assert waiting.cancel()
    assert isinstance(late.exception(SECONDS), DeadlinePassed)
    assert running.cancel()
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: decoders.sample().ended == {"left": 1, "deadline": 1})
    past = ask(decoders, picture(), until=0.0)
    assert isinstance(past.exception(SECONDS), DeadlinePassed)


def test_a_photo_that_finds_no_decoder_is_refused_after_a_while(pool):
    """Not one whose caller waits for ever, such as a golden image."""
    decoders = pool(max_wait_s=0.2, timeout_s=100)
    sleeping = [ask(decoders, b"sleep 2") for _ in range(2)]
    eventually(lambda: at_work(decoders) == 2)
    patient = ask(decoders, picture())
    refused = ask(decoders, picture(), until=time.perf_counter() + SECONDS)
    assert isinstance(refused.exception(SECONDS), Overloaded)
    assert patient.result(SECONDS)[0].width == 80
    assert all(isinstance(each.exception(SECONDS), NotAnImage) for each in sleeping)


def test_a_photo_waits_undecoded_for_room(pool):
    """Others of the model wait behind it, those of other models do not."""
    decoders = pool(pixels=6000)
    room = decoders.room("m", None)
    (first,) = ask(decoders, picture(), room=room).result(SECONDS)
    second = ask(decoders, picture(), room=room)
    third = ask(decoders, picture(size=(20, 10)), room=room)
    eventually(lambda: decoders.sample().waiting == 2)
    assert isinstance(outcome(decoders, picture()), Prepared)
    assert not second.done()
    assert not third.done()
    first.frame.release()
    for each in (second, third):
        (image,) = each.result(SECONDS)
        image.frame.release()
    # One alone is never too large.
    assert isinstance(outcome(decoders, picture(size=(200, 100)), room=room), Prepared)


def test_a_photo_without_room_is_refused_after_a_while(pool):
    """The sentence says that it is the memory."""
    decoders = pool(pixels=6000, max_wait_s=0.2)
    room = decoders.room("m", None)
    (first,) = ask(decoders, picture(), room=room).result(SECONDS)
    until = time.perf_counter() + SECONDS
    full = outcome(decoders, picture(), room=room, until=until)
    assert isinstance(full, Overloaded)
    assert "memory" in str(full)
    first.frame.release()


def test_a_memory_that_is_full_refuses_a_photo(pool):
    """Its decoder says so, and serves on."""
    decoders = pool(pixels=1, limits=Limits())
    large = picture(size=(6000, 4000), compress_level=1)
    for _ in range(10):
        found = ask(decoders, large, room=Room("endless", None)).exception(SECONDS)
        if found is not None:
            break
    assert isinstance(found, Overloaded)
    assert isinstance(outcome(decoders, picture()), Prepared)


def test_a_dead_decoders_memory_stays_until_nobody_reads_it(pool):
    """Then it is retired, so that runners unmap it."""
    decoders = pool()
    (image,) = ask(decoders, picture()).result(SECONDS)
    eventually(lambda: there(decoders) == 2)
    retired = []
    image.frame.memory.tell_reader(retired.append)
    killed = set(decoders.pids[1:])
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert isinstance(outcome(decoders, picture()), Prepared)
    # On a busy machine one is there again before the other has died.
    eventually(lambda: not killed & set(decoders.pids))
    assert seen(image.frame)[0, 0, 0] == 255
    assert not retired
    image.frame.release()
    assert retired == [image.frame.memory]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_decoders_that_somebody_kills_or_stops_are_replaced(number, pool):
    """Their photos are tried once more."""
    decoders = pool()
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: there(decoders) == 2)
    for pid in decoders.pids[1:]:
        os.kill(pid, number)
    jobs = [ask(decoders, picture()) for _ in range(4)]
    assert [each.exception(SECONDS) for each in jobs] == [None] * 4
    assert isinstance(outcome(decoders, picture()), Prepared)


def test_what_is_sent_to_a_whole_group_ends_and_stops_no_decoder(pool):
    """A terminal, a service manager or an operator means the arbiter by it."""
    decoders = pool()
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: there(decoders) == 2)
    before = decoders.pids
    for pid in before:
        for name in ("INT", "TERM", "HUP", "USR1", "USR2", "TTIN", "TTOU"):
            os.kill(pid, signal.Signals[f"SIG{name}"])
    assert isinstance(outcome(decoders, picture()), Prepared)
    assert decoders.pids == before


def test_a_decoder_that_was_stopped_is_found_though_others_would_do(pool):
    """One photo at a time: now and then the one that was idle for longest has a turn."""
    decoders = pool()
    eventually(lambda: there(decoders) == 2)
    assert isinstance(outcome(decoders, picture()), Prepared)
    for pid in decoders.pids[1:]:
        os.kill(pid, signal.SIGSTOP)
        for _ in range(40):
            assert isinstance(outcome(decoders, picture()), Prepared)
        eventually(lambda pid=pid: pid not in decoders.pids)
        eventually(lambda: there(decoders) == 2)


def test_photos_under_way_are_tried_once_more_when_the_template_dies(pool):
    """Its decoders die with it; another one takes its place."""
    decoders = pool(timeout_s=100)
    assert isinstance(outcome(decoders, picture()), Prepared)
    eventually(lambda: there(decoders) == 2)
    jobs = [ask(decoders, b"once " + bytes(str(number), "ascii")) for number in "ab"]
    eventually(lambda: at_work(decoders) == 2)
    before = decoders.pids
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: not set(before) & set(decoders.pids))
    eventually(lambda: at_work(decoders) == 2)
    for each in jobs:
        assert not each.done()
        each.cancel()
    assert isinstance(outcome(decoders, picture()), Prepared)
    # A template that is stopped makes no more decoders, but those there are go on.
    os.kill(decoders.pids[0], signal.SIGSTOP)
    assert isinstance(outcome(decoders, picture()), Prepared)


def test_a_system_without_room_for_processes_is_asked_again(pool, caplog):
    """Photos wait meanwhile."""
    decoders = pool("no-forks=3")
    assert isinstance(outcome(decoders, picture()), Prepared)
    assert "cannot be started" in caplog.text


def test_a_template_that_ends_at_once_is_started_again_later_and_later(pool, caplog):
    """The log says so once, and closing ends it."""
    decoders = pool("broken")
    waiting = ask(decoders, picture())
    eventually(lambda: decoders.sample().ended.get("template", 0) >= 3)
    assert caplog.text.count("template ended") == 1
    decoders.close()
    assert isinstance(waiting.exception(SECONDS), Overloaded)


def resources():
    """Return the numbers of this process's descriptors and threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def kill_in_a_row(decoders, times):
    """Have decoders die of photos, a few at a time, among photos that are good."""
    room = decoders.room("m", None)
    for _ in range(times // 4):
        words = (b"crash", b"exit", b"crash", b"exit")
        jobs = [ask(decoders, word, room=room) for word in words]
        jobs.append(ask(decoders, picture(), room=room))
        for job in jobs[:-1]:
            assert isinstance(job.exception(SECONDS), UndecodableImage)
        jobs[-1].result(SECONDS)[0].frame.release()


@pytest.mark.parametrize(
    "times", [pytest.param(60), pytest.param(1000, marks=pytest.mark.slow)]
)
def test_many_deaths_in_a_row_leave_nothing_behind(times, pool):
    """Neither descriptors nor processes, nor memory that is held."""
    decoders = pool()
    kill_in_a_row(decoders, 8)
    eventually(lambda: there(decoders) == 2)
    before = resources()
    kill_in_a_row(decoders, times)
    eventually(lambda: there(decoders) == 2)
    eventually(lambda: resources() <= before)
    assert len(decoders.pids) == 3
    assert decoders.sample().ended["crash"] >= times
    children = Path(f"/proc/{decoders.pids[0]}/task/{decoders.pids[0]}/children")
    eventually(lambda: len(children.read_text().split()) == 2)
