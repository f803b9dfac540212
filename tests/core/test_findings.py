"""Findings of a model's signature, and their codes."""

from pathlib import Path

import pytest

from modelserver.core import findings
from modelserver.core.signatures import Evidence, Signature

ROOT = Path(__file__).parents[2]


def signature(**facts):
    """A classifier's signature of three classes."""
    plain = {"kind": "classification", "input": "x:0", "dtype": "uint8"}
    plain |= {"layout": "NHWC", "outputs": {"scores": "s:0"}, "classes": 3}
    return Signature(**{**plain, **facts})


GUESSES = {
    "the input x:0 is fed with (pixel - [127.5]) * [0.0078]: nothing in the graph "
    "tells": ("scaling-guessed", "mean"),
    "the input x:0 is fed with (pixel - [0]) * [1]: as most detectors": (
        "guessed",
        "mean",
    ),
    "the input x:0 takes any size: guessed 224 x 224, nothing in the graph tells": (
        "size-guessed",
        "size",
    ),
    "the input x:0 takes any size: guessed 96 x 96, node 'a' is of B": (
        "guessed",
        "size",
    ),
    "the output a:0 was chosen over b:0": ("guessed", "output"),
    "keep_prob:0 is fed with 1.0": ("guessed", ""),
}


@pytest.mark.parametrize(("guess", "expected"), GUESSES.items())
def test_each_guess_names_what_overrides_it(guess, expected):
    """A scaling or a size that nothing tells is a warning, other guesses are notes."""
    (found,) = findings.of_guesses("x", signature(guesses=(guess,)))
    assert found.code == expected[0]
    assert expected[1] in found.fix
    assert bool(found.fix) == bool(expected[1])


def test_a_scaling_that_nothing_tells_has_its_remedy():
    """The remedy names this scaling, the other one, and ways to find out."""
    guess = next(iter(GUESSES))
    model = signature(guesses=(guess,), mean=(0.0,), scale=(1 / 255,))
    (found,) = findings.of_guesses("x", model)
    assert '{"mean": 0.0, "scale": 0.00392156862745098}' in found.fix
    assert "--label" in found.fix
    assert "import --scaling" in found.fix


def test_what_speaks_against_a_scaling_is_a_warning():
    """Evidence against a scaling is a warning, and a change is a note."""
    scaling = Evidence(
        source="sidecar", why="w", against=("statistics would feed y",), formerly="z"
    )
    against, changed = findings.of_scaling("x", signature(scaling=scaling))
    assert (against.code, against.level) == ("scaling-against", "warning")
    assert "the sidecar says, but statistics would feed y" in against.message
    assert (changed.code, changed.level) == ("scaling-changed", "note")
    assert "the last version fed it with z" in changed.message
    assert list(findings.of_scaling("x", signature())) == []


def test_every_code_is_documented():
    """The table in the documentation is that of the code."""
    text = (ROOT / "docs" / "doctor.md").read_text()
    for code, (level, meaning) in findings.CODES.items():
        assert f"| `{code}` | {level} | {meaning} |" in text
    assert text.count("\n| `") == len(findings.CODES)
