"""Log lines and reports: one line each, with any text in them."""

import io
import json
import logging
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import logs


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """As a terminal does."""
        return True


class Gone(Terminal):
    """A terminal whose window was closed."""

    def write(self, text):
        """As the kernel does."""
        raise OSError(5, "Input/output error")


class Broken(io.StringIO):
    """A stream on a disk that is full."""

    def write(self, text):
        """As a full disk does."""
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def root_logger():
    """Give the root logger back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def log():
    """A logger of the package's."""
    return logging.getLogger("modelserver.testing")


def configured(log_format, stream=None):
    """Configure onto a stream and give it back."""
    stream = stream or io.StringIO()
    logs.configure(log_format, stream)
    return stream


def test_json_lines_hold_the_facts(log):
    """A JSON line has the sentence, level, logger, time and each extra by name."""
    stream = configured("json")
    log.info("loaded %s", "dogs", extra={"model": "dogs", "ms": 1.5, "ok": True})
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "loaded dogs",
        "level": "info",
        "logger": "modelserver.testing",
        "model": "dogs",
        "ms": 1.5,
        "ok": True,
    }


def test_text_lines_read_well(log):
    """A text line has the sentence and the facts, and no colours off a terminal."""
    stream = configured("text")
    log.warning("no label map", extra={"model": "dogs"})
    line = stream.getvalue()
    assert "warning" in line
    assert "no label map [modelserver.testing] model=dogs\n" in line
    assert "\x1b" not in line


def test_auto_is_json_off_a_terminal(log):
    """Off a terminal, auto means JSON."""
    stream = configured("auto")
    log.info("hello")
    assert json.loads(stream.getvalue())["event"] == "hello"


def test_auto_is_text_on_a_terminal(log):
    """On a terminal, auto means text, with colours."""
    stream = configured("auto", Terminal())
    log.info("hello")
    assert "\x1b" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_line_set_aside_is_on_no_terminal_and_of_level_debug_elsewhere(log):
    """A person who looks on is spared it; a log that is kept has it."""
    screen = configured("auto", Terminal())
    log.info("routine", extra=logs.ASIDE)
    log.info("news")
    assert "routine" not in screen.getvalue()
    assert "news" in screen.getvalue()
    for log_format in ("json", "text"):
        stream = configured(log_format)
        log.info("routine", extra={**logs.ASIDE, "x": 1})
        assert "debug" in stream.getvalue()
        assert "routine" in stream.getvalue()
        assert "aside" not in stream.getvalue()
    every = configured("text", Terminal())
    log.info("routine", extra=logs.ASIDE)
    assert "routine" in every.getvalue()


def test_a_bare_line_has_its_words_alone_on_a_terminal(log):
    """Elsewhere it is a line like any other, without the mark."""
    screen = configured("auto", Terminal())
    log.info("ready\x1b[2J", extra=logs.BARE)
    assert screen.getvalue() == "\r\x1b[Kready\\x1b[2J\n"
    stream = configured("json")
    log.info("ready", extra=logs.BARE)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("ready", "info")
    assert "bare" not in line


def test_a_shown_text_gives_way_to_lines_and_reports(log, monkeypatch):
    """What comes next is written over it, on either stream of the terminal."""
    screen = configured("auto", Terminal())
    monkeypatch.setattr(sys, "stdout", screen)
    logs.report("before")
    logs.show("loading m\x1b[2J" + "x" * 200)
    log.info("news")
    logs.report("m: 5 ms")
    logs.show("")
    logs.show("")
    logs.report("after")
    before, *rest, after = screen.getvalue().split("\r\x1b[K")
    assert before == "before\n"
    assert rest[0].startswith(r"loading m\x1b[2J")
    assert len(rest[0]) == 79
    assert "news" in rest[1]
    assert rest[2] == "m: 5 ms\n"
    assert after == "after\n"


def test_nothing_is_shown_where_nobody_looks_on(log):
    """Off a terminal, and where all lines are asked for, the log has lines only."""
    for log_format, stream in (
        ("auto", io.StringIO()),
        ("text", Terminal()),
        ("json", Terminal()),
    ):
        configured(log_format, stream)
        logs.show("loading")
        assert not logs.is_live()
        assert stream.getvalue() == ""


def test_a_text_that_cannot_be_shown_is_survived():
    """A terminal that went away costs the text only."""
    logs.configure("auto", Gone())
    logs.show("loading")


def test_stderr_is_where_lines_go(log, capsys):
    """Without a stream, lines go to stderr and stdout stays clean."""
    logs.configure("json")
    log.info("hello")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "hello"


def test_debug_lines_are_left_out(log):
    """Lines below INFO are not written."""
    stream = configured("json")
    log.debug("details")
    assert stream.getvalue() == ""


def test_configuring_again_replaces(log, root_logger):
    """A second call takes the first one's place; handlers of others stay."""
    others = list(root_logger.handlers)
    first = configured("json")
    second = configured("text")
    log.info("hello")
    assert first.getvalue() == ""
    assert second.getvalue().count("hello") == 1
    assert len(root_logger.handlers) == len(others) + 1
    assert root_logger.handlers[: len(others)] == others


