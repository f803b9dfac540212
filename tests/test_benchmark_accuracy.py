"""The accuracy benchmark's arithmetic."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "accuracy.py"


@pytest.fixture(scope="module")
def accuracy():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("accuracy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accuracy"]


def boxes_of(accuracy, *rows):
    """Boxes of class 1 in image 1; a row is a box and its score."""
    array = np.array(rows, float)
    return accuracy.by_class(1, array[:, :4], array[:, 4], np.ones(len(array)))


ONE, OTHER, NOWHERE = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)


def test_what_is_found_exactly_counts_whole(accuracy):
    """Every box found and none wrong is an average precision of 1 at every threshold."""
    known = boxes_of(accuracy, (*ONE, 1), (*OTHER, 1))
    found = boxes_of(accuracy, (*ONE, 0.9), (*OTHER, 0.8))
    assert accuracy.evaluate(found, known).tolist() == [1] * 10


def test_a_rough_box_counts_up_to_its_overlap(accuracy):
    """A box that overlaps by .74 is right at the thresholds .50 to .70."""
    known = boxes_of(accuracy, (*ONE, 1))
    found = boxes_of(accuracy, (0, 0, 10, 7.4, 0.9))
    assert accuracy.evaluate(found, known).tolist() == [1] * 5 + [0] * 5


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        pytest.param(0.95, 51 / 101 * 0.5, id="before the right one"),
        pytest.param(0.05, 51 / 101, id="after the right one"),
    ],
)
def test_wrong_and_missing_boxes_cost(accuracy, score, expected):
    """Half the boxes found is half the recall; a wrong box costs if it ranks above."""
    known = boxes_of(accuracy, (*ONE, 1), (*OTHER, 1))
    found = boxes_of(accuracy, (*ONE, 0.9), (*NOWHERE, score))
    np.testing.assert_allclose(accuracy.evaluate(found, known), expected)


def test_a_known_box_is_found_once(accuracy):
    """A second box on the same thing is a wrong one."""
    known = boxes_of(accuracy, (*ONE, 1), (*OTHER, 1))
    twice = boxes_of(accuracy, (*ONE, 0.9), (*ONE, 0.8), (*OTHER, 0.7))
    expected = (51 + 50 * 2 / 3) / 101
    np.testing.assert_allclose(accuracy.evaluate(twice, known), expected)


def test_a_class_without_any_box_counts_nought(accuracy):
    """The mean is over the classes there are to be found."""
    known = boxes_of(accuracy, (*ONE, 1))
    known[1, 2] = known[1, 1]
    found = boxes_of(accuracy, (*ONE, 0.9))
    found[1, 3] = found[1, 1]
    assert accuracy.evaluate(found, known).tolist() == [0.5] * 10


def test_known_boxes_are_read_without_crowds(accuracy, tmp_path):
    """COCO's x, y, width, height become corners; a crowd is no box."""
    path = tmp_path / "instances.json"
    box = {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    data = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [box, {**box, "iscrowd": 1}],
    }
    path.write_text(json.dumps(data))
    names, known = accuracy.read_known(path)
    assert names == {7: "a.jpg"}
    assert known[7, 18].boxes.tolist() == [[2, 1, 6, 4]]
