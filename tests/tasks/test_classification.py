"""The classification task: scores in, classes out."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.signatures import Signature
from modelserver.tasks import CLASSIFICATION, Metadata
from modelserver.tasks.classification import parse
from modelserver.tasks.labels import LabelMap, numbered
from modelserver.tasks.options import Options

LABELS = LabelMap({1: "cat", 2: "dog", 3: "okapi"})

_PLAIN = Options()


def to_json(found, options=_PLAIN):
    """The answer as a client reads it."""
    answer = CLASSIFICATION.answer(found, (32, 24), options)
    return msgspec.json.decode(msgspec.json.encode(answer))


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
    nine = scores(*np.linspace(0, 1, 9))
    assert len(parse(nine, numbered(), 0)) == 5
    assert len(parse(nine, numbered(), 0, top=1)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 87, 7.5, 1.0011, -0.5])
def test_a_score_that_is_no_probability_is_an_error(bad):
    """Whether it is the best one or another: percent, logits or broken numbers."""
    for values in ((bad, 0.5), (0.5, bad, 0.2)):
        with pytest.raises(ValueError, match="is no probability"):
            parse(scores(*values), LABELS, 1)


def test_a_score_that_rounding_took_out_is_clipped():
    """By a thousandth at most."""
    best = parse(scores(-0.0005, 1.0005, 0.25), LABELS, 1)
    assert [one.confidence for one in best] == [1, 0.25, 0]


def test_a_logit_may_be_anything_that_has_a_probability():
    """A class that was masked out has minus infinity, and 0; a NaN has none."""
    masked = parse(scores(-np.inf, 3, 2), LABELS, 1, softmax=True)
    assert [one.label for one in masked] == ["dog", "okapi", "cat"]
    assert masked[-1].confidence == 0
    sure = parse(scores(np.inf, -np.inf, 0), LABELS, 1, sigmoid=True, independent=True)
    assert [one.confidence for one in sure] == [1, 0.5, 0]
    for values, how in (
        ((np.nan, 1), {"softmax": True}),
        ((np.inf, 1), {"softmax": True}),
        ((-np.inf, -np.inf), {"softmax": True}),
        ((np.nan, 1), {"sigmoid": True}),
    ):
        with pytest.raises(ValueError, match="nan, is no probability"):
            parse(scores(*values), LABELS, 1, **how)


def test_no_score_at_all_is_an_error():
    """There is no class to name."""
    with pytest.raises(ValueError, match="no scores"):
        parse(scores(), LABELS, 1)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=20),
    st.sampled_from([{}, {"softmax": True}, {"sigmoid": True}]),
)
def test_confidences_are_always_from_0_to_1(values, how):
    """Whatever the graph gives, where it is not an error."""
    try:
        found = parse(scores(*values), numbered(), 0, **how)
    except ValueError:
        given = np.array(values, np.float32)
        assert not np.isfinite(given).all() or not how
        assert not ((given >= 0) & (given <= 1)).all()
        return
    assert found
    assert all(0 <= one.confidence <= 1 for one in found)


CATS_DOGS = LabelMap({3: "cats", 7: "dogs"})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("value", "label", "confidence"),
    [(0.02, "cats", 0.98), (0.5, "cats", 0.5), (0.51, "dogs", 0.51), (1, "dogs", 1)],
)
def test_one_probability_decides_between_two_labels(shape, value, label, confidence):
    """Up to .5 it is the first by id, above it the second, in any rank."""
    found = parse(scores(value, shape=shape), CATS_DOGS, 3, independent=True)
    assert [one.label for one in found] in (["cats", "dogs"], ["dogs", "cats"])
    assert (found[0].label, found[0].holds) == (label, True)
    assert found[0].confidence == pytest.approx(confidence)
    assert sum(one.confidence for one in found) == pytest.approx(1)


def test_one_logit_is_made_a_probability_first():
    """0 is .5; huge ones neither overflow nor warn."""
    for logit, label in ((-1e4, "cats"), (0, "cats"), (2, "dogs"), (1e4, "dogs")):
        assert parse(scores(logit), CATS_DOGS, 3, sigmoid=True)[0].label == label


def test_one_probability_without_a_label_map_decides_between_ids():
    """As many classes as the two that it tells apart."""
    assert [one.label for one in parse(scores(0.9), numbered(), 0)] == ["1", "0"]


@pytest.mark.parametrize(("value", "holds"), [(0.49, False), (0.5, True), (1, True)])
def test_one_probability_of_one_label_is_its_own(value, holds):
    """The answer is the label or nothing, never the opposite."""
    (one,) = parse(scores(value), LabelMap({4: "hot dog"}), 4)
    assert (one.label, one.class_id, one.holds) == ("hot dog", 4, holds)
    assert one.confidence == pytest.approx(value)


def test_a_lone_value_outside_0_to_1_is_an_error():
    """A distance or an age must never become a class; rounding is forgiven."""
    assert parse(scores(1.0001), CATS_DOGS, 3)[0].confidence == 1
    with pytest.raises(ValueError, match="its one score, 37, is no probability"):
        parse(scores(37), CATS_DOGS, 3)


def test_independent_classes_each_have_their_probability():
    """They are not normalised; those from .5 on hold, and the best is the answer."""
    found = parse(scores(0.5, 0.9, 0.49), LABELS, 1, independent=True)
    assert [(one.label, one.holds) for one in found] == [
        ("dog", True),
        ("cat", True),
        ("okapi", False),
    ]
    assert [one.confidence for one in found] == pytest.approx([0.9, 0.5, 0.49])
    assert to_json(found) == {"class": "dog"}


def test_independent_classes_can_all_be_wrong():
    """Then there is no class; exclusive ones always have one, however unsure."""
    values = scores(0.3, 0.2, 0.1)
    found = parse(values, LABELS, 1, independent=True)
    assert to_json(found) == {"class": None}
    assert to_json(parse(values, LABELS, 1)) == {"class": "cat"}
    told = to_json(found, Options(top_k=2))
    assert told["class"] is None
    assert [one["label"] for one in told["classes"]] == ["cat", "dog"]


def test_independent_logits_get_a_sigmoid_each():
    """Not a softmax: two can be sure at once."""
    found = parse(scores(5, 5, -5), LABELS, 1, sigmoid=True, independent=True)
    assert [round(one.confidence, 3) for one in found] == [0.993, 0.993, 0.007]


@pytest.mark.parametrize("top", [1, 3, 5, 7, 9])
def test_of_equal_scores_the_first_come_first(top):
    """However few of them are asked for."""
    best = parse(scores(0.1, 0.3, 0.1, 0.3, 0.1, 0.1, 0.0), LABELS, 0, top=top)
    assert [one.class_id for one in best] == [1, 3, 0, 2, 4, 5, 6][:top]


def test_everything_is_the_best_ten_thousand_classes():
    """Objects of a million would take seconds."""
    many = {"scores": np.linspace(0, 1, 20_000, dtype=np.float32)}
    signature = Signature(
        kind="classification", input="i:0", dtype="uint8", layout="NHWC", outputs={}
    )
    found = CLASSIFICATION.everything(many, Metadata(signature, numbered()))
    assert len(found) == 10_000
    assert found[0].class_id == 19_999


def test_a_probability_of_zero_has_no_sign():
    """A graph's -0.0 is answered as 0."""
    found = parse(scores(-0.0, 1.0), LABELS, 1)
    assert str(found[1].confidence) == "0.0"


def test_scores_of_several_images_are_no_answer_to_one():
    """Else its classes would be the first image's and the second's."""
    with pytest.raises(ValueError, match="are 2 x 3 numbers, not a row"):
        parse(scores(0.1, 0.7, 0.2, 0.1, 0.7, 0.2, shape=(2, 3)), LABELS, 1)
