"""What is worth an operator's eye about a model."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import findings
from modelserver.core.signatures import Evidence, Signature
from modelserver.engine.discovery import ModelFiles
from modelserver.tasks.labels import LabelMap, numbered

ROOT = Path(__file__).parents[2]


def files(kind="classification", *, labels=True, golden=True):
    """A model's files; none of them is read."""
    photo, answer = Path("x.test.jpg"), Path("x.expected.json")
    return ModelFiles(
        "x",
        kind,
        Path("x.pb"),
        Path("x.pbtxt") if labels else None,
        None,
        *((photo, answer) if golden else (None, None)),
    )


def signature(**facts):
    """A classifier's signature of three classes."""
    plain = {"kind": "classification", "input": "x:0", "dtype": "uint8"}
    plain |= {"layout": "NHWC", "outputs": {"scores": "s:0"}, "classes": 3}
    return Signature(**{**plain, **facts})


def names(*ids, **more):
    """A label map of these ids."""
    return LabelMap({number: f"class {number}" for number in ids}, **more)


def codes(label_map, model=None, seen=None, **facts):
    """The codes of what is found."""
    model = model or files()
    found = findings.of_model(model, signature(**facts), label_map, seen)
    return [one.code for one in found]


def test_nothing_is_found_where_all_is_well():
    """A name for each class, a golden image, any batch: no finding."""
    assert codes(names(0, 1, 2)) == []
    assert codes(names(1, 2, 3)) == []


@pytest.mark.parametrize(
    ("label_map", "expected"),
    [
        pytest.param(names(0, 2), ["labels-gaps", "labels-missing"], id="gap"),
        pytest.param(names(1, 2), [], id="no name for the background"),
        pytest.param(names(0, 1), ["labels-offset", "labels-missing"], id="one short"),
        pytest.param(
            names(1, 2, 3, 4), ["labels-offset", "labels-unused"], id="too many"
        ),
        pytest.param(names(0, 1, 2, warnings=("line 3: odd",)), ["labels-odd"], id="w"),
        pytest.param(
            LabelMap({0: "cat", 1: "cat", 2: "dog"}), ["labels-duplicate"], id="twice"
        ),
    ],
)
def test_label_ids_are_compared_with_a_classifiers_outputs(label_map, expected):
    """Gaps, offset, duplicates, too few and too many."""
    assert codes(label_map) == expected


def test_the_sidecars_offset_is_no_guess():
    """Where the operator says the offset, ids are compared with that."""
    assert codes(names(5, 6, 7), label_offset=5) == []
    assert codes(names(5, 6, 7), label_offset=6) == ["labels-missing", "labels-unused"]


@pytest.mark.parametrize(
    ("label_map", "classes", "expected"),
    [
        pytest.param(names(1, 2), 2, [], id="from 1"),
        pytest.param(names(0, 1), 2, [], id="from 0"),
        pytest.param(names(1, 2), None, [], id="not known"),
        pytest.param(names(1, 2, 9), 8, ["labels-gaps", "labels-unused"], id="beyond"),
        pytest.param(names(1, 3), 3, ["labels-gaps"], id="a gap is no missing name"),
    ],
)
def test_label_ids_are_compared_with_a_detectors_classes(label_map, classes, expected):
    """A detector's ids count from 1, and its background has none."""
    facts = {"kind": "detection", "classes": None}
    assert codes(label_map, files("detection"), classes, **facts) == expected


def test_a_model_without_label_map_is_told():
    """That is one finding, not one for each class."""
    assert codes(numbered(), files(labels=False)) == ["labels-none"]


def test_batch_and_golden_image_are_notes():
    """Neither keeps a model from serving."""
    found = findings.of_model(files(golden=False), signature(batch=1), names(0, 1, 2))
    assert [(one.code, one.level) for one in found] == [
        ("batch-one", "note"),
        ("golden-none", "note"),
    ]


def test_far_ids_are_counted_out_in_part_only():
    """A gap of two thousand million ids costs nothing."""
    found = next(findings.of_labels(files(), names(0, 2**31 - 1)))
    assert found.message == "the label map leaves out ids 1, 2, 3, 4, 5 and 45 more"


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
    """The sidecar's line for what is fed now, the other one, and the ways to find out."""
    guess = next(iter(GUESSES))
    model = signature(guesses=(guess,), mean=(0.0,), scale=(1 / 255,))
    (found,) = findings.of_guesses("x", model)
    assert '{"mean": 0.0, "scale": 0.00392156862745098}' in found.fix
    assert "--label" in found.fix
    assert "import --scaling" in found.fix


def test_what_speaks_against_a_scaling_is_a_warning():
    """Whoever said it; and a model that is fed otherwise now is named."""
    scaling = Evidence(
        source="sidecar", why="w", against=("statistics would feed y",), formerly="z"
    )
    against, changed = findings.of_scaling("x", signature(scaling=scaling))
    assert (against.code, against.level) == ("scaling-against", "warning")
    assert "the sidecar says, but statistics would feed y" in against.message
    assert (changed.code, changed.level) == ("scaling-changed", "note")
    assert "the last version fed it with z" in changed.message
    assert list(findings.of_scaling("x", signature())) == []


@given(
    st.dictionaries(st.integers(0, 50), st.sampled_from(["a", "b", "c"])),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(-5, 5)),
)
def test_any_label_map_is_compared(ids, classes, offset):
    """Whatever the ids, every finding is a known one with a sentence."""
    for one in findings.of_model(
        files(), signature(classes=classes, label_offset=offset), LabelMap(ids)
    ):
        assert findings.CODES[one.code][0] == one.level
        assert one.message


def test_every_code_is_documented():
    """The table in the documentation is that of the code."""
    text = (ROOT / "docs" / "doctor.md").read_text()
    for code, (level, meaning) in findings.CODES.items():
        assert f"| `{code}` | {level} | {meaning} |" in text
    assert text.count("\n| `") == len(findings.CODES)
