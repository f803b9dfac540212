"""What the first run of a graph tells of its scores."""

import numpy as np
import pytest

from modelserver.core.signatures import Signature
from modelserver.runner.sessions.warm_up import odd_outputs


def told(scores, kind="detection", count=None, **facts):
    """Give what is odd about some scores, the remedy included; empty for nothing."""
    outputs = {"scores": np.array([scores], np.float32)}
    if count is not None:
        outputs["count"] = np.array([count], np.float32)
    if kind == "detection":
        outputs["boxes"] = np.zeros((len(scores), 4), np.float32)
        outputs["classes"] = np.ones(len(scores), np.float32)
    signature = Signature(
        kind=kind, input="i:0", dtype="uint8", layout="NHWC", outputs={}, **facts
    )
    odd = odd_outputs(outputs, signature)
    return "" if odd is None else f"{odd.message}. {odd.fix}"


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.5, 87, 3], "from 0.5 to 87, which are no probabilities"),
        ([0, 1.002], "division by 100"),
        ([-3.5, 2, -0.25], "seem to be logits: export it with a sigmoid or softmax"),
        ([-3.5, -2], 'as "output" in the sidecar'),
        ([0.5, np.nan], "no numbers (NaN)"),
        ([0.5, np.inf], "from 0.5 to inf"),
    ],
)
@pytest.mark.parametrize("kind", ["detection", "classification"])
def test_scores_that_are_no_probabilities_are_told_with_the_remedy(kind, scores, said):
    """Percent, logits and broken numbers."""
    assert said in told(scores, kind)


@pytest.mark.parametrize(
    ("scores", "count"),
    [
        ([], None),
        ([0, 0.5, 1, 1.001, -0.001], None),
        ([0.9, -1, -1, -1], None),
        ([0.9, 0.2, np.nan, 87], 2),
        ([0.9, 0.2], np.nan),
        ([87], -1),
    ],
)
def test_probabilities_and_padding_are_nothing_odd(scores, count):
    """Padding is past the count, or one number below zero."""
    assert told(scores, count=count) == ""


def test_logits_that_are_made_probabilities_may_be_any_number():
    """The signature says so; a NaN stays one."""
    for how in ({"softmax": True}, {"sigmoid": True}):
        assert told([-30, 900], "classification", **how) == ""
        assert "NaN" in told([-30, np.nan], "classification", **how)


def found(kind, **outputs):
    """Give the finding about some arrays."""
    signature = Signature(
        kind=kind, input="i:0", dtype="uint8", layout="NHWC", outputs={}
    )
    arrays = {role: np.array(each, np.float32) for role, each in outputs.items()}
    return odd_outputs(arrays, signature)


BOX = [0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"boxes": [BOX] * 3, "classes": [1, 1]}, "3 boxes, 2 scores and 2 classes"),
        ({"boxes": [BOX] * 2, "classes": [1, 1], "count": []}, "num_detections is emp"),
        ({"boxes": [[*BOX, 0]], "classes": [1]}, "cannot be 5 numbers"),
        ({"boxes": [[9, 9, 90, 90]] * 2, "classes": [1, 1]}, "they are in pixels"),
    ],
)
def test_outputs_that_each_photo_is_refused_for_are_told(outputs, said):
    """A finding says at load what each photo's answer would."""
    odd = found("detection", scores=[0.9, 0.8], **outputs)
    assert odd.code == "outputs-odd"
    assert said in odd.message
    assert "sidecar" in odd.fix


def test_outputs_of_no_or_too_many_classes_are_told():
    """A classifier gives one score a class, and no more than a message may have."""
    assert "no scores" in found("classification", scores=[]).message
    assert "bytes, more than" in found("classification", scores=[0] * 2_100_000).message


def test_a_task_that_the_runner_does_not_know_refuses_nothing():
    """Its arrays are its own business."""
    assert found("loudness", level=[1e9]) is None
