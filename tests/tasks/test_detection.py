"""The detection task: arrays in, detections out."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver.core.channels import MAX_BYTES
from modelserver.core.signatures import Signature
from modelserver.tasks import DETECTION, Metadata, message_bytes
from modelserver.tasks.detection import best_rows, detections_of, parse, shortest
from modelserver.tasks.labels import LabelMap, numbered
from modelserver.tasks.options import MOST, Options
from modelserver.tasks.task import WHOLE
from support.app_client import make_settings

LABELS = LabelMap({1: "cat", 2: "dog", 300: "okapi"})


def outputs(scores, classes=None, boxes=None, count=None):
    """Arrays as a graph gives them for one image, with the batch axis."""
    n = len(scores)
    arrays = {
        "scores": np.array([scores], np.float32),
        "classes": np.array([classes if classes is not None else [1] * n], np.float32),
        "boxes": np.array(
            [boxes if boxes is not None else [[0.1, 0.2, 0.3, 0.4]] * n], np.float32
        ),
    }
    if count is not None:
        arrays["count"] = np.array([count], np.float32)
    return arrays


def test_a_box_is_turned_to_x_first():
    """TensorFlow's ymin xmin ymax xmax becomes x1 y1 x2 y2."""
    (one,) = parse(outputs([0.9], boxes=[[0.1, 0.2, 0.3, 0.4]]), LABELS)
    assert one.box == pytest.approx((0.2, 0.1, 0.4, 0.3))


def test_the_threshold_itself_is_a_match():
    """0.8 as float32 is at or above 0.8; the next float32 below is not."""
    below = np.nextafter(np.float32(0.8), np.float32(0))
    found = parse(outputs([0.8, below]), LABELS, 0.8)
    assert [one.confidence for one in found] == [0.8]


def test_the_highest_confidence_comes_first():
    """The order does not depend on the graph's."""
    found = parse(outputs([0.3, 0.9, 0.5], classes=[1, 2, 300]), LABELS)
    assert [one.label for one in found] == ["dog", "okapi", "cat"]


def test_rows_past_num_detections_are_no_detections():
    """Padding with old scores is cut."""
    assert len(parse(outputs([0.9, 0.9, 0.9], count=2), LABELS)) == 2
    assert len(parse(outputs([0.9], count=7), LABELS)) == 1
    assert parse(outputs([0.9], count=-1), LABELS) == []
    assert len(parse(outputs([0.9], count=float("nan")), LABELS)) == 1


def test_class_ids_above_255_stay_whole():
    """Ids are integers of any size."""
    (one,) = parse(outputs([0.9], classes=[300]), LABELS)
    assert (one.class_id, one.label) == (300, "okapi")


def test_an_unknown_class_says_so():
    """It is labelled by its number."""
    (one,) = parse(outputs([0.9], classes=[77]), LABELS)
    assert one.label == "unknown:77"


