"""The arena that images are decoded into."""

import mmap

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from modelserver.core.errors import Overloaded
from modelserver.core.frames import Arena, attach

PAGE = mmap.PAGESIZE


@pytest.fixture
def arena():
    arena = Arena(8 * PAGE)
    arena.open()
    yield arena
    arena.close()


def test_a_frame_has_the_shape_that_was_asked_for(arena):
    """A frame is uint8, contiguous, writable, and starts on a page."""
    frame = arena.allocate((4, 5, 3))
    assert frame.pixels.shape == (4, 5, 3)
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.flags.c_contiguous
    assert frame.pixels.flags.writeable
    assert frame.pixels.ctypes.data % PAGE == 0


def test_another_mapping_sees_what_was_written(arena):
    """Another mapping of the arena sees the pixels."""
    arena.allocate((PAGE,))
    frame = arena.allocate((2, 3))
    frame.pixels[:] = 7
    there = attach(arena.descriptor)
    assert there[frame.offset : frame.offset + 6].tolist() == [7] * 6
    assert not there.flags.writeable


def test_a_full_arena_refuses_and_recovers(arena):
    """An image that finds no room is refused; once one is released it fits."""
    first = arena.allocate((5 * PAGE,))
    with pytest.raises(Overloaded):
        arena.allocate((4 * PAGE,))
    first.release()
    arena.allocate((8 * PAGE,))


def test_releasing_twice_is_harmless(arena):
    """A second release gives nothing back again."""
    first = arena.allocate((PAGE,))
    first.release()
    second = arena.allocate((PAGE,))
    first.release()
    third = arena.allocate((PAGE,))
    assert second.offset != third.offset


def test_a_large_frame_gives_its_pages_back():
    """Memory for one huge photo is given back: it reads as zero again."""
    arena = Arena(64 << 20)
    arena.open()
    frame = arena.allocate((32 << 20,))
    frame.pixels[:] = 1
    frame.release()
    assert arena.allocate((32 << 20,)).pixels.max() == 0
    arena.close()


def test_closing_keeps_living_frames_valid_and_allows_no_new_ones(arena):
    """A run under way may still read its image."""
    frame = arena.allocate((PAGE,))
    arena.close()
    arena.close()
    frame.pixels[:] = 1
    frame.release()
    with pytest.raises(Overloaded):
        arena.allocate((1,))
    with pytest.raises(OSError, match="cannot be shared"):
        assert arena.descriptor


class ArenaMachine(RuleBasedStateMachine):
    """Frames never overlap, and released memory is used again."""

    frames = Bundle("frames")

    def __init__(self):
        super().__init__()
        self.arena = Arena(16 * PAGE)
        self.arena.open()
        self.living = {}

    @rule(target=frames, size=st.integers(1, 5 * PAGE))
    def allocate(self, size):
        try:
            frame = self.arena.allocate((size,))
        except Overloaded:
            return None
        mark = len(self.living) % 250 + 1
        frame.pixels[:] = mark
        self.living[frame] = mark
        return frame

    @rule(frame=consumes(frames))
    def release(self, frame):
        if frame is not None:
            del self.living[frame]
            frame.release()

    @invariant()
    def nobody_wrote_over_anybody(self):
        for frame, mark in self.living.items():
            assert (frame.pixels == mark).all()

    def teardown(self):
        for frame in self.living:
            frame.release()
        self.arena.allocate((16 * PAGE,))
        self.arena.close()


TestArenaMachine = ArenaMachine.TestCase
