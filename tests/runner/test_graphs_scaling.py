"""The scaling of pixels is guessed, and pixels are followed through a graph."""

import msgspec
import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.signatures import Sidecar
from modelserver.runner.graphs import find_signature
from modelserver.runner.graphs.pixels import follow_pixels, inner_size
from modelserver.runner.graphs.scaling import inner_scaling, known_architecture
from support import tiny_graphs

v1 = tf.compat.v1


def network(*names, before=lambda image: image, shape=(None, None, None, 3)):
    """Build a classifier with nodes of these names."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, shape, "input")
        for name in names:
            tf.constant(0, name=name)
        tf.nn.softmax(tiny_graphs.colour_logits(before(image)), name="softmax")
    return graph


def find(graph, **sidecar):
    """Find a classifier's signature."""
    return find_signature(graph, "classification", Sidecar(**sidecar))


VGG = (123.68, 116.78, 103.94)
CAFFE = (103.939, 116.779, 123.68)
TORCH = (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("node", "mean", "scale", "bgr", "side"),
    [
        ("MobilenetV1/Conv2d_0/weights", (127.5,), 1 / 127.5, False, 224),
        ("import/MobilenetV2/Conv/weights", (127.5,), 1 / 127.5, False, 224),
        ("InceptionV1/Conv2d_1a_7x7/weights", (127.5,), 1 / 127.5, False, 224),
        ("InceptionV3/Conv2d_1a_3x3/weights", (127.5,), 1 / 127.5, False, 299),
        ("InceptionResnetV2/Conv2d_1a_3x3/weights", (127.5,), 1 / 127.5, False, 299),
        ("cell_stem_0/1x1/weights", (127.5,), 1 / 127.5, False, 331),
        ("resnet_v1_50/conv1/weights", VGG, 1, False, 224),
        ("resnet_v2_101/conv1/weights", (127.5,), 1 / 127.5, False, 299),
        ("vgg_16/conv1/conv1_1/weights", VGG, 1, False, 224),
        ("efficientnet-lite0/stem/conv2d", (127.0,), 1 / 128, False, 224),
        ("efficientnet-b0/model/stem/conv2d", TORCH, 1 / 58.395, False, 224),
        ("mixed_10/join", (128.0,), 1 / 128, False, 299),
        ("mixed10/concat", (127.5,), 1 / 127.5, False, 299),
        ("block35_1_conv/kernel", (127.5,), 1 / 127.5, False, 299),
        ("xception_1/block2_sepconv1_1/x", (127.5,), 1 / 127.5, False, 299),
        ("normal_conv_1_0/kernel", (127.5,), 1 / 127.5, False, 224),
        ("mobilenetv2_1.00_160/Conv1/kernel", (127.5,), 1 / 127.5, False, 160),
        ("mobilenet_1.00_224_1/conv1_1/x", (127.5,), 1 / 127.5, False, 224),
        ("block_1_expand/kernel", (127.5,), 1 / 127.5, False, 224),
        ("densenet121_1/conv1_conv_1/x", TORCH, 1 / 58.395, False, 224),
        ("conv2_block1_concat/axis", TORCH, 1 / 58.395, False, 224),
        ("conv2_block1_preact_bn/gamma", (127.5,), 1 / 127.5, False, 224),
        ("resnet50_1/conv2_block1_out_1/x", CAFFE, 1, True, 224),
        ("res2a_branch2a/kernel", CAFFE, 1, True, 224),
        ("vgg16_1/block1_conv1_1/x", CAFFE, 1, True, 224),
        ("fire2_squeeze1x1/weights", (104.0, 117.0, 123.0), 1, True, 227),
    ],
)
def test_an_architecture_is_known_by_its_nodes(node, mean, scale, bgr, side):
    """Its scaling and size are taken, and the node is reported."""
    signature = find(network(node))
    assert signature.mean == pytest.approx(mean)
    assert signature.scale[0] == pytest.approx(scale)
    assert (signature.bgr, signature.size) == (bgr, (side, side))
    assert all(repr(node) in guess for guess in signature.guesses)
    assert len(signature.guesses) == 2


@pytest.mark.parametrize(
    "node", ["Conv2D", "random_normal/mean", "conv1/weights", "MyInceptionV3net/x"]
)
def test_other_names_are_no_architecture(node):
    """Names that only resemble one give no guess."""
    assert known_architecture(network(node)) is None


