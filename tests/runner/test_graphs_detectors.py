"""A detector's input and outputs are found."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from modelserver.core.errors import GraphError
from modelserver.core.signatures import DetectionOutputs, Sidecar
from modelserver.runner.graphs import find_signature, import_graph
from support import tiny_graphs

NAMES = {
    "boxes": "detection_boxes:0",
    "scores": "detection_scores:0",
    "classes": "detection_classes:0",
    "count": "num_detections:0",
}


def imported(data):
    """Import a graph from its bytes."""
    return import_graph(tf.compat.v1.GraphDef.FromString(data))


def find(data, kind="detection", **sidecar):
    """Find the signature of a graph in bytes."""
    return find_signature(imported(data), kind, Sidecar(**sidecar) if sidecar else None)


def run(data, feed, **sidecar):
    """Run a graph once as its signature says."""
    signature = find(data, **sidecar)
    with tf.compat.v1.Session(graph=imported(data)) as session:
        return session.run(
            signature.outputs, {signature.input: feed, **signature.feeds}
        )


def test_the_object_detection_apis_names_are_found():
    """``image_tensor`` of bytes and the four outputs need no guess."""
    signature = find(tiny_graphs.echo_detector())
    assert (signature.input, signature.dtype) == ("image_tensor:0", "uint8")
    assert (signature.layout, signature.channels) == ("NHWC", 3)
    assert signature.outputs == NAMES
    assert (signature.size, signature.inner_size, signature.batch) == (None, None, 0)
    assert signature.guesses == ()


def test_floats_are_fed_as_0_to_255():
    """A float ``image_tensor`` takes raw pixels, and the guess is reported."""
    signature = find(tiny_graphs.float_detector())
    assert (signature.dtype, signature.mean, signature.scale) == (
        "float32",
        (0.0,),
        (1.0,),
    )
    assert "Object Detection API" in signature.guesses[0]


def test_a_detector_that_scales_up_takes_0_to_1():
    """A float input of another name that the graph multiplies by 255 takes 0..1."""
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3), "photo")
        tiny_graphs.name_outputs(tf.reverse(image * 255.0, [3]))
    signature = find_signature(graph, "detection", None)
    assert signature.scale == (pytest.approx(1 / 255),)


def test_other_floats_are_taken_for_0_to_255():
    """A float input without evidence gets raw pixels in a detector."""
    data = tiny_graphs.echo_detector(dtype=tf.float32, name="photo")
    assert find(data).scale == (1.0,)
    assert find(data, scale=0.5).scale == (0.5,)


def test_an_absent_count_is_left_out():
    """A graph without ``num_detections`` has three roles."""
    outputs = find(tiny_graphs.no_count_detector()).outputs
    assert outputs == {role: NAMES[role] for role in ("boxes", "scores", "classes")}


@pytest.mark.parametrize(
    ("shape", "batch", "size", "layout"),
    [
        ((1, None, None, 3), 1, None, "NHWC"),
        ((4, 6, 8, 3), 4, (6, 8), "NHWC"),
        ((None, 6, None, 3), 0, None, "NHWC"),
        (None, 0, None, "NHWC"),
    ],
    ids=str,
)
def test_the_shape_fixes_batch_and_size(shape, batch, size, layout):
    """Sides and batch that the placeholder fixes are kept."""
    signature = find(tiny_graphs.echo_detector(shape))
    assert (signature.batch, signature.size, signature.layout) == (batch, size, layout)


def test_an_output_of_one_image_makes_the_batch_one():
    """A batch that is fixed at the output only is fixed."""
    data = tiny_graphs.echo_detector(boxes=lambda boxes: boxes[:1])
    assert find(data).batch == 0
    data = tiny_graphs.echo_detector(boxes=lambda boxes: tf.reshape(boxes, [1, 3, 4]))
    assert find(data).batch == 1


def test_an_output_without_the_batchs_axis_makes_the_batch_one():
    """Boxes of rank 2 are one image's."""
    data = tiny_graphs.echo_detector(boxes=lambda boxes: boxes[0])
    assert find(data).batch == 1


