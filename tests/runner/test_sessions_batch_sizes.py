"""Batches of few sizes are filled up with copies, in order, and lose nothing."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.runner.sessions.runs import fill, run_sizes

MOST = st.integers(1, 1024)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (24, (1, 2, 4, 8, 16, 24)),
        (32, (1, 2, 4, 8, 16, 32)),
        (33, (1, 2, 4, 8, 16, 32, 33)),
    ],
)
def test_sizes_are_powers_of_two_and_the_most(most, sizes):
    """A run takes as many images as MAX_BATCH allows, for every number."""
    assert run_sizes(most) == sizes


@given(MOST)
def test_no_size_is_more_than_twice_the_one_before(most):
    """Less than half of a run is copies."""
    sizes = run_sizes(most)
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(a < b <= 2 * a for a, b in pairwise(sizes))


@given(st.data(), MOST)
def test_a_batch_is_filled_up_to_the_next_size_in_order(data, most):
    """A batch's own items come first, in order; only copies of them follow."""
    items = data.draw(st.lists(st.integers(), min_size=1, max_size=most))
    full = fill(items, run_sizes(most))
    assert list(full[: len(items)]) == items
    assert set(full) == set(items)
    assert len(full) in run_sizes(most)
    assert len(full) < 2 * len(items)
    assert full is items or len(full) > len(items)


@given(st.lists(st.integers(), min_size=1), st.sampled_from([(), (1,), (2, 4)]))
def test_a_batch_beyond_all_sizes_stays_as_it_is(items, sizes):
    """No item is ever left out."""
    full = fill(items, sizes)
    assert list(full[: len(items)]) == items
    if len(items) > max(sizes, default=0):
        assert full is items


def test_a_fixed_size_is_always_filled():
    """A batch for a graph that takes four images and no fewer is filled to four."""
    assert fill(["a", "b", "c"], (4,)) == ["a", "b", "c", "a"]
    assert fill(["a"], (4,)) == ["a"] * 4
