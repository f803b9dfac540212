"""The image's input is found, and the other tensors that a graph needs."""

import io

import pytest
import tensorflow as tf
from PIL import Image

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import import_graph
from support import tiny_graphs
from support.classifier_runs import GREEN, find, imported, scores, v1


def test_gray_is_one_channel():
    """A placeholder of depth one takes gray pixels."""
    assert find(tiny_graphs.gray_classifier()).channels == 1
    assert scores(tiny_graphs.gray_classifier(), (250, 250, 250)).argmax() == 1
    assert scores(tiny_graphs.gray_classifier(), (5, 5, 5)).argmax() == 0


@pytest.mark.parametrize("constant", [False, True], ids=["placeholder", "constant"])
def test_a_graph_that_decodes_takes_the_file(constant):
    """``DecodeJpeg/contents`` is fed with the file, even over an example inside."""
    data = tiny_graphs.file_classifier(constant=constant)
    signature = find(data)
    assert signature.input == "DecodeJpeg/contents:0"
    assert (signature.dtype, signature.layout) == ("string", "encoded")
    assert (signature.size, signature.inner_size) == (None, (8, 8))
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (0, 0, 255)).save(file, "JPEG")
    with v1.Session(graph=imported(data)) as session:
        answer = session.run(
            signature.outputs["scores"], {signature.input: file.getvalue()}
        )
    assert answer.argmax() == 2


def test_a_file_of_unknown_shape_is_one_file():
    """A string that is decoded directly has no list around it."""
    with tiny_graphs.building() as graph:
        file = v1.placeholder(tf.string, None, "contents")
        image = tf.io.decode_jpeg(file, channels=3)
        tf.nn.softmax(tiny_graphs.colour_logits(image[None]))
    signature = find(graph)
    assert signature.layout == "encoded"
    assert "taken for one file" in signature.guesses[0]


def test_a_resizing_classifier_takes_any_size():
    """A graph that resizes inside is fed with any size, and reports its own."""

    def before(image):
        return v1.image.resize_bilinear(image, (8, 8))

    signature = find(tiny_graphs.classifier((None, None, None, 3), before=before))
    assert (signature.size, signature.inner_size) == (None, (8, 8))


def test_an_open_size_is_guessed_or_the_sidecars():
    """Without any hint the size is 224; the sidecar's word wins over it."""
    data = tiny_graphs.classifier((None, None, None, 3))
    assert find(data).size == (224, 224)
    assert "guessed 224 x 224" in find(data).guesses[-1]
    signature = find(data, size=(32, 48), resize="crop", label_offset=1)
    assert (signature.size, signature.resize) == ((32, 48), "crop")
    assert signature.label_offset == 1


def test_a_batch_of_one_image_by_its_use():
    """An unknown shape that gets a batch's axis inside is one image."""
    data = tiny_graphs.classifier(None, before=lambda image: tf.expand_dims(image, 0))
    signature = find(data)
    assert signature.layout == "HWC"
    assert "taken for one image" in signature.guesses[0]


@pytest.mark.parametrize("depth", [1, 3])
def test_unknown_channels_are_the_first_filters(depth):
    """A convolution's filter has as many channels as the input."""

    def before(image):
        return tf.nn.conv2d(image, tf.ones([3, 3, depth, 3]), 1, "SAME")

    data = tiny_graphs.classifier((None, 8, 8, None), before=before)
    assert find(data).channels == depth


def test_open_channels_are_the_sidecars():
    """A sidecar fills in channels that the graph leaves open."""
    data = tiny_graphs.unknown_shape_classifier()
    assert find(data, channels=1).channels == 1
    assert find(data, channels="bgr").bgr


@pytest.mark.parametrize(
    ("name", "dtype", "value"),
    [
        ("keep_prob", tf.float32, 1.0),
        ("dropout/rate", tf.float32, 0.0),
        ("phase_train", tf.float32, 0),
        ("is_training", tf.bool, False),
        ("net/inference_mode", tf.bool, True),
        ("keras_learning_phase", tf.int32, 0),
    ],
)
@pytest.mark.parametrize("shape", [(), None], ids=["scalar", "unknown shape"])
def test_a_switch_is_fed_for_inference(name, dtype, value, shape):
    """Placeholders such as ``keep_prob`` get a constant, and the guess is reported."""
    data = tiny_graphs.switched_classifier(name, dtype, shape)
    signature = find(data)
    assert signature.feeds == {f"{name}:0": value}
    assert f"{name}:0 is fed with {value}" in signature.guesses
    assert scores(data, GREEN).argmax() == 1


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("threshold", tf.float32, ()),
        ("factor", tf.float32, None),
        ("batch", tf.int32, ()),
        ("keep", tf.float32, (3,)),
    ],
)
def test_a_graph_that_needs_more_is_refused(name, dtype, shape):
    """An input that no rule knows is named, with its shape."""
    with pytest.raises(
        GraphError, match=rf"needs more than an image: {name} \(\w+ (\[|of)"
    ):
        find(tiny_graphs.switched_classifier(name, dtype, shape))