@pytest.mark.parametrize(
    ("shape", "layout", "batch"),
    [((None,), "encoded_batch", 0), ((), "encoded", 1), ((2,), "encoded_batch", 2)],
    ids=str,
)
def test_encoded_inputs_take_the_file(shape, layout, batch):
    """A string input is a file or a list of files, by its rank."""
    signature = find(tiny_graphs.encoded_detector(shape))
    assert (signature.dtype, signature.layout) == ("string", layout)
    assert (signature.batch, signature.inner_size) == (batch, (8, 8))


def test_an_encoded_input_of_unknown_shape_is_guessed():
    """A string without a shape that nobody decodes directly is a list."""
    signature = find(tiny_graphs.encoded_detector(None))
    assert signature.layout == "encoded_batch"
    assert "taken for a list of files" in signature.guesses[0]


def test_an_encoded_detector_runs_on_a_files_bytes():
    """The photo's file is fed as it is."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (100, 0, 0)).save(file, "PNG")
    answer = run(tiny_graphs.encoded_detector(), [file.getvalue()])
    assert answer["classes"][0, 0] == 11


@pytest.mark.parametrize(
    "build",
    [tiny_graphs.resizing_detector, tiny_graphs.map_resizing_detector],
    ids=["at once", "in a loop over the batch"],
)
def test_a_fixed_resizer_inside_is_found(build):
    """The inner size is height, width of the resizer, for photos of every size."""
    signature = find(build((6, 8)))
    assert (signature.size, signature.inner_size) == (None, (6, 8))


def test_a_resizer_that_keeps_the_aspect_has_no_inner_size():
    """A size that is computed is not fixed."""
    assert find(tiny_graphs.keep_aspect_detector()).inner_size is None


@pytest.mark.parametrize("extra", [True, False], ids=["eight outputs", "four outputs"])
def test_a_tensorflow_2_export_is_known_by_its_order(extra):
    """``Identity`` outputs are those of the sorted keys, as their ranks confirm."""
    data = tiny_graphs.tensorflow_2_detector(extra=extra)
    signature = find(data)
    assert signature.input == "serving_default_input_tensor:0"
    assert "the outputs have no names of their own" in signature.guesses[0]
    answer = run(data, np.full((1, 8, 8, 3), 50, np.uint8))
    assert answer["boxes"].shape == (1, 3, 4)
    assert answer["scores"][0, 0] == pytest.approx(tiny_graphs.echoed(50, 50, 50)[1])
    assert answer["classes"][0].tolist() == [6, 2, 3]
    assert answer["count"].tolist() == [3]


def test_names_in_a_scope_are_found():
    """A graph that was imported under a name still has its outputs."""
    signature = find(tiny_graphs.scoped_detector())
    assert signature.input == "import/image_tensor:0"
    assert signature.outputs["boxes"] == "import/detection_boxes:0"


def test_a_sidecar_names_other_outputs():
    """The sidecar may name inputs and outputs of any name."""
    with tiny_graphs.building() as graph:
        shape = (None, None, None, 3)
        one, _ = (tf.compat.v1.placeholder(tf.uint8, shape, name) for name in "ab")
        tiny_graphs.name_outputs(one, scope="nms/")
        tf.identity(graph.get_tensor_by_name("nms/detection_boxes:0"), "rows")
    parts = DetectionOutputs(boxes="rows", scores="nms/detection_scores", classes="c")
    with pytest.raises(GraphError, match=r"output\.classes 'c' is not in the graph"):
        find_signature(graph, "detection", Sidecar(input="a", output=parts))
    parts = DetectionOutputs(
        boxes="rows", scores="nms/detection_scores", classes="nms/detection_classes:0"
    )
    signature = find_signature(graph, "detection", Sidecar(input="a", output=parts))
    assert signature.input == "a:0"
    assert signature.outputs["boxes"] == "rows:0"
    assert "count" not in signature.outputs
    with pytest.raises(GraphError, match="do not depend on the input b:0"):
        find_signature(graph, "detection", Sidecar(input="b", output=parts))


def custom_vision():
    """Build a Custom Vision detector: one image, boxes x first, classes from 0."""
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (1, 8, 8, 3), "image_tensor")
        red = tf.reduce_mean(image[:, :, :, 0]) / 255
        tf.stack([[0.2, 0.1, 0.4, red]], name="detected_boxes")
        tf.reshape(red, [1], name="detected_scores")
        tf.constant([1], tf.int64, name="classes")
        tf.identity(graph.get_tensor_by_name("classes:0"), name="detected_classes")
    return graph.as_graph_def().SerializeToString()


def test_a_custom_vision_detector_is_known_by_its_names():
    """Its boxes have x first, and its classes count from 0."""
    signature = find(custom_vision())
    assert signature.outputs["boxes"] == "detected_boxes:0"
    assert (signature.box_order, signature.first_class) == ("xyxy", 0)
    assert (signature.scale, signature.batch) == ((1.0,), 1)
    assert "as Azure Custom Vision calls them" in signature.guesses[0]
    assert find(custom_vision(), box_order="yxyx").box_order == "yxyx"
    with pytest.raises(GraphError, match="the graph is a detector"):
        find(custom_vision(), kind="classification")


def test_a_suppression_that_gives_everything_is_a_detectors_end():
    """Its outputs may have any names, and the guess is reported."""
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "image")
        boxes = tf.reshape(image, [-1, 48, 1, 4]) / 255
        found = tf.image.combined_non_max_suppression(
            boxes, tf.reshape(image, [-1, 48, 4])[:, :, :2] / 255, 3, 5
        )
        for number, each in enumerate(found):
            tf.identity(each, name=f"out_{number}")
    data = graph.as_graph_def().SerializeToString()
    signature = find(data)
    assert (signature.box_order, signature.first_class) == ("yxyx", 0)
    assert "its classes for counted from 0" in signature.guesses[0]
    feed = np.random.default_rng(1).uniform(0, 255, (2, 8, 8, 3))
    answer = run(data, feed)
    assert answer["boxes"].shape == (2, 5, 4)
    assert answer["count"].shape == (2,)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no_placeholder", "has no placeholder, so nothing takes the image"),
        ("two_images", "several image inputs: a, b"),
        ("raw_heads", "is a detector without post-processing: it gives loc/concat"),
        ("raw_heads", "loc/concat (float32 [?, 48, 4])"),
        ("not_frozen", "it holds variables (weight)"),
        ("cut_at_a_node", "no detection_boxes"),
        ("classifier", "is a classifier"),
        ("rank_4_classifier", "is a classifier"),
    ],
)
def test_a_graph_that_is_no_detector_is_refused(fault, reason):
    """The error names the missing part."""
    with pytest.raises(GraphError) as caught:
        find(getattr(tiny_graphs, fault)())
    assert reason in str(caught.value)


def test_a_missing_role_is_named():
    """A detector without classes misses only those, and the error says so."""
    with pytest.raises(GraphError, match=r"has no detection_classes; its outputs are"):
        find(tiny_graphs.echo_detector(classes=None))


@pytest.mark.parametrize(
    ("role", "change", "reason"),
    [
        (
            "boxes",
            lambda boxes: boxes[:, :, :3],
            r"boxes must be float32 \[N, boxes, 4\]",
        ),
        (
            "scores",
            lambda scores: scores[:, :, None, None],
            "scores must be one number a",
        ),
        (
            "classes",
            tf.as_string,
            "classes must be one number",
        ),
        ("count", lambda count: count[:, None, None], "count must be one number an im"),
    ],
)
def test_an_output_of_a_wrong_shape_is_refused(role, change, reason):
    """A role's dtype and rank are checked if they are known."""
    with pytest.raises(GraphError, match=reason):
        find(tiny_graphs.echo_detector(**{role: change}))


