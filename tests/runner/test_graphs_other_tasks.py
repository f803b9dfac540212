"""A graph that is neither a classifier nor a detector is refused by its task."""

import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import (
    find_raw_signature,
    find_signature,
    import_graph,
    is_served,
)
from support import tiny_graphs

v1 = tf.compat.v1
KINDS = ("detection", "classification")
SIDE = 64


def graph_of(ends, shape=(None, SIDE, SIDE, 3)):
    """Build a graph whose outputs ``ends`` makes of the image and of its features."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, shape, "input")
        # [N, 8, 8, 48], as a network that halves the sides three times has them.
        ends(image, tf.nn.space_to_depth(tf.nn.avg_pool2d(image, 2, 2, "SAME"), 4))
    return import_graph(graph.as_graph_def())


def convolved(features, channels, name):
    """Convolve features with a bias, as heads do."""
    weights = tf.ones([1, 1, features.shape[-1], channels])
    made = tf.nn.conv2d(features, weights, 1, "SAME")
    return tf.nn.bias_add(made, tf.zeros([channels]), name=name)


def opencv(_image, features):
    """Give heads as those of OpenCV's face detector: flat, and named so."""
    count = tf.shape(features)[0]
    boxes = [tf.reshape(convolved(features, 16, f"l{n}"), [count, -1]) for n in "ab"]
    tf.concat(boxes, 1, name="mbox_loc")
    scores = tf.reshape(convolved(features, 8, "c"), [count, -1, 2])
    tf.reshape(tf.nn.softmax(scores), [count, 512], name="mbox_conf_flatten")


def keras_ssd(_image, features):
    """Give boxes and scores of prior boxes, without telling names."""
    tf.reshape(convolved(features, 16, "a"), [-1, 256, 4], name="concatenate_1/concat")
    scores = tf.reshape(convolved(features, 84, "b"), [-1, 256, 21])
    tf.nn.softmax(scores, name="activation_3/Softmax")


def blazeface(_image, features):
    """Give anchors with six key points each, by name."""
    tf.reshape(convolved(features, 32, "a"), [-1, 128, 16], name="regressors")
    tf.reshape(convolved(features, 2, "b"), [-1, 128, 1], name="classificators")


def object_detection_heads(_image, features):
    """Give the Object Detection API's outputs before its post-processing."""
    tf.reshape(convolved(features, 16, "a"), [-1, 256, 1, 4], name="raw/box_encodings")
    flat = tf.reshape(convolved(features, 84, "b"), [-1, 256, 21])
    tf.identity(flat, name="raw/class_predictions_with_background")


def detr(_image, features):
    """Give a hundred boxes, and logits for each."""
    flat = tf.reshape(features, [-1, 256, 12])
    tf.sigmoid(flat[:, :, :4], name="pred_boxes")
    tf.identity(flat, name="pred_logits")


def custom_vision(_image, features):
    """Give the grid of a Custom Vision detector."""
    tf.identity(convolved(features, 30, "head"), name="model_outputs")


def yolo_3(_image, features):
    """Give grids of two sizes."""
    convolved(features, 255, "conv2d_58/BiasAdd")
    convolved(tf.nn.avg_pool2d(features, 2, 2, "SAME"), 255, "conv2d_66/BiasAdd")


def yolo_anchors(_image, features):
    """Give a grid with an axis of anchors."""
    tf.reshape(convolved(features, 30, "a"), [-1, 8, 8, 3, 10], name="output")


def yolo_5(_image, features):
    """Give one row for each anchor of each cell."""
    flat = tf.reshape(convolved(features, 255, "b"), [-1, 192, 85])
    tf.identity(flat, name="Identity")


def yolo_8(_image, features):
    """Give one column for each cell."""
    flat = tf.reshape(convolved(features, 168, "a"), [-1, 128, 84])
    tf.transpose(flat, [0, 2, 1], name="output0")


