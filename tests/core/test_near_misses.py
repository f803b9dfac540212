"""Misspelled settings are found, and other programs' variables are let be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.settings import SETTINGS, near_misses

NAMES = [one.name for one in SETTINGS]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("MODELS_FOLDER", "MODEL_FOLDER"),
        ("MODEL_FODLER", "MODEL_FOLDER"),
        ("MODELFOLDER", "MODEL_FOLDER"),
        ("model_folder", "MODEL_FOLDER"),
        ("MIN_CONFIDENSE", "MIN_CONFIDENCE"),
        ("MINCONFIDENSE", "MIN_CONFIDENCE"),
        ("PROT", "PORT"),
        ("HOSTS", "HOST"),
        ("THREAD", "THREADS"),
    ],
)
def test_a_misspelled_setting_is_found(given, name):
    """Letters may miss, be too many, be others or be swapped; case does not count."""
    assert list(near_misses({given: "x", "PATH": "/bin"})) == [(given, name)]


@pytest.mark.parametrize(
    "given",
    ["HOME", "PATH", "LANG", "SHELL", "POSTS", "MODEL", "MAX_BATCH_BYTES", "FOLDER"],
)
def test_other_variables_are_let_be(given):
    """What differs in more than a quarter of its letters is something else."""
    assert list(near_misses({given: "x"})) == []


def test_a_setting_that_is_set_is_not_missed():
    """A variable near one that has its value is another program's."""
    assert list(near_misses({"PORTS": "1", "PORT": "80"})) == []
    assert list(near_misses({"PORTS": "1", "PORT": " "})) == [("PORTS", "PORT")]


def test_no_setting_is_a_near_miss_of_another():
    """All of them may be set at a time, or any one alone."""
    for name in NAMES:
        assert list(near_misses({name: "x"})) == []


@given(st.dictionaries(st.text(min_size=1), st.text()), st.sampled_from(NAMES))
def test_any_environment_is_looked_through(environ, name):
    """Names may be anything; what is found was given, and is unset itself."""
    for given_name, right in near_misses({**environ, name: "x"}):
        assert given_name in environ
        assert right in NAMES
        assert right != name