def test_boxes_are_clipped_to_the_photo():
    """What sticks out is cut off."""
    (one,) = parse(outputs([0.9], boxes=[[-0.5, 0.1, 1.5, 0.4]]), LABELS)
    assert one.box == pytest.approx((0.1, 0.0, 0.4, 1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_no_numbers_are_no_detections(bad):
    """A NaN or an infinity in class or box drops that row only."""
    assert len(parse(outputs([0.9, 0.9], classes=[bad, 1]), LABELS)) == 1
    rows = [[bad, 0, 1, 1], [0, 0, 1, 1]]
    assert len(parse(outputs([0.9, 0.9], boxes=rows), LABELS)) == 1


def test_arrays_that_do_not_fit_are_an_error():
    """Two scores for one box cannot be served."""
    arrays = outputs([0.9, 0.8])
    arrays["boxes"] = arrays["boxes"][:, :1]
    with pytest.raises(ValueError, match="1 boxes, 2 scores and 2 classes"):
        parse(arrays, LABELS)


def test_a_count_of_nothing_is_an_error():
    """The model's, not ours."""
    with pytest.raises(ValueError, match="num_detections is empty"):
        parse({**outputs([0.9]), "count": np.zeros(0)}, LABELS, 0.5)


def test_the_json_is_the_contracts():
    """Just these keys, in this order."""
    found = parse(outputs([0.9375612], classes=[2]), LABELS)
    text = json.dumps(msgspec.to_builtins(found))
    assert text.startswith(
        '[{"class": 2, "label": "dog", "confidence": 0.9375612, "bounding_box": ['
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 7.5, 87, 1.0011])
def test_a_score_that_is_no_confidence_is_an_error(bad):
    """A NaN, percent or a logit makes the model's whole answer doubtful."""
    for scores in ([bad, 0.9], [0.9, bad], [bad]):
        with pytest.raises(ValueError, match="is no probability"):
            parse(outputs(scores), LABELS, 0.5)


def test_a_score_that_would_not_be_answered_is_none_of_our_business():
    """It is past the count, or below what is asked for, as padding is."""
    assert len(parse(outputs([0.9, np.nan, 7.5], count=1), LABELS)) == 1
    for padding in (-1, -np.inf, -3e38):
        assert len(parse(outputs([0.9, padding]), LABELS)) == 1
        assert len(parse(outputs([0.9, padding]), LABELS, 0.5)) == 1


def test_a_score_that_rounding_took_out_is_clipped():
    """And the arrays that it came in stay as they are."""
    arrays = outputs([1.0005, -0.0005])
    arrays["scores"].flags.writeable = False
    assert [one.confidence for one in parse(arrays, LABELS)] == [1, 0]
    assert [one.confidence for one in parse(arrays, LABELS, 0.5)] == [1]


@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32)))
def test_whatever_a_graph_answers_is_plain_json(values):
    """Any scores, classes and boxes give a document without NaN, or an error."""
    arrays = outputs(values, classes=values, boxes=np.tile(values[:, None], 4))
    try:
        found = parse(arrays, LABELS)
    except ValueError:
        assert not (values <= 1).all()
        return
    json.dumps(msgspec.to_builtins(found), allow_nan=False)
    for one in found:
        assert all(0 <= value <= 1 for value in (one.confidence, *one.box))


@given(st.floats(0, 1, width=32))
def test_a_confidence_reads_back_as_the_same_float32(value):
    """The shortest digits lose nothing."""
    (short,) = shortest(np.array([value], np.float32))
    assert np.float32(short) == np.float32(value)


def test_boxes_of_a_padded_photo_are_moved_back_to_it():
    """A wide photo that was padded to a square: the middle half is the photo."""
    arrays = outputs([0.9], boxes=[[0.25, 0.5, 0.75, 1.0]])
    (one,) = parse(arrays, LABELS, window=(-0.5, 0.0, 1.5, 1.0))
    assert one.box == pytest.approx((0.5, 0.0, 1.0, 1.0))


def test_of_millions_of_rows_the_best_ten_thousand_are_taken():
    """None of the others becomes a Python object."""
    count = 300_000
    scores = np.linspace(0, 1, count, dtype=np.float32)
    boxes = np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (count, 1))
    outputs = {"scores": scores, "boxes": boxes, "classes": np.ones(count)}
    found = parse(outputs, LabelMap({1: "one"}))
    assert len(found) == MOST == 10_000
    assert found[0].confidence == 1
    assert found[-1].confidence == pytest.approx(1 - 10_000 / count, abs=1e-4)


def rows_of(total, **changed):
    """Arrays of so many rows, float32, with a batch axis, best last."""
    arrays = {
        "scores": np.linspace(0, 1, total, dtype=np.float32)[None],
        "boxes": np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (1, total, 1)),
        "classes": np.ones((1, total), np.float32),
    }
    return arrays | changed


