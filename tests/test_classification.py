"""The classification task: scores in, classes out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.classification import parse
from modelserver.labels import LabelMap, numbered

LABELS = LabelMap({1: "cat", 2: "dog", 3: "okapi"})


def scores(*values, shape=(1, -1)):
    """A graph's answer for one image."""
    return {"scores": np.array(values, np.float32).reshape(shape)}


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, 1, -1)])
def test_the_best_class_comes_first_whatever_the_rank(shape):
    """Ranks 1, 2 and 4 are all read."""
    best = parse(scores(0.1, 0.7, 0.2, shape=shape), LABELS, 1)
    assert [one.label for one in best] == ["dog", "okapi", "cat"]
    assert best[0].confidence == pytest.approx(0.7)


def test_the_offset_leads_from_output_to_label():
    """Label id = output index + offset."""
    assert parse(scores(0.1, 0.7), LABELS, 1)[0].class_id == 2
    assert parse(scores(0.1, 0.7), LABELS, 0)[0].class_id == 1


def test_logits_get_a_softmax():
    """Even huge ones, without an overflow; the confidences add up to 1."""
    best = parse(scores(1000.0, 1001.0, -1000.0), LABELS, 1, softmax=True)
    assert best[0].label == "dog"
    assert sum(one.confidence for one in best) == pytest.approx(1.0)


def test_top_limits_the_answer():
    """Five by default."""
    assert len(parse(scores(*range(9)), numbered(), 0)) == 5
    assert len(parse(scores(*range(9)), numbered(), 0, top=1)) == 1


def test_a_score_that_is_no_number_never_wins():
    """NaN and infinity are passed over."""
    best = parse(scores(np.nan, 0.5, np.inf), LABELS, 1)
    assert [one.label for one in best] == ["dog"]


def test_no_number_at_all_is_an_error():
    """There is no class to name."""
    with pytest.raises(ValueError, match="none of its 2 scores"):
        parse(scores(np.nan, np.nan), LABELS, 1)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.booleans())
def test_confidences_are_always_finite(values, softmax):
    """Whatever the graph gives."""
    if not np.isfinite(np.array(values, np.float32)).any():
        return
    for one in parse(scores(*values), numbered(), 0, softmax=softmax):
        assert np.isfinite(one.confidence)
