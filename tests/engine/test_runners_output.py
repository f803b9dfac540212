"""The lines that a model's process prints are read, cut, counted and logged."""

import logging
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.engine.runners import output
from modelserver.engine.runners.output import Output
from support.app_client import SECONDS


@pytest.fixture
def lines(caplog):
    """Give a function that returns the lines logged so far as printed."""
    caplog.set_level(logging.INFO)
    return lambda: [r.line for r in caplog.records if hasattr(r, "line")]


def test_lines_are_logged_with_the_models_name(caplog, lines):
    """Pieces of the pipe join to lines; empty lines are not logged."""
    out = Output("m")
    for part in (b"one\ntw", b"o\n\n  \nthr", b"ee\n"):
        out.feed(part)
    assert lines() == ["one", "two", "three"]
    assert {record.model for record in caplog.records} == {"m"}
    assert out.last == "one | two | three"
    out.feed(b"four\n")
    assert out.last == "two | three | four"


def test_a_line_without_end_is_cut_and_kept_nowhere(lines):
    """It is logged once; the text after its end is a line again."""
    out = Output("m")
    for _ in range(100):
        out.feed(b"x" * 5000)
    assert lines() == ["x" * 1000]
    assert len(out._rest) <= 1000
    out.feed(b"xx\nnext\n")
    assert lines()[1:] == ["next"]


def test_a_flood_is_counted_and_logged_when_it_is_over(caplog, lines):
    """Sixty lines a minute are logged, of either way."""
    now = [0.0]
    out = Output("m", clock=lambda: now[0])
    out.feed(b"noise\n" * 1000)
    out.say(logging.WARNING, "ours")
    assert lines() == ["noise"] * 60
    assert "ours" not in caplog.text
    now[0] = 60.0
    out.say(logging.WARNING, "again")
    (record,) = (r for r in caplog.records if "too much" in r.getMessage())
    assert (record.lines, record.model) == (941, "m")
    assert "again" in caplog.text


@pytest.mark.parametrize(
    ("level", "logged"), [(-5, 10), (0, 10), (25, 20), (30, 30), (10**9, 40)]
)
def test_a_line_sent_for_the_log_has_a_known_level(level, logged, caplog):
    """A process cannot invent one, and its text is no format."""
    caplog.set_level(logging.DEBUG)
    Output("m").say(level, "50 %s %d")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logged, "50 %s %d")


def test_a_pipe_is_read_to_its_end_and_closed(lines):
    """The last line is read too, even without an end."""
    reading, writing = os.pipe()
    out = Output("m")
    out.start(reading)
    os.write(writing, b"first\nAborted")
    os.close(writing)
    out.join(SECONDS)
    assert lines() == ["first", "Aborted"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_a_process_that_floods_is_never_made_to_wait(lines):
    """Thirty megabytes go through a pipe of 64 kB, and sixty lines into the log."""
    reading, writing = os.pipe()
    out = Output("m")
    out.start(reading)

    def flood():
        for _ in range(1500):
            os.write(writing, b"the graph prints this\n" * 1000)
        os.close(writing)

    writer = threading.Thread(target=flood)
    writer.start()
    writer.join(SECONDS)
    out.join(SECONDS)
    assert len(lines()) == 60


def test_joining_an_output_that_was_not_started_is_harmless():
    """A process that never came to be has printed nothing."""
    Output("m").join(SECONDS)


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_any_bytes_in_any_pieces_are_lines(chunks):
    """Nothing that a process prints raises, or stays in memory."""
    logger = logging.getLogger(output.__name__)
    logger.disabled = True
    try:
        out = Output("m")
        for chunk in chunks:
            out.feed(chunk)
            assert len(out._rest) <= 1000
        assert len(out.last) <= 3 * 203
    finally:
        logger.disabled = False


_PORT = "I0000 00:00:1795939279.315552   14011 port.cc:153] "
_GUARD = (
    "2026-11-29 08:01:19.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] "
)
_ONEDNN = (
    "oneDNN custom operations are on. You may see slightly different numerical results "
    "due to floating-point round-off errors from different computation orders. To turn "
    "them off, set the environment variable `TF_ENABLE_ONEDNN_OPTS=0`."
)
_ABSL = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to "
    "STDERR"
)
_ENABLE = (
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild "
    "TensorFlow with the appropriate compiler flags."
)
_BUILT = (
    "This TensorFlow binary is optimized to use available CPU instructions in "
    "performance-critical operations."
)


@pytest.mark.parametrize(
    ("line", "aside"),
    [
        (_ABSL, True),
        (_PORT + _ONEDNN, True),
        (_GUARD + _BUILT, True),
        (_ENABLE, True),
        (_PORT.replace("I0000", "E0000") + _ONEDNN, False),
        (_PORT.replace("I0000", "W0000") + _ONEDNN, False),
        (_GUARD.replace(": I ", ": E ") + _BUILT, False),
        (_PORT + _ONEDNN + " And more.", False),
        (_PORT + "oneDNN custom operations failed.", False),
        ("E0000 00:00:1.5 1 cuda_dnn.cc:1] Unable to register cuDNN factory", False),
    ],
)
def test_what_tensorflow_prints_each_time_is_set_aside_and_no_error_is(
    caplog, lines, line, aside
):
    """Its exact lines have a mark, and all are logged."""
    Output("m").feed(line.encode() + b"\n")
    (record,) = caplog.records
    assert lines() == [line]
    assert getattr(record, "aside", False) is aside
