"""The page from which doors see that photos would be refused."""

import mmap
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import refusals
from modelserver.core.refusals import (
    TOO_LONG,
    Line,
    Reader,
    Writer,
    make_page,
)

FULL = Line(0, 3, 2.5)
ROOMY = Line(2, 3)


@pytest.fixture
def page():
    """A page, as its maker's descriptor."""
    descriptor = make_page(models=4)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def writer(page):
    """The engine's side of a page that an engine has taken over."""
    with Writer(page) as writer:
        writer.begin()
        yield writer


@pytest.fixture
def reader(page):
    """A door's side."""
    with Reader(page) as reader:
        yield reader


def test_a_page_that_nobody_wrote_refuses_nobody(page, reader):
    """Nothing is concluded before an engine has written."""
    assert reader.refusal() is None
    assert reader.start == 0
    assert reader.load_s == 0


def test_all_models_must_refuse(writer, reader):
    """A photo is refused if every model would refuse it, and there is one."""
    writer.write([])
    assert reader.refusal() is None
    writer.write([FULL, ROOMY])
    assert reader.refusal() is None
    writer.write([FULL, FULL])
    assert reader.refusal() is not None


def test_a_refusal_says_what_the_model_would_say(writer, reader):
    """Sentence and Retry-After are the model's; every other one is a second later."""
    writer.write([FULL._replace(reason=TOO_LONG)])
    first, second = reader.refusal(), reader.refusal()
    assert str(first).startswith(TOO_LONG)
    assert (first.retry_after_s, second.retry_after_s) == (2.5, 3.5)


def test_photos_to_come_count_up_to_those_that_are_there(writer, reader):
    """A model with room for two refuses the third, but an idle one nobody."""
    writer.write([ROOMY])
    assert reader.refusal(1) is None
    assert reader.refusal(2) is not None
    writer.write([ROOMY._replace(queued=0)])
    assert reader.refusal(99) is None


def test_a_model_that_is_not_loaded_might_take_the_photo(writer, reader):
    """Nothing is concluded while a photo might be for an unloaded model."""
    writer.write([FULL])
    writer.write(None)
    assert reader.refusal() is None


def test_more_models_than_lines_are_never_believed(writer, reader):
    """What does not fit on the page says nothing, until it fits again."""
    writer.write([FULL] * 5)
    assert reader.refusal() is None
    writer.write([FULL] * 4)
    assert reader.refusal() is not None


def test_an_old_heartbeat_is_not_believed(writer, reader, monkeypatch):
    """An engine that was silent for more than a second says nothing any more."""
    writer.write([FULL])
    at = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: at + 900_000_000)
    assert reader.refusal() is not None
    monkeypatch.setattr(time, "monotonic_ns", lambda: at + 1_100_000_000)
    assert reader.refusal() is None
    assert 1.0 < reader.age_s < 1.2
    writer.beat()
    assert reader.refusal() is not None


@pytest.mark.parametrize("models", [None, [ROOMY] * 9, [ROOMY]])
def test_an_engine_lives_whatever_it_writes(models, writer, reader, monkeypatch):
    """Also while nothing may be concluded: a model is unloaded, or there are many."""
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 3_000_000_000)
    assert reader.age_s >= 3
    writer.write(models)
    assert reader.age_s == 0


def test_a_new_engine_takes_the_page_over(page, writer, reader):
    """Lines of the engine before are forgotten; how long it loaded is not."""
    writer.write([FULL])
    writer.note_load(4.25)
    with Writer(page) as other:
        assert other.begin() == 2
        assert reader.refusal() is None
    assert (reader.start, reader.load_s) == (2, 4.25)


def test_another_version_is_not_believed(page, writer, reader, monkeypatch):
    """A door of one version concludes nothing from the page of another."""
    monkeypatch.setattr(refusals, "_VERSION", 2)
    writer.begin()
    writer.write([FULL])
    assert reader.refusal() is not None
    monkeypatch.undo()
    assert reader.refusal() is None


def test_a_door_cannot_write_and_nobody_can_shrink(page, reader):
    """A door's mapping is read-only; a cut page would kill who reads it."""
    with pytest.raises(TypeError):
        reader._words[0] = 1
    with pytest.raises(PermissionError):
        os.ftruncate(page, mmap.PAGESIZE)


@given(
    st.builds(
        Line,
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFF_FFFF).map(lambda ms: ms / 1000),
        st.sampled_from(refusals._REASONS),
    )
)
def test_a_line_comes_out_as_it_went_in(line):
    """A word holds all of a line."""
    assert Line.unpack(line.pack()) == line


@given(
    st.builds(Line, st.integers(), st.integers(), st.floats(-1, 1e12), st.text()),
    st.integers(0, (1 << 64) - 1),
)
def test_odd_values_make_a_line_and_odd_words_are_one(line, word):
    """What is too large becomes the largest; a word of anything is a line."""
    assert 0 <= line.pack() < 1 << 64
    assert Line.unpack(word).pack() & 0xFFFFFFFFFFFFFF == word & 0xFFFFFFFFFFFFFF


# Each line says the same number three times.
WRITES = """
import sys
from modelserver.core.refusals import Line, Writer
page = Writer(int(sys.argv[1]))
page.begin()
lines = [[Line(n, n, n / 1000)] * 4 for n in range(0x5555, 0xFFFF, 0x0F0F)]
while True:
    for some in lines:
        page.write(some)
"""


@pytest.mark.process
def test_a_reader_next_to_a_writer_never_sees_a_torn_line(page, reader):
    """Every line is whole, while it is written and once its writer was killed."""
    command = [sys.executable, "-c", WRITES, str(page)]
    seen = set()
    for _ in range(3):
        child = subprocess.Popen(command, pass_fds=[page])
        before = reader.start
        while reader.start == before:
            time.sleep(0.01)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            for at in range(refusals._FIRST, refusals._FIRST + 4):
                line = Line.unpack(reader._words[at])
                seen.add((line.room, line.queued, round(line.retry_after_s * 1000)))
        child.send_signal(signal.SIGKILL)
        child.wait()
        for at in range(refusals._FIRST, refusals._FIRST + 4):
            line = Line.unpack(reader._words[at])
            seen.add((line.room, line.queued, round(line.retry_after_s * 1000)))
    assert len(seen) > 2
    assert all(len({*numbers}) == 1 for numbers in seen)
