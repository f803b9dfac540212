"""A terminal shows the models' first loads, and then how they run."""

import io
import logging
import threading
from types import SimpleNamespace

import pytest

from modelserver.core import logs
from modelserver.engine import loader, startup_screen
from modelserver.engine.catalogue import State
from support.app_client import SECONDS
from support.servers import wait_for


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """As a terminal does."""
        return True

    @property
    def lines(self):
        """What its lines show, once all was written over."""
        return [line.split("\r\x1b[K")[-1] for line in self.getvalue().split("\n")[:-1]]


class Models(list):
    """A registry that changes by hand."""

    def __init__(self, *names):
        super().__init__(
            SimpleNamespace(name=name, state=State.LOADING, first=True, loaded=None)
            for name in names
        )
        self.closed = False
        self.changed = threading.Condition()

    def wait(self, done, timeout_s):
        with self.changed:
            self.changed.wait_for(lambda: done(self), timeout_s)

    def end(self, number, state, **facts):
        """End a model's first load."""
        with self.changed:
            entry = self[number]
            entry.first, entry.state = False, state
            if state is State.READY:
                given = {"device": "CPU", "slots": 2, "max_batch": 1, **facts}
                entry.loaded = SimpleNamespace(facts=SimpleNamespace(**given))
            self.changed.notify_all()


@pytest.fixture
def screen():
    """A terminal that the log goes to."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    terminal = Terminal()
    logs.configure("auto", terminal)
    yield terminal
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def shown(screen):
    """Start showing models; all are closed after the test."""
    started = []

    def show(*names):
        models = Models(*names)
        thread = threading.Thread(
            target=startup_screen.show, args=(models, 100.0, lambda: 104.6)
        )
        thread.start()
        started.append((models, thread))
        return models, thread

    yield show
    for models, thread in started:
        models.closed = True
        thread.join(SECONDS)


def test_each_model_is_named_while_it_is_loaded(shown, screen):
    """The one line goes from model to model; what stays is the last one."""
    models, thread = shown("cats", "dogs")
    wait_for(lambda: "loading cats (1 of 2) · 5 s" in screen.getvalue(), "cats")
    models.end(0, State.READY)
    wait_for(lambda: "loading dogs (2 of 2) · 5 s" in screen.getvalue(), "dogs")
    models.end(1, State.READY, device="GPU:0", max_batch=32)
    thread.join(SECONDS)
    ways = "(CPU, 2 at a time; GPU:0, 2 at a time of up to 32 photos each)"
    assert screen.lines == [f"2 of 2 models ready after 5 s {ways}"]


def test_one_model_needs_no_count(shown, screen):
    """It is ready, after so long, on what, and how many photos run side by side."""
    models, thread = shown("cats")
    models.end(0, State.READY)
    thread.join(SECONDS)
    assert screen.lines == ["ready after 5 s (CPU, 2 at a time)"]


def test_a_model_that_is_not_in_memory_counts_as_ready(shown, screen):
    """With MAX_MODELS its first photo has it loaded."""
    models, thread = shown("a", "b", "c")
    models.end(0, State.READY)
    models.end(1, State.UNLOADED)
    models.end(2, State.FAILED)
    thread.join(SECONDS)
    assert screen.lines == ["2 of 3 models ready after 5 s (CPU, 2 at a time)"]


def test_a_model_that_failed_is_not_called_ready(shown, screen):
    """The log's own line with the reason is left as it is."""
    models, thread = shown("cats")
    logging.getLogger(loader.__name__).error("cats cannot be served")
    models.end(0, State.FAILED)
    thread.join(SECONDS)
    (line,) = [line for line in screen.lines if line]
    assert "cats cannot be served" in line
    assert "ready" not in screen.getvalue()


def test_notes_of_a_load_are_left_out_only_while_it_is_shown(shown, screen):
    """The loader's later lines, about reloads, are there again."""
    told = logging.getLogger(loader.__name__)
    models, thread = shown("cats")
    wait_for(lambda: "loading" in screen.getvalue(), "it is shown")
    told.info("cats is ready on CPU")
    models.end(0, State.READY)
    thread.join(SECONDS)
    told.info("cats is ready again")
    assert "is ready on CPU" not in screen.getvalue()
    assert "cats is ready again" in screen.lines[-1]


def test_without_models_nothing_is_shown(shown, screen):
    """The log says already what to put where."""
    _, thread = shown()
    thread.join(SECONDS)
    assert screen.getvalue() == ""
