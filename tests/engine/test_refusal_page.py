"""The page on which doors see refusals: soon where it matters, later where not."""

import os
from types import SimpleNamespace

import pytest

from modelserver.core.refusals import Line, Reader, make_page
from modelserver.engine.catalogue import State
from modelserver.engine.refusal_page import RefusalPage


class Loop:
    """Notes what is to be called, and when."""

    def __init__(self):
        self.calls = []

    def after(self, seconds, callback, *arguments):
        self.calls.append((seconds, callback, arguments))

    def run(self, callback):
        """Call what is due for a function, and return how long it had to wait."""
        (call,) = [call for call in self.calls if call[1] == callback]
        self.calls.remove(call)
        callback(*call[2])
        return call[0]


class Model:
    """A model with room for some photos."""

    def __init__(self, room):
        self.room = room
        self.queue = SimpleNamespace(line=lambda: Line(self.room, 100))


@pytest.fixture
def descriptor():
    made = make_page()
    yield made
    os.close(made)


def page_of(models, descriptor):
    loop = Loop()
    entries = [SimpleNamespace(state=State.READY, loaded=model) for model in models]
    page = RefusalPage(SimpleNamespace(registry=entries, loop=loop), descriptor)
    page.open()
    return page, loop


@pytest.mark.parametrize(
    ("rooms", "is_soon"),
    [((64,), False), ((64, 3), True), ((0,), True), ((), False)],
)
def test_the_page_is_written_soon_only_if_a_model_has_little_room(
    rooms, is_soon, descriptor
):
    """While all would take many more, no door refuses, whatever the page says."""
    page, loop = page_of([Model(room) for room in rooms], descriptor)
    page.note_change()
    assert (loop.run(page._write) < 0.005) == is_soon


def test_many_changes_are_one_write(descriptor):
    """And a door reads what the models would do then."""
    model = Model(64)
    page, loop = page_of([model], descriptor)
    for room in (50, 20, 0):
        model.room = room
        page.note_change()
    loop.run(page._write)
    with Reader(descriptor) as reader:
        assert reader.refusal(0) is not None


def test_a_full_model_is_told_of_soon_again(descriptor):
    """The pace goes with what was written last."""
    model = Model(64)
    page, loop = page_of([model], descriptor)
    model.room = 0
    page.note_change()
    calm = loop.run(page._write)
    page.note_change()
    full = loop.run(page._write)
    model.room = 64
    page.note_change()
    assert loop.run(page._write) == full < calm
    page.note_change()
    assert loop.run(page._write) == calm
