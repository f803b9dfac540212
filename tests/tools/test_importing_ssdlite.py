"""Turning SSDLite's graph model into a detector."""

import numpy as np
import pytest

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import ssdlite
from support import tfjs_models as made
from support.graph_runs import run

OUTPUTS = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"]
BOXES = np.array(
    [
        [0.1, 0.1, 0.5, 0.5],
        [0.1, 0.1, 0.5, 0.49],  # nearly the first
        [-0.2, 0.6, 0.4, 1.3],  # beyond the picture
    ]
)
SCORES = np.array(
    [
        [0.9, 0.0, 0.0],
        [0.8, 0.7, 0.0],
        [0.0, 0.0, 0.6],
    ]
)


def detect(tmp_path, boxes=BOXES, scores=SCORES, batch=1):
    """Convert a detector of those boxes and scores and run it."""
    data = ssdlite.convert(made.detector(tmp_path, boxes, scores))
    image = np.zeros((batch, 5, 7, 3), np.uint8)
    return run(data, OUTPUTS, {"image_tensor": image})


def test_overlapping_boxes_of_a_class_are_suppressed(tmp_path):
    """Of two boxes nearly alike in one class the better stays."""
    boxes, scores, _, count = detect(tmp_path)
    assert count.tolist() == [3]
    np.testing.assert_allclose(scores[0, :3], [0.9, 0.7, 0.6])
    np.testing.assert_allclose(boxes[0, 0], BOXES[0])


def test_class_ids_start_at_one(tmp_path):
    """A class is its column plus one, as in a label map whose background is 0."""
    _, _, classes, _ = detect(tmp_path)
    assert classes[0, :3].tolist() == [1, 2, 3]


def test_boxes_are_clipped(tmp_path):
    """A box ends at the picture's edge."""
    boxes, _, _, _ = detect(tmp_path)
    np.testing.assert_allclose(boxes[0, 2], [0, 0.6, 0.4, 1])


@pytest.mark.parametrize(
    ("width", "kept"),
    [pytest.param(0.58, 2, id="0.58"), pytest.param(0.62, 1, id="0.62")],
)
def test_the_overlap_that_suppresses_is_0_6(tmp_path, width, kept):
    """Boxes whose overlap is over 0.6 are one object."""
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, width]])
    _, _, _, count = detect(tmp_path, boxes, np.array([[0.9], [0.8]]))
    assert count.tolist() == [kept]


def test_the_faintest_boxes_are_left_out(tmp_path):
    """A score of 1e-8 or less is no detection."""
    boxes = np.array([[0, 0, 0.1, 0.1], [0.5, 0.5, 1, 1]])
    _, _, _, count = detect(tmp_path, boxes, np.array([[2e-8], [0.5e-8]]))
    assert count.tolist() == [1]


def test_a_hundred_detections_at_most(tmp_path):
    """Rows are 100, whatever there is, and the best come first."""
    places = np.arange(130)[:, None] / 130
    boxes = np.concatenate([places, places, places + 0.007, places + 0.007], axis=1)
    scores = np.linspace(0.1, 0.9, 130)[:, None]
    boxes, found, _, count = detect(tmp_path, boxes, scores)
    assert boxes.shape == (1, 100, 4)
    assert count.tolist() == [100]
    np.testing.assert_allclose(found[0], scores[:29:-1, 0], rtol=1e-6)


def test_outputs_have_a_detectors_dtypes_and_batch(tmp_path):
    """Every output is float32 with a row for each image, as exported detectors have."""
    outputs = detect(tmp_path, batch=2)
    assert [part.shape for part in outputs] == [(2, 100, 4), (2, 100), (2, 100), (2,)]
    assert {part.dtype for part in outputs} == {np.dtype(np.float32)}


def test_another_graph_model_is_refused(tmp_path):
    """The nodes that are missing are named."""
    nodes = [made.placeholder("image_tensor", "uint8", -1, -1, -1, 3)]
    with pytest.raises(ConversionError, match="no Postprocessor/ExpandDims_1, Post"):
        ssdlite.convert(made.write(tmp_path, nodes, [], b""))