def test_a_sidecars_output_must_fit_the_kind():
    """One name is a classifier's output; a detector's has parts."""
    with pytest.raises(GraphError, match="output is one name"):
        find(tiny_graphs.echo_detector(), output="detection_boxes")


def test_a_serialised_example_is_refused():
    """A string that is parsed and not decoded is no image."""
    with tiny_graphs.building() as graph:
        example = tf.compat.v1.placeholder(tf.string, (None,), "tf_example")
        shape = [tf.shape(example)[0], 4, 4, 3]
        tiny_graphs.name_outputs(tf.reshape(tf.strings.to_number(example), shape))
    with pytest.raises(GraphError, match=r"none of its placeholders takes an image"):
        find_signature(graph, "detection", None)
    with pytest.raises(
        GraphError, match=r"not decoded as an image \(a tf\.Example\?\)"
    ):
        find_signature(graph, "detection", Sidecar(input="tf_example"))


COLOURS = [(0, 0, 0), (255, 10, 99), (128, 200, 30)]


def test_an_echo_shows_whose_answer_it_is():
    """Each image of a batch gets the answer worked out from its own colour."""
    feed = np.ones((3, 4, 5, 3), np.uint8) * np.array(COLOURS, np.uint8)[:, None, None]
    answer = run(tiny_graphs.echo_detector(), feed)
    for place, colour in enumerate(COLOURS):
        class_id, score, box = tiny_graphs.echoed(*colour)
        assert answer["classes"][place, 0] == class_id
        assert answer["scores"][place, 0] == pytest.approx(score)
        assert answer["boxes"][place, 0] == pytest.approx(box)