RAW = [
    *(opencv, keras_ssd, blazeface, object_detection_heads, detr),
    *(custom_vision, yolo_3, yolo_anchors, yolo_5, yolo_8),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", RAW, ids=lambda ends: ends.__name__)
def test_a_detector_without_post_processing_is_named_as_such(ends, kind):
    """Under any file name it is refused as such, and renaming is never the advice."""
    with pytest.raises(GraphError) as caught:
        find_signature(graph_of(ends), kind, None)
    assert "a detector without post-processing" in str(caught.value)
    assert "non-maximum suppression" in str(caught.value)
    assert "rename" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_detectors_outputs_are_shown(kind):
    """The error lists its tensors with their shapes, and the outputs to export."""
    with pytest.raises(GraphError) as caught:
        find_signature(graph_of(keras_ssd), kind, None)
    assert "concatenate_1/concat (float32 [?, 256, 4]) for boxes and" in str(
        caught.value
    )
    assert "activation_3/Softmax (float32 [?, 256, 21]) beside" in str(caught.value)
    assert "detection_boxes, detection_scores" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_that_lacks_an_output_says_which(kind):
    """Such a detector would not be served under its right name either."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.uint8, (None, 8, 8, 3), "image_tensor")
        tiny_graphs.name_outputs(image, scores=None)
    with pytest.raises(GraphError, match="the graph has no detection_scores"):
        find_signature(graph, kind, None)


def test_a_suppression_under_other_names_is_not_called_missing():
    """The sidecar can name such a suppression's outputs."""

    def ends(_image, features):
        boxes = tf.reshape(convolved(features, 16, "a"), [-1, 256, 4])[0]
        scores = tf.reshape(convolved(features, 4, "b"), [-1, 256])[0]
        kept = tf.image.non_max_suppression(boxes, scores, 10)
        tf.gather(boxes, kept, name="rows")[None]
        tf.gather(scores, kept, name="sure")

    with pytest.raises(GraphError, match='give them as "output" in the sidecar'):
        find_signature(graph_of(ends), "detection", None)


def enlarged(features, channels):
    """Make a map of the image's own size."""
    return tf.nn.depth_to_space(convolved(features, channels * 64, "up"), 8)


TASKS = {
    "segmentation by logits": (
        lambda _, x: tf.identity(enlarged(x, 21), name="logits"),
        "a value or class a pixel",
    ),
    "segmentation by softmax": (
        lambda _, x: tf.nn.softmax(enlarged(x, 3), name="out"),
        "a value or class a pixel",
    ),
    "segmentation by class": (
        lambda _, x: tf.argmax(enlarged(x, 21), 3, name="SemanticPredictions"),
        "a value or class a pixel",
    ),
    "a mask": (
        lambda _, x: tf.sigmoid(enlarged(x, 1), name="conv2d_19/Sigmoid"),
        "a value or class a pixel",
    ),
    "an image": (
        lambda _, x: tf.tanh(enlarged(x, 3), name="generator/Tanh"),
        "gives an image back",
    ),
    "a larger image": (
        lambda _, x: tf.nn.depth_to_space(convolved(x, 768, "up"), 16),
        "gives an image back",
    ),
    "heatmaps": (
        lambda _, x: (convolved(x, 17, "a"), convolved(x, 34, "b")),
        "finds keypoints",
    ),
    "heatmaps by name": (
        lambda _, x: convolved(x, 14, "CPM/stage_5_out/heatmap"),
        "finds keypoints",
    ),
    "keypoints": (
        lambda _, x: tf.reshape(
            tf.reduce_mean(x, [1, 2])[:, :34], [-1, 17, 2], "joints"
        ),
        "finds keypoints",
    ),
    "landmarks as one vector": (
        lambda _, x: tf.reduce_mean(x, [1, 2], name="landmarks"),
        "finds keypoints|by its name keypoints",
    ),
    "one box": (
        lambda _, x: tf.matmul(
            tf.reduce_mean(x, [1, 2]), tf.ones([48, 4]), name="bounding_box"
        ),
        "by its name a measure",
    ),
    "an age": (
        lambda _, x: tf.nn.relu(
            tf.matmul(tf.reduce_mean(x, [1, 2]), tf.ones([48, 1])), name="age"
        ),
        "as features within a network do|by its name a measure",
    ),
    "an embedding": (
        lambda _, x: tf.math.l2_normalize(tf.reduce_mean(x, [1, 2]), 1),
        "is an embedding",
    ),
    "features": (
        lambda _, x: tf.nn.relu(convolved(x, 1280, "top"), name="top_activation"),
        "gives features",
    ),
    "text": (
        lambda _, x: tf.nn.softmax(tf.reshape(x, [-1, 64, 48]), name="ctc"),
        "gives a sequence",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_another_task_is_refused_in_its_own_words(task, kind):
    """Another task is refused under either name, without advice that does not help."""
    ends, words = TASKS[task]
    with pytest.raises(GraphError) as caught:
        find_signature(graph_of(ends), kind, None)
    if kind == "classification":
        assert any(word in str(caught.value) for word in words.split("|"))
    assert "rename" not in str(caught.value)


@pytest.mark.parametrize("ends", [*RAW, *(ends for ends, _ in TASKS.values())])
def test_a_graph_of_another_task_can_be_fed_numbers(ends):
    """Its one input and all outputs of it are found; no task here would serve it."""
    graph = graph_of(ends)
    assert not is_served(graph)
    signature = find_raw_signature(graph)
    assert (signature.kind, signature.input) == ("raw", "input:0")
    assert signature.outputs
    for name in signature.outputs.values():
        assert not graph.get_tensor_by_name(name).consumers()


def test_all_outputs_of_a_graph_of_another_task_are_there_but_no_constants():
    """Whole numbers too; a switch for training is off, and told."""
    graph = import_graph(v1.GraphDef.FromString(tiny_graphs.pose()))
    assert list(find_raw_signature(graph).outputs) == ["heatmap:0", "offsets:0"]
    graph = import_graph(v1.GraphDef.FromString(tiny_graphs.segmentation()))
    signature = find_raw_signature(graph)
    assert list(signature.outputs) == ["SemanticPredictions:0"]
    assert signature.feeds == {"is_training:0": False}
    assert any("is_training" in guess for guess in signature.guesses)


@pytest.mark.parametrize(
    "data",
    [
        tiny_graphs.echo_detector(),
        tiny_graphs.classifier(),
        tiny_graphs.encoded_detector(),
    ],
)
def test_a_graph_that_some_app_serves_is_none_of_another_task(data):
    """Under whichever name it lies there."""
    assert is_served(import_graph(v1.GraphDef.FromString(data)))


def test_a_graph_that_takes_no_single_tensor_of_numbers_cannot_be_fed():
    """Two inputs, files, or nothing that comes of the input."""
    for data in (tiny_graphs.two_inputs(), tiny_graphs.encoded_detector()):
        graph = import_graph(v1.GraphDef.FromString(data))
        with pytest.raises(GraphError, match="one of numbers"):
            find_raw_signature(graph)
    with tiny_graphs.building() as graph:
        v1.placeholder(tf.float32, [1, 8, 8, 3], "input")
        tf.constant(1.0, name="heatmap")
    with pytest.raises(GraphError, match="makes no numbers"):
        find_raw_signature(graph)


def test_a_graph_of_another_task_that_is_not_frozen_cannot_be_fed():
    """Its variables have no values."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, [1, 8, 8, 3], "input")
        weight = v1.get_variable("w", [3], use_resource=False)
        tf.multiply(image, weight, name="heatmap")
    with pytest.raises(GraphError, match="not frozen"):
        find_raw_signature(graph)


def test_a_classifier_that_shows_where_it_looks_is_one():
    """Features or a map next to class scores make no other task of it."""

    def ends(_image, features):
        tf.nn.relu(convolved(features, 10, "map"), name="activations")
        pooled = tf.reduce_mean(convolved(features, 10, "head"), [1, 2])
        tf.nn.softmax(pooled, name="predictions/Softmax")

    signature = find_signature(graph_of(ends), "classification", None)
    assert signature.outputs == {"scores": "predictions/Softmax:0"}


def test_a_classifier_that_also_gives_one_box_is_one():
    """The classifier is served, and the choice of its output is reported."""

    def ends(_image, features):
        pooled = tf.reduce_mean(features, [1, 2])
        tf.sigmoid(tf.matmul(pooled, tf.ones([48, 4])), name="bounding_box/Sigmoid")
        tf.nn.softmax(tf.matmul(pooled, tf.ones([48, 5])), name="class_label/Softmax")

    signature = find_signature(graph_of(ends), "classification", None)
    assert signature.outputs == {"scores": "class_label/Softmax:0"}
    with pytest.raises(GraphError, match=r"rename it to <prefix>\.pb"):
        find_signature(graph_of(ends), "detection", None)


@pytest.mark.parametrize(
    "build", [tiny_graphs.echo_detector, tiny_graphs.scoped_detector]
)
def test_following_the_advice_to_rename_works(build):
    """A detector named as a classifier serves under the other name, and the reverse."""
    for data, wrong, right in (
        (build(), "classification", "detection"),
        (tiny_graphs.classifier(), "detection", "classification"),
        (tiny_graphs.one_sigmoid_classifier(), "detection", "classification"),
    ):
        graph = import_graph(v1.GraphDef.FromString(data))
        with pytest.raises(GraphError, match="rename it to"):
            find_signature(graph, wrong, None)
        assert find_signature(graph, right, None).kind == right


def test_a_detector_that_would_fail_is_not_to_be_renamed():
    """The detector's own fault is reported at once."""
    data = tiny_graphs.echo_detector(boxes=lambda boxes: boxes[:, :, :3])
    graph = import_graph(v1.GraphDef.FromString(data))
    with pytest.raises(GraphError, match="boxes must be float32"):
        find_signature(graph, "classification", None)


AVERAGES = {
    "of places": lambda _, x: tf.reduce_mean(
        tf.nn.softmax(convolved(x, 5, "c")), [1, 2], name="out"
    ),
    "of networks": lambda _, x: tf.multiply(
        0.5,
        tf.nn.softmax(tf.reduce_mean(x, [1, 2]))
        + tf.nn.softmax(-tf.reduce_mean(x, [1, 2])),
        name="out",
    ),
    "of networks, stacked": lambda _, x: tf.reduce_mean(
        tf.stack([tf.nn.softmax(tf.reduce_mean(x, [1, 2]) * n) for n in range(3)]),
        0,
        name="out",
    ),
    "of sigmoids": lambda _, x: tf.reduce_mean(
        tf.sigmoid(convolved(x, 5, "c")), [1, 2], name="out"
    ),
}


@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_of_probabilities_is_the_answer(average):
    """The average is taken, not one of its parts, and without another softmax."""
    signature = find_signature(graph_of(AVERAGES[average]), "classification", None)
    assert signature.outputs == {"scores": "out:0"}
    assert (signature.softmax, signature.sigmoid) == (False, False)
    assert signature.independent == (average == "of sigmoids")