@pytest.mark.parametrize(
    ("before", "mean", "scale"),
    [
        (lambda x: x - 128.0, 0, 1),
        (lambda x: (x - 127.5) / 127.5, 0, 1),
        (lambda x: x * (1 / 255), 0, 1),
        (lambda x: 128.0 - x, 0, 1),
        (lambda x: x - [123.68, 116.78, 103.94], 0, 1),
        (lambda x: tf.nn.bias_add(x, [-123.68, -116.78, -103.94]), 0, 1),
        (lambda x: x * 2.0 - 1.0, 0, 1 / 255),
        (lambda x: x - 0.5, 0, 1 / 255),
        (lambda x: (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], 0, 1 / 255),
        (lambda x: x * 255.0 - 128.0, 0, 1 / 255),
        (lambda x: (x + 1.0) * 127.5, 127.5, 1 / 127.5),
    ],
    ids=[
        "less 128", "to -1..1", "over 255", "turned", "less a mean", "bias",
        "doubled", "less a half", "torch", "times 255", "from -1..1",
    ],
)  # fmt: skip
def test_arithmetic_inside_shows_the_range(before, mean, scale):
    """A graph's own arithmetic on its pixels shows the range that it expects."""
    signature = find(network("MobilenetV1/x", before=before))
    assert (signature.mean, signature.scale) == ((mean,), (pytest.approx(scale),))
    assert signature.scaling.source == "arithmetic"


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x,
        lambda x: x - tf.reduce_mean(x),
        lambda x: x * x,
        lambda x: 1.0 / x,
        lambda x: x / 0.0,
        lambda x: x - np.zeros((5, 8, 8, 3), np.float32) - 128.0,
        lambda x: x * 2.0,
    ],
    ids=["none", "computed", "squared", "reciprocal", "over zero", "a batch", "twice"],
)
def test_other_arithmetic_shows_no_range(before):
    """Only sensible additions and multiplications of constants count."""
    graph = network(before=before, shape=(None, 8, 8, 3))
    ends = follow_pixels(graph.get_tensor_by_name("input:0"))
    assert inner_scaling(ends) is None


@pytest.mark.parametrize(
    ("before", "factor", "shift"),
    [
        (lambda x: 128.0 - x, -1, 128),
        (lambda x: x - 128.0, 1, -128),
        (lambda x: (x + 2.0) * 3.0, 3, 6),
        (lambda x: (x - 2.0) / 4.0, 0.25, -0.5),
        (lambda x: 10.0 - (x * 2.0 - 1.0), -2, 11),
    ],
    ids=["from", "less", "plus, times", "less, over", "from less"],
)
def test_arithmetic_is_followed(before, factor, shift):
    """The pixels at each op are known by a factor and a shift."""
    graph = network(before=before)
    (pixels, *_) = follow_pixels(graph.get_tensor_by_name("input:0"))
    assert np.unique(pixels.factor).tolist() == [factor]
    assert np.unique(pixels.shift).tolist() == [shift]


def test_arithmetic_is_followed_through_a_loop_over_the_batch():
    """Arithmetic behind the loop that resizes each image counts as well."""
    with tiny_graphs.building(old_loops=True) as graph:
        image = v1.placeholder(tf.float32, (None, None, None, 3), "input")
        small = tf.map_fn(lambda one: tf.squeeze(bilinear(one[None], (6, 8)), 0), image)
        tf.nn.softmax(tiny_graphs.colour_logits(small * 2.0 - 1.0))
    signature = find(graph)
    assert signature.scale == (pytest.approx(1 / 255),)
    assert signature.inner_size == (6, 8)


def test_a_sidecar_wins_over_every_guess():
    """Mean and scale given are used, and no guess is reported."""
    graph = network("vgg_16/x", before=lambda x: x - 128.0, shape=(None, 8, 8, 3))
    signature = find(graph, mean=(1, 2, 3), scale=0.5, channels="bgr")
    assert (signature.mean, signature.scale) == ((1, 2, 3), (0.5,))
    assert signature.bgr
    assert signature.guesses == ()


@pytest.mark.parametrize(
    ("graph", "sidecar", "source"),
    [
        (network("MobilenetV1/x"), {"mean": 5}, "sidecar"),
        (network("MobilenetV1/x", before=lambda x: x - 128.0), {}, "arithmetic"),
        (network("MobilenetV1/x"), {}, "architecture"),
        (network("x"), {}, "default"),
    ],
    ids=["sidecar", "arithmetic", "architecture", "default"],
)
def test_the_deciding_evidence_is_reported(graph, sidecar, source):
    """The first evidence that speaks is reported, by its name in JSON."""
    scaling = find(graph, **sidecar).scaling
    assert scaling.source == source
    assert msgspec.to_builtins(scaling)["from"] == source


