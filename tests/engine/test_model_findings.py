"""Findings that come of a model's files and labels."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import findings
from modelserver.core.signatures import Signature
from modelserver.engine import model_findings
from modelserver.engine.discovery import ModelFiles
from modelserver.tasks.labels import LabelMap, numbered


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
    found = model_findings.of_model(model, signature(**facts), label_map, seen)
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
    found = model_findings.of_model(
        files(golden=False), signature(batch=1), names(0, 1, 2)
    )
    assert [(one.code, one.level) for one in found] == [
        ("batch-one", "note"),
        ("golden-none", "note"),
    ]


def test_far_ids_are_counted_out_in_part_only():
    """A gap of two thousand million ids costs nothing."""
    found = next(model_findings.of_labels(files(), names(0, 2**31 - 1)))
    assert found.message == "the label map leaves out ids 1, 2, 3, 4, 5 and 45 more"


@given(
    st.dictionaries(st.integers(0, 50), st.sampled_from(["a", "b", "c"])),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(-5, 5)),
)
def test_any_label_map_is_compared(ids, classes, offset):
    """Whatever the ids, every finding is a known one with a sentence."""
    for one in model_findings.of_model(
        files(), signature(classes=classes, label_offset=offset), LabelMap(ids)
    ):
        assert findings.CODES[one.code][0] == one.level
        assert one.message