@pytest.mark.parametrize("count", [None, 30_000, 11, 0, np.nan, 1e9])
def test_what_is_cut_is_answered_as_the_whole(count):
    """Equal scores too; rows past the count take no place."""
    arrays = rows_of(40_000, classes=np.arange(40_000, dtype=np.float64)[None])
    arrays["scores"] = np.round(arrays["scores"], 2)
    if count is not None:
        arrays["count"] = np.array([count], np.float32)
    cut = best_rows(arrays)
    assert sum(array.nbytes for array in cut.values()) <= MOST * 6 * 8 + 8
    assert {cut[role].dtype for role in ("scores", "boxes")} == {np.dtype(np.float32)}
    assert parse(cut, LABELS, 0.4) == parse(arrays, LABELS, 0.4)


@pytest.mark.parametrize("bad", [np.nan, 7.5])
def test_a_score_that_is_no_confidence_is_not_cut_away(bad):
    """It is refused, wherever it is in the count."""
    for index in (0, 20_000, 29_999):
        arrays = rows_of(40_000, count=np.array([30_000]))
        arrays["scores"][0, index] = bad
        with pytest.raises(ValueError, match="is no probability"):
            parse(best_rows(arrays), LABELS, 0.5)


def test_what_needs_no_cut_or_fits_not_together_is_left_alone():
    """The very same arrays; the parser says what is wrong."""
    for arrays in (
        rows_of(MOST),
        rows_of(20_000, boxes=np.zeros((1, 19_999, 4))),
        rows_of(20_000, classes=np.zeros(3)),
        rows_of(20_000, count=np.zeros(0)),
    ):
        assert best_rows(arrays) is arrays


def signature(**facts):
    """A detector's signature."""
    return Signature(
        kind="detection",
        input="x:0",
        dtype="uint8",
        layout="NHWC",
        outputs={role: role for role in ("boxes", "scores", "classes")},
        **facts,
    )


def test_boxes_of_the_other_order_come_out_the_same():
    """X first or y first: the graph's way does not show."""
    rows = [[0.1, 0.2, 0.3, 0.4]]
    usual = outputs([0.9], boxes=rows)
    other = outputs([0.9], boxes=[[0.2, 0.1, 0.4, 0.3]])
    (one,) = detections_of(signature(), usual, LABELS)
    (same,) = detections_of(signature(box_order="xyxy"), other, LABELS)
    assert one == same
    assert one.box == pytest.approx((0.2, 0.1, 0.4, 0.3))


@pytest.mark.parametrize(
    ("facts", "labels", "label"),
    [
        ({}, {1: "cat", 2: "dog"}, "cat"),
        ({"first_class": 0}, {1: "cat", 2: "dog"}, "dog"),
        ({"first_class": 0}, {0: "cat", 1: "dog"}, "dog"),
        ({"first_class": 0}, {}, "1"),
        ({"label_offset": 1}, {1: "cat", 2: "dog"}, "dog"),
        ({"first_class": 0, "label_offset": 0}, {1: "cat", 2: "dog"}, "cat"),
    ],
)
def test_a_class_leads_to_its_label(facts, labels, label):
    """Classes from 0 and ids from 1 are one apart; the sidecar wins."""
    names = LabelMap(labels) if labels else numbered()
    (one,) = detections_of(signature(**facts), outputs([0.9], classes=[1]), names)
    assert one.label == label


def test_boxes_in_pixels_are_an_error():
    """They would all be clipped to one corner; one that sticks out is none."""
    with pytest.raises(ValueError, match="its boxes reach to 300: they are in pixels"):
        detections_of(signature(), outputs([0.9], boxes=[[10, 20, 200, 300]]), LABELS)
    rows = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 9]]
    found = detections_of(signature(), outputs([0.9, 0.8, 0.7], boxes=rows), LABELS)
    assert len(found) == 3
    unsure = outputs([0.9, 0.1], boxes=[[0, 0, 1, 1], [0, 0, 99, 99]])
    assert len(detections_of(signature(), unsure, LABELS)) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_box_that_is_no_number_says_nothing_of_the_others(bad):
    """Neither does it hide boxes in pixels, nor are others refused for it."""
    odd = [bad, 0, 1, 1]
    pixels = outputs([0.9, 0.8, 0.7], boxes=[odd, [10, 20, 200, 300], odd])
    with pytest.raises(ValueError, match="in pixels"):
        detections_of(signature(), pixels, LABELS)
    usual = outputs([0.9, 0.8, 0.7], boxes=[odd, [0.1, 0.2, 0.3, 0.4], odd])
    assert len(detections_of(signature(), usual, LABELS)) == 1