@pytest.mark.parametrize(
    ("graph", "formerly"),
    [
        (network("x"), "(pixel - [127.5])"),
        (network("x", before=lambda x: x / 255.0), ""),
        (network("MobilenetV1/x"), ""),
        (network("fire2_squeeze1x1/x"), "(pixel - [127.5])"),
        (network("x", before=lambda x: x - tf.identity([104.0, 117, 123])), "127.5"),
        (network("x", before=lambda x: x - [104.0, 117, 123]), "(pixel - [0]) * [1]"),
        (network("x", before=lambda x: x - [123.0, 117, 104]), ""),
    ],
    ids=["default", "same", "names", "squeeze", "unread", "order", "order as before"],
)
def test_a_changed_scaling_is_reported(graph, formerly):
    """A running server's operator must hear of a changed scaling."""
    scaling = find(graph).scaling
    assert bool(scaling.formerly) == bool(formerly)
    assert formerly in scaling.formerly


def test_the_order_of_channels_takes_the_mean_along():
    """If the sidecar turns the channels, a guessed mean is turned as well."""
    assert find(network("vgg_16/x"), channels="bgr").mean == VGG[::-1]
    signature = find(network("block1_conv1/x"), channels=3)
    assert (signature.mean, signature.bgr) == (CAFFE[::-1], False)


def test_a_gray_network_gets_no_means_of_colours():
    """A known architecture of one channel does not count as known."""
    signature = find(network("block1_conv1/x", shape=(None, 8, 8, 1)))
    assert (signature.mean, signature.bgr) == ((0.0,), False)
    assert signature.scaling.source == "default"


def test_bytes_are_fed_as_they_are():
    """An input of bytes has no scaling; one in the sidecar is reported as unused."""
    data = tiny_graphs.classifier(dtype=tf.uint8)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(v1.GraphDef.FromString(data), name="")
    signature = find(graph, mean=3, channels="bgr")
    assert (signature.mean, signature.scale, signature.bgr) == ((0.0,), (1.0,), True)
    assert signature.scaling is None
    assert signature.guesses == (
        "the sidecar's mean and scale are not used: the input takes bytes",
    )


def bilinear(image, size):
    """Resize as TensorFlow 1 does."""
    return v1.image.resize_bilinear(image, size)


@pytest.mark.parametrize(
    ("before", "size"),
    [
        (lambda x: bilinear(x, (6, 8)), (6, 8)),
        (lambda x: bilinear(x[..., ::-1] / 255.0 - 0.5, (6, 8)), (6, 8)),
        (lambda x: bilinear(bilinear(x, (6, 8)), (3, 4)), (6, 8)),
        (lambda x: bilinear(bilinear(x, tf.shape(x)[1:3] // 2), (3, 4)), None),
        (lambda x: bilinear(x, (6, 8)) + bilinear(x, (6, 8)), (6, 8)),
        (lambda x: bilinear(x, (6, 8))[:, :4, :4] + bilinear(x, (4, 4)), None),
        (lambda x: bilinear(x[:, 1:], (6, 8)), None),
        (lambda x: bilinear(x[0][None], (6, 8)), None),
        (lambda x: bilinear(tf.square(x), (6, 8)), None),
        (lambda x: bilinear(x, (6, 8)) * tf.reduce_mean(x), None),
        (lambda x: x, None),
    ],
    ids=[
        "plain", "turned and scaled", "first of two", "computed first", "twice the same",
        "two sizes", "cropped", "one taken out", "changed", "also used whole", "none",
    ],
)  # fmt: skip
def test_the_inner_size_is_that_of_all_pixels(before, size):
    """It is known only if every use of the image is behind one constant resizer."""
    graph = network(before=before)
    image = graph.get_tensor_by_name("input:0")
    assert inner_size(follow_pixels(image)) == size


def test_a_slice_by_computed_strides_is_no_mere_carrier():
    """Strides that are not known may leave pixels out."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, None, None, 3), "input")
        step = tf.shape(image)[:1]
        bilinear(tf.strided_slice(image, [0], [0], step, 1, 1), (6, 8))
    assert inner_size(follow_pixels(graph.get_tensor_by_name("input:0"))) is None


def test_a_malformed_constant_is_no_evidence():
    """A constant whose bytes do not fill its shape does not fail here."""
    graph = network(before=lambda x: x - [1.0, 2.0, 300.0])
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        if node.name == "sub/y":
            node.attr["value"].tensor.tensor_content = b"123"
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    assert find(graph).scaling.source == "default"


def test_fake_quantisation_changes_no_range():
    """A TF-Hub module made for quantisation doubles, shifts, and rounds in between."""

    def hub_input(image):
        doubled = tf.quantization.fake_quant_with_min_max_args(image * 2.0, 0.0, 2.0)
        shifted = doubled - 1.0
        return tf.quantization.fake_quant_with_min_max_args(shifted, -1.0, 1.0)

    found = find(network("MobilenetV1/Conv2d_0/weights", before=hub_input))
    assert found.scaling.source == "arithmetic"
    np.testing.assert_allclose(found.scale, 1 / 255)
    np.testing.assert_allclose(found.mean, 0, atol=1e-6)