def test_doing_nothing_answers_for_each_image():
    """The detector that costs nothing has one row for each image."""
    answer = run(tiny_graphs.do_nothing_detector(), np.zeros((2, 4, 5, 3), np.uint8))
    assert answer["boxes"].shape == (2, 1, 4)
    assert answer["count"].tolist() == [1, 1]


def test_the_hostile_answers_are_as_named():
    """NaN scores, ids above 255 and a count too big come out of a run as such."""
    feed = np.zeros((1, 4, 5, 3), np.uint8)
    scores = run(tiny_graphs.nan_scores_detector(), feed)["scores"][0]
    assert np.isnan(scores[1])
    assert np.isinf(scores[2])
    assert run(tiny_graphs.high_class_ids_detector(), feed)["classes"].min() > 255
    assert run(tiny_graphs.count_too_big_detector(), feed)["count"].tolist() == [103]


def test_the_slow_one_runs_as_long_as_it_says():
    """A detector slowed by nothing still answers."""
    feed = np.full((1, 4, 5, 3), 50, np.uint8)
    assert run(tiny_graphs.slow_detector(0.01), feed)["classes"][0, 0] == 6


CRASH = """
import sys, numpy as np, test_graphs_detectors as t
from support import tiny_graphs
build, colour = getattr(tiny_graphs, sys.argv[1]), int(sys.argv[2])
answer = t.run(build(), np.full((1, 4, 5, 3), colour, np.uint8))
sys.exit(0 if answer["boxes"].shape == (1, 3, 4) else 3)
"""


@pytest.mark.real
@pytest.mark.parametrize(
    ("build", "colour", "crashes"),
    [
        ("crashes_when_white", 0, False),
        ("crashes_when_white", 255, True),
        ("crashes_always", 0, True),
    ],
)
def test_the_crashing_one_ends_its_process(build, colour, crashes):
    """A white image aborts the process that runs it, a black one does not."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    code = subprocess.run(
        [sys.executable, "-c", CRASH, build, str(colour)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    ).returncode
    assert (code == -6) if crashes else (code == 0)