def test_a_message_has_room_for_what_a_signature_can_give():
    """10,000 rows an image or a score a class, and some MiB where nobody knows."""
    cut = best_rows(rows_of(20_000, scores=np.zeros((1, 20_000))))
    size = sum(array.nbytes for array in cut.values())
    assert 32 * size < message_bytes(signature(), 32) < 17 << 20
    scores = msgspec.structs.replace(signature(), kind="classification", classes=1000)
    assert 8000 < message_bytes(scores, 1) < 2 << 20
    unknown = msgspec.structs.replace(scores, classes=None)
    assert message_bytes(unknown, 1) > 8_000_000
    assert message_bytes(unknown, 1000) == MAX_BYTES
    other = msgspec.structs.replace(scores, kind="nobody knows it")
    assert 60_000_000 < message_bytes(other, 1) < MAX_BYTES


def test_only_wanted_detections_are_made():
    """By label and number, best first, as if all had been made."""
    arrays = outputs([0.5, 0.9, 0.8, 0.7, 0.6], classes=[1, 2, 1, 300, 7])
    every = parse(arrays, LABELS)
    assert [one.label for one in every] == ["dog", "cat", "okapi", "unknown:7", "cat"]
    assert parse(arrays, LABELS, options=Options(max_results=2)) == every[:2]
    cats = Options(labels=frozenset({"cat", "unknown:7"}))
    assert parse(arrays, LABELS, options=cats) == [every[1], every[3], every[4]]
    one = Options(labels=frozenset({"cat"}), max_results=1)
    assert parse(arrays, LABELS, options=one) == [every[1]]
    none = Options(labels=frozenset({"bird"}))
    assert parse(arrays, LABELS, options=none) == []


def test_what_is_too_unsure_is_counted_without_being_made(monkeypatch):
    """An empty answer says how many more there are, of thousands too."""
    monkeypatch.setattr("modelserver.tasks.detection.Detection", None)
    arrays = outputs([0.2] * 5000 + [0.04], classes=[1] * 4000 + [2] * 1001)
    metadata = Metadata(signature(), LABELS)
    settings = make_settings(MIN_CONFIDENCE="0.3", SCORE_FLOOR="0.05")
    for options, count in (
        (Options(), 5000),
        (Options(labels=frozenset({"cat"}), max_results=1), 4000),
    ):
        told = DETECTION.below(arrays, metadata, WHOLE, options, settings)
        assert told == (count, 0.3)


def test_scores_of_several_images_are_no_answer_to_one():
    """A graph that gives a batch for one photo is refused, however large it is."""
    for rows in (3, 9000):
        one = outputs([0.9] * rows)
        two = {role: np.concatenate([array] * 2) for role, array in one.items()}
        assert best_rows(two) is two
        with pytest.raises(ValueError, match=f"are 2 x {rows} numbers, not a row"):
            parse(two, LABELS)


def test_zero_has_no_sign():
    """A graph's -0.0 is answered as 0, in a box and in a confidence."""
    (one,) = parse(outputs([-0.0], boxes=[[-0.0, -0.5, 0.5, 0.5]]), LABELS)
    assert "-" not in msgspec.json.encode(one).decode()


def test_boxes_that_have_no_four_sides_are_an_error():
    """The sentence is for whoever exported the graph."""
    arrays = outputs([0.9]) | {"boxes": np.zeros((1, 3, 5), np.float32)}
    with pytest.raises(ValueError, match="cannot be 15 numbers"):
        parse(arrays, LABELS)
