"""The arena that images are decoded into."""

import fcntl
import mmap
import os

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
from modelserver.core.frames import Arena, Frame, Memory
from modelserver.runner.memories import Memories

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
    there = Memories()
    descriptor = arena.memory.open_read_only()
    there.map(5, descriptor, arena.memory.size)
    os.close(descriptor)
    seen = there.view(5, frame.offset, frame.shape)
    assert seen.tolist() == [[7] * 3] * 2
    assert not seen.flags.writeable


def test_a_reader_cannot_write_the_memory(arena):
    """The descriptor that a reader gets allows neither a writable mapping nor writes."""
    arena.allocate((PAGE,)).pixels[:] = 7
    descriptor = arena.memory.open_read_only()
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def test_a_memory_that_could_shrink_or_is_shorter_is_refused():
    """A reader would be killed behind the end of such a file."""
    descriptor = os.memfd_create("frames", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE)
    with pytest.raises(ValueError, match="shorter"):
        Memory(descriptor, PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(ValueError, match="shorter"):
        Memory(descriptor, 2 * PAGE)
    memory, other = Memory(descriptor, PAGE), Memory(None, PAGE)
    assert memory.number != other.number
    memory.retire()


def test_readers_are_told_once_that_a_memory_is_retired():
    """Readers unmap it then, also one that comes too late; others are not bothered."""
    memory, told, other = Memory(None, PAGE), [], []
    memory.tell_reader(told.append)
    forgotten = other.append
    memory.tell_reader(forgotten)
    memory.forget_reader(forgotten)
    memory.forget_reader(forgotten)
    memory.retire()
    memory.retire()
    assert (told, other) == ([memory], [])
    memory.tell_reader(forgotten)
    assert other == [memory]
    with pytest.raises(OSError, match="cannot be shared"):
        memory.open_read_only()


def test_a_frame_of_another_process_has_no_pixels_here():
    """Its shape, place and size are known; its release is told once."""
    released = []
    frame = Frame(Memory(None, PAGE), 64, (2, 3, 3), released.append)
    assert (frame.offset, frame.shape, frame.nbytes) == (64, (2, 3, 3), 18)
    with pytest.raises(RuntimeError, match="does not see"):
        assert frame.pixels
    frame.release()
    frame.release()
    assert released == [frame]


def test_a_frame_that_is_turned_keeps_its_bytes(arena):
    """A photo turned upright has other sides and lies where it lay."""
    frame = arena.allocate((2, PAGE, 3))
    offset = frame.offset
    frame.turn(frame.pixels.reshape(PAGE, 2, 3))
    assert (frame.shape, frame.offset, frame.nbytes) == ((PAGE, 2, 3), offset, 6 * PAGE)
    frame.release()
    assert arena.allocate((8 * PAGE,)).offset == 0


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
    assert arena.memory is None


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