@pytest.mark.parametrize("log_format", ["text", "json"])
@given(name=st.text(), value=st.text())
def test_a_line_cannot_be_forged(log_format, name, value):
    """Any message and fields give one line without escape sequences."""
    stream = configured(log_format)
    logging.getLogger("modelserver.testing").info("no %s", name, extra={"x": value})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_forged_line_stays_readable(log):
    """Control characters are escaped, so that an operator sees the attempt."""
    stream = configured("json")
    log.info("no model %s", "x\n2026-01-01 INFO fake\x1b[31m\u202e")
    event = json.loads(stream.getvalue())["event"]
    assert event == r"no model x\n2026-01-01 INFO fake\x1b[31m\u202e"


def test_long_values_are_cut(log):
    """A field is cut at 200 characters and a sentence at 2,000."""
    stream = configured("json")
    log.info("%s", "m" * 5000, extra={"name_sent": "n" * 5000})
    line = json.loads(stream.getvalue())
    assert line["name_sent"] == "n" * 199 + "…"
    assert line["event"] == "m" * 1999 + "…"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan(log, number):
    """A number that JSON lacks becomes a string."""
    stream = configured("json")
    log.info("x", extra={"score": number, "none": None})
    line = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert (line["score"], line["none"]) == (str(number), None)


def fail(log, message):
    """Log an exception with its traceback."""
    try:
        raise ValueError(message)  # noqa: TRY301 - it is the logging that is tested
    except ValueError:
        log.exception("bad")


def test_a_traceback_is_one_json_value(log):
    """In JSON a traceback stands in the record's one line."""
    stream = configured("json")
    fail(log, "x\nfake")
    line = json.loads(stream.getvalue())
    assert "Traceback" in line["exception"]
    assert "ValueError: x" in line["exception"]


def test_a_traceback_is_moved_in(log):
    """In text no line of a traceback begins where a record's line would."""
    stream = configured("text")
    fail(log, "x\n2026-01-01 INFO fake\x1b[31m")
    first, *rest = stream.getvalue().splitlines()
    assert "bad" in first
    assert all(line.startswith("    ") for line in rest)
    assert r"\x1b[31m" in rest[-1]


def test_a_log_that_cannot_be_written_is_survived(log, monkeypatch):
    """With a full disk or a closed stderr, logging does nothing and raises nothing."""
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure("json", stream=None if stream is closed else stream)
        log.info("hello")


def test_without_stderr_nothing_is_logged(log, monkeypatch):
    """A server that was started with stderr closed logs nothing and runs."""
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure("auto")
    log.info("hello")


def test_adopting_a_logger(log):
    """A logger with handlers of its own is made to write the way of the others."""
    stream = configured("json")
    theirs = io.StringIO()
    other = logging.getLogger("gunicorn.testing")
    other.addHandler(logging.StreamHandler(theirs))
    other.propagate = False
    logs.adopt(other)
    other.warning("hello")
    assert theirs.getvalue() == ""
    assert json.loads(stream.getvalue())["logger"] == "gunicorn.testing"


def test_a_report_is_one_line_on_stdout(capsys):
    """A report goes to stdout as it is, in any log format."""
    logs.configure("json")
    logs.report("dogs: 12.5 ms")
    assert capsys.readouterr().out == "dogs: 12.5 ms\n"


def test_a_report_stays_one_line(capsys):
    """Line ends in a report are escaped."""
    logs.report("dogs\nfake: 1 ms\r")
    assert capsys.readouterr().out == "dogs\\nfake: 1 ms\\r\n"


def test_a_report_is_flushed(monkeypatch):
    """A report is out at once, also if stdout is buffered."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    logs.report("Schneehühner")
    assert raw.getvalue() == "Schneehühner\n".encode()


def test_letters_that_stdout_lacks(monkeypatch):
    """A label that stdout's encoding lacks is escaped, not lost."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    logs.report("Schneehühner \udcff")
    assert raw.getvalue() == b"Schneeh\\xfchner \\udcff\n"


def test_a_report_survives_a_broken_stdout(monkeypatch):
    """A stdout that is full, closed or not there costs the line and nothing else."""
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        logs.report("dogs: 12.5 ms")


@pytest.fixture
def unbound():
    """Leave no fact bound."""
    yield
    logs.unbind()


@pytest.mark.usefixtures("unbound")
def test_what_is_bound_is_in_every_line_of_the_thread(log):
    """Bound facts are in all lines; a line's own facts override them."""
    stream = configured("json")
    other = threading.Thread(target=log.warning, args=("other",))
    logs.bind(request_id="r", model="m")
    log.warning("both")
    log.warning("own", extra={"model": "x"})
    other.start()
    other.join()
    logs.bind(model="")
    assert logs.get_fact("model") == ""
    log.warning("one")
    logs.unbind()
    log.warning("none")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    facts = [
        (line["event"], line.get("request_id"), line.get("model")) for line in lines
    ]
    assert facts == [
        ("both", "r", "m"),
        ("own", "r", "x"),
        ("other", None, None),
        ("one", "r", None),
        ("none", None, None),
    ]


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_bound_can_forge_nothing(log, log_format):
    """Bound facts are escaped and cut like any fact."""
    stream = configured(log_format)
    logs.bind(model="m\nforged\x1b[2J" + "x" * 1000)
    log.warning("seen")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert len(line) < 500


@pytest.mark.process
def test_importing_changes_nothing():
    """Importing the module neither touches the root logger nor imports structlog."""
    code = (
        "import logging, sys; before = logging.getLogger().handlers[:];"
        "import modelserver.core.logs;"
        "print(before == logging.getLogger().handlers, 'structlog' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True False\n"
