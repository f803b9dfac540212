"""The memories that a runner reads images from."""

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.runner.memories import Memories

PAGE = mmap.PAGESIZE


@pytest.fixture(scope="module")
def mapped():
    """Yield memories of which number 3 is mapped: two pages, bytes from 0 to 255."""
    descriptor = os.memfd_create("frames")
    os.write(descriptor, bytes(range(256)) * (2 * PAGE // 256))
    memories = Memories()
    memories.map(3, descriptor, 2 * PAGE)
    os.close(descriptor)
    return memories


def test_a_frame_is_shown_where_it_lies(mapped):
    """A view has the frame's shape and bytes and cannot be written."""
    seen = mapped.view(3, 10, (2, 3))
    assert seen.tolist() == [[10, 11, 12], [13, 14, 15]]
    assert not seen.flags.writeable
    assert mapped.view(3, 2 * PAGE - 1, (1, 1, 1)).tolist() == [[[255]]]


def test_a_frame_may_hold_other_numbers_than_bytes(mapped):
    """Floats and wide integers are read as they lie there, at any offset."""
    seen = mapped.view(3, 3, (1, 2), "<u2")
    assert seen.tolist() == [[3 + 4 * 256, 5 + 6 * 256]]
    assert mapped.view(3, 0, (4,), "<f4").nbytes == 16
    with pytest.raises(TypeError, match="numeric"):
        mapped.view(3, 0, (1,), "|O8")


WILD = st.integers(-2, 9) | st.integers(-(2**63), 2**64 - 1)


@given(
    st.sampled_from([3, 4]),
    WILD | st.integers(0, 2 * PAGE),
    st.lists(WILD, max_size=4).map(tuple),
    st.sampled_from(["|u1", "<i2", "<f4", "<f8"]),
)
def test_no_reference_shows_more_than_the_memory(mapped, number, offset, shape, dtype):
    """Any reference gives a view inside the memory or a ValueError."""
    try:
        seen = mapped.view(number, offset, shape, dtype)
    except ValueError:
        return
    assert seen.shape == shape
    assert number == 3
    assert 0 < seen.nbytes <= 2 * PAGE - offset


def test_a_memory_that_was_dropped_stays_for_its_views():
    """A run under way reads on; later runs cannot name it."""
    descriptor = os.memfd_create("frames")
    os.write(descriptor, b"\7" * PAGE)
    memories = Memories()
    memories.map(1, descriptor, PAGE)
    os.close(descriptor)
    seen = memories.view(1, 0, (PAGE,))
    memories.drop(1)
    memories.drop(1)
    assert seen.min() == 7
    with pytest.raises(ValueError, match="not mapped"):
        memories.view(1, 0, (1,))


def test_a_memory_that_is_shorter_than_is_said_is_not_mapped():
    """A file that is shorter would end the process that reads behind its end."""
    descriptor = os.memfd_create("frames")
    os.ftruncate(descriptor, 2 * PAGE)
    memories = Memories()
    with pytest.raises(ValueError, match="size"):
        memories.map(1, descriptor, 3 * PAGE)
    os.close(descriptor)
