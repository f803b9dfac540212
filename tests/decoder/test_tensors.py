"""Numbers that a client sends are copied as they are, or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import BadRequest, Overloaded
from modelserver.core.frames import Arena
from modelserver.core.messages.requests import Tensor
from modelserver.decoder import tensors

DTYPES = ["|b1", "|u1", "|i1", "<u2", "<i2", "<f2", "<i4", "<f4", "<i8", "<f8"]


@pytest.fixture(scope="module")
def arena():
    """Memory for frames."""
    one = Arena(1 << 16)
    one.open()
    yield one
    one.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_copied_bit_by_bit(arena, dtype):
    """They begin where the client says, in any type, whatever lies before them."""
    sent = (np.arange(24) % 2).astype(dtype).reshape(2, 3, 4)
    frame = tensors.copy(
        b"abc" + sent.tobytes() + b"rest", Tensor(dtype, (2, 3, 4), 3), arena.allocate
    )
    assert frame.pixels.dtype.str == frame.dtype == dtype
    assert frame.nbytes == sent.nbytes
    assert (frame.pixels == sent).all()
    frame.release()


def test_a_boolean_is_0_or_1(arena):
    """TensorFlow takes any other byte for what nobody knows."""
    with pytest.raises(BadRequest, match="0 or 1"):
        tensors.copy(b"\0\1\2", Tensor("|b1", (3,)), arena.allocate)


@pytest.mark.parametrize("dtype", ["|O", "<U4", "<c8", "|V2", "nonsense", ""])
def test_nothing_but_numbers_is_taken(arena, dtype):
    """NumPy is asked for no dtype that a client may have made up."""
    with pytest.raises(BadRequest, match="no numbers"):
        tensors.copy(bytes(64), Tensor(dtype, (2,)), arena.allocate)


@given(
    st.binary(max_size=200),
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 1 << 30), max_size=4).map(tuple),
    st.integers(0, 1 << 40),
)
def test_no_shape_and_offset_reads_behind_the_upload(arena, data, dtype, shape, at):
    """What does not lie in it is refused before anything is allocated."""
    tensor = Tensor(dtype, shape, at)
    if at + tensor.nbytes > len(data):
        with pytest.raises(BadRequest):
            tensors.copy(data, tensor, pytest.fail)
        return
    try:
        frame = tensors.copy(data, tensor, arena.allocate)
    except BadRequest:
        assert dtype == "|b1"
    else:
        assert frame.pixels.tobytes() == data[at : at + tensor.nbytes]
        frame.release()


def test_an_arena_that_is_full_says_so(arena):
    """Its own error passes through."""
    with pytest.raises(Overloaded):
        tensors.copy(bytes(1 << 17), Tensor("|u1", (1 << 17,)), arena.allocate)