def test_a_joint_between_two_halves_is_no_input():
    """A placeholder whose default is computed, as retraining makes, is left alone."""

    def end(logits):
        joint = v1.placeholder_with_default(logits, (None, 3), "BottleneckInput")
        tf.nn.softmax(joint, name="final_result")

    signature = find(tiny_graphs.classifier(end=end))
    assert (signature.input, signature.feeds) == ("input:0", {})


def test_an_unneeded_second_image_may_be_there():
    """A known name or the sidecar decides which of two placeholders counts."""
    with tiny_graphs.building() as graph:
        for name in ("other", "input"):
            image = v1.placeholder(tf.float32, (None, 8, 8, 3), name)
        tf.nn.softmax(tiny_graphs.colour_logits(image), name="softmax")
    assert find(graph).input == "input:0"
    assert find(graph, input="input:0").input == "input:0"
    with pytest.raises(GraphError, match="no class scores"):
        find(graph, input="other")


def test_two_images_that_are_both_needed_are_refused():
    """A known name does not help if the other image is needed too."""
    with tiny_graphs.building() as graph:
        one, other = (
            v1.placeholder(tf.float32, (None, 8, 8, 3), name) for name in ("input", "b")
        )
        tf.nn.softmax(tiny_graphs.colour_logits(one - other), name="softmax")
    with pytest.raises(GraphError, match="several image inputs: input, b"):
        find(graph)


def test_feeding_behind_the_placeholder_needs_no_placeholder():
    """A sidecar may name a tensor inside; the nodes before it are not needed."""
    data = tiny_graphs.file_classifier()
    graph = imported(data)
    inside = next(op for op in graph.get_operations() if op.type == "ResizeBilinear")
    signature = find(graph, input=inside.name)
    assert (signature.input, signature.feeds) == (f"{inside.name}:0", {})
    assert (signature.layout, signature.size, signature.batch) == ("NHWC", (8, 8), 1)
    assert (signature.mean, signature.scale) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((None, 3, 8, 8), tf.float32, r"channels before height and width \(NCHW\)"),
        ((3, 8, 8), tf.float32, r"channels before height and width \(NCHW\)"),
        ((None, 8, 8, 4), tf.float32, "4 channels, neither 1"),
        (
            (None, 192),
            tf.float32,
            r"has no image input: .*input \(float32 \[\?, 192\]\)",
        ),
        ((None, 8, 8, 3), tf.complex64, "has no image input"),
    ],
    ids=str,
)
def test_an_input_that_is_no_image_is_refused(shape, dtype, reason):
    """The error has the placeholder's dtype and shape."""

    def before(image):
        return tf.reshape(tf.cast(image, tf.float32), [-1, 8, 8, 3])

    with pytest.raises(GraphError, match=reason):
        find(tiny_graphs.classifier(shape, dtype=dtype, before=before))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("flat", r"flat:0 takes float32 \[\?, 192\]: not an image's axes"),
        ("flags", "numbers that no image is made of"),
        ("files", "neither one image's file nor a list of them"),
    ],
)
def test_a_sidecars_input_must_take_an_image(node, reason):
    """The sidecar's input is checked like one that is found."""
    with tiny_graphs.building() as graph:
        flat = v1.placeholder(tf.float32, (None, 192), "flat")
        flags = v1.placeholder(tf.bool, (None, 8, 8, 3), "flags")
        files = v1.placeholder(tf.string, (2, 2), "files")
        image = tf.reshape(flat, [-1, 8, 8, 3]) + tf.cast(flags, tf.float32)
        file = tf.io.decode_jpeg(files[0, 0], channels=3)
        logits = tiny_graphs.colour_logits(image + tf.cast(file[:8, :8], tf.float32))
        tf.nn.softmax(logits)
    graph.get_operation_by_name(node)
    with pytest.raises(GraphError, match=reason):
        find_without_feeds(graph, node)


def find_without_feeds(graph, node):
    """Find the signature with every other placeholder given a default."""
    graph_def = graph.as_graph_def()
    for other in graph_def.node:
        if other.op == "Placeholder" and other.name != node:
            dtype = other.attr["dtype"].type
            shape = other.attr["shape"].shape
            default = graph_def.node.add(name=f"{other.name}_default", op="Const")
            value = tf.zeros([max(1, side.size) for side in shape.dim], dtype)
            default.attr["dtype"].type = dtype
            default.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy()))
            other.op = "PlaceholderWithDefault"
            other.input.append(default.name)
    return find(import_graph(graph_def), input=node)


def test_channels_first_is_known_by_its_convolution():
    """A convolution in NCHW decides if the placeholder's shape does not."""

    def before(image):
        moved = tf.nn.conv2d(
            image, tf.ones([3, 3, 3, 3]), 1, "SAME", data_format="NCHW"
        )
        return tf.transpose(moved, [0, 2, 3, 1])

    with pytest.raises(GraphError, match="NCHW"):
        find(tiny_graphs.classifier((None, None, None, None), before=before))
