"""A detector's outputs without names get their roles by order and rank."""

import pytest

from modelserver.runner.graphs.detectors import index_of, roles_by_index

EIGHT = {0: 2, 1: 3, 2: 2, 3: 3, 4: 2, 5: 1, 6: 3, 7: 3}
SEVEN = {0: 3, 1: 2, 2: 3, 3: 2, 4: 1, 5: 3, 6: 3}
FOUR = {0: 3, 1: 2, 2: 2, 3: 1}


@pytest.mark.parametrize(
    ("ranks", "places"),
    [
        pytest.param(EIGHT, (1, 4, 2, 5), id="anchors, too"),
        pytest.param(SEVEN, (0, 3, 1, 4), id="raw ones, too"),
        pytest.param(FOUR, (0, 2, 1, 3), id="four"),
        pytest.param({n + 9: r for n, r in FOUR.items()}, (9, 11, 10, 12), id="later"),
        pytest.param({n: EIGHT[n] for n in (1, 2, 4, 5)}, (1, 4, 2, 5), id="a part"),
    ],
)
def test_the_exporters_sets_are_known_by_their_ranks(ranks, places):
    """A set of keys is known by the ranks of its outputs, and so is a part of one."""
    roles = ("boxes", "scores", "classes", "count")
    assert roles_by_index(ranks) == dict(zip(roles, places, strict=True))


def test_named_outputs_leave_their_indexes_free():
    """Outputs with names of their own leave gaps in the order."""
    rest = {place: EIGHT[place] for place in (4, 2)}
    told = roles_by_index(rest, {"boxes", "count"})
    assert told == {"scores": 4, "classes": 2}


@pytest.mark.parametrize(
    "ranks",
    [{}, {0: 2}, {0: 2, 1: 2}, {0: 3, 1: None, 2: 2}, {0: 4, 1: 2, 2: 2, 3: 1}, {1: 3}],
)
def test_ranks_of_no_set_give_no_roles(ranks):
    """Ranks of no known set, or of two, give no roles."""
    assert roles_by_index(ranks) == {}


def test_an_index_is_read_off_the_name_alone():
    """Only ``Identity`` and ``Identity_N`` at the top have an index."""
    names = ["Identity", "Identity_12", "Identity_x", "model/Identity", "Identity_1234"]
    assert [index_of(name) for name in names] == [0, 12, None, None, None]
