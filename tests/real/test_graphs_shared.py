"""Real graphs, where a folder of them is present: what is found in them, and their answers."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import find_signature, import_graph, read_graph_def

ROOT = Path(__file__).parents[2]
SHARED = Path(
    os.environ.get("MODELSERVER_SHARED_DATA", ROOT.parent / "shared" / "data")
)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of graphs is not there"),
]
MACAW, HOT_DOG = 89, 935


def run(graph_file, photo, kind):
    """Run a graph on a photo, both prepared as the signature says."""
    graph = import_graph(read_graph_def(SHARED / graph_file))
    signature = find_signature(graph, kind, None)
    image = Image.open(SHARED / "images" / photo).convert("RGB")
    if signature.size:
        image = image.resize(signature.size[::-1], Image.Resampling.BILINEAR)
    feed = np.asarray(image)[None]
    if signature.dtype != "uint8":
        feed = (feed - signature.mean) * signature.scale
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(signature.outputs, {signature.input: feed})


@pytest.mark.parametrize(
    ("graph_file", "photo", "place", "score"),
    [
        ("classify/mobilenet_v1_0.25_128.pb", "coral_parrot.jpg", MACAW, 0.961),
        ("classify/mobilenet_v2_1.0_224.pb", "coral_parrot.jpg", MACAW, 0.998),
        ("classify/mobilenet_v2_1.0_224.pb", "coral_hot_dog.jpg", HOT_DOG, 0.876),
        (
            "awkward/mobilenet_v1_0.25_128_quantized_fakequant.pb",
            "coral_parrot.jpg",
            MACAW,
            0.963,
        ),
    ],
)
def test_a_real_classifier_knows_the_photo(graph_file, photo, place, score):
    """The class is right, and its score what it should be."""
    scores = run(graph_file, photo, "classification")["scores"].ravel()
    assert scores.argmax() == place
    assert scores[place] == pytest.approx(score, abs=0.01)


def test_a_real_detector_finds_the_faces():
    """One mask in the one photo, four bare faces in the other."""
    graph_file = "detect/aizoo_face_mask.frozen.pb"
    answer = run(graph_file, "aizoo_demo2.jpg", "detection")
    assert answer["classes"][0, 0] == 1
    assert answer["scores"][0, 0] == pytest.approx(0.906, abs=0.005)
    answer = run(graph_file, "coral_face.jpg", "detection")
    assert (answer["classes"][0, :4] == 2).all()
    assert answer["scores"][0, 0] == pytest.approx(0.998, abs=0.005)


def find(graph_file, kind):
    """Find a real graph's signature."""
    return find_signature(import_graph(read_graph_def(SHARED / graph_file)), kind, None)


def test_a_retrained_graph_is_fixed_at_one_image():
    """The joint that retraining leaves is no second input, and the batch is one."""
    signature = find("classify/poets_retrained_ssoniya.pb", "classification")
    assert (signature.input, signature.batch, signature.classes) == ("input:0", 1, 6)


def test_the_detectors_inner_size_is_found():
    """260 x 260, whatever it is fed."""
    assert find("detect/aizoo_face_mask.frozen.pb", "detection").inner_size == (
        260,
        260,
    )


@pytest.mark.parametrize(
    ("graph_file", "kind", "reason"),
    [
        ("awkward/mtcnn.pb", "detection", "has no detection_boxes"),
        ("awkward/mtcnn.pb", "classification", "needs more than an image: min_size"),
        ("awkward/aizoo_face_mask_raw.pb", "detection", "post-processing"),
        ("awkward/aizoo_face_mask_raw.pb", "classification", "post-processing"),
        ("classify/mobilenet_v2_1.0_224.pb", "detection", "is a classifier"),
        ("detect/aizoo_face_mask.frozen.pb", "classification", "is a detector"),
    ],
)
def test_a_real_graph_of_another_kind_is_refused(graph_file, kind, reason):
    """The sentence says what is missing."""
    with pytest.raises(GraphError, match=reason):
        find(graph_file, kind)
