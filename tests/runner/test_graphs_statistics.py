"""A network's own normalisations show which pixels it was trained with."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.signatures import Sidecar
from modelserver.runner.graphs import find_signature
from modelserver.runner.graphs.statistics import (
    CANDIDATES,
    MEANS,
    draw_patches,
    filter_variances,
)
from support import tiny_graphs

v1 = tf.compat.v1
SIDE = 32
FILTERS = 24


def pictures(depth=3, count=24, side=SIDE):
    """Draw pictures of boxes that cover each other, as things in photos do."""
    draw = np.random.default_rng(7)
    made = np.empty((count, side, side, 3))
    for picture in made:
        picture[:] = draw.normal(115, 60) + draw.normal((5, 0, -5), 18)
        for _ in range(60):
            size = 1 + int(side / 2 * draw.random() ** 1.5)
            top, left = draw.integers(-size // 2, side, 2)
            box = picture[max(top, 0) : top + size, max(left, 0) : left + size]
            box[:] = draw.normal(115, 60) + draw.normal((5, 0, -5), 18)
    made = np.clip(made, 0, 255)
    return made if depth == 3 else made.mean(-1, keepdims=True)


def fed(pixels, scaling):
    """Scale pixels as one candidate does, in the order of its channels."""
    pixels = pixels[..., ::-1] if scaling.bgr else pixels
    return (pixels - np.asarray(scaling.mean)) * np.asarray(scaling.scale)


def convolved(values, kernel):
    """Convolve without a rim."""
    size = kernel.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(values, (size, size), (1, 2))
    return np.einsum("nrcdhw,hwdk->nrck", windows, kernel)


def trained(pixels, scaling, behind=lambda layer: layer, apart=False, stored=True):
    """Build a classifier whose normalisation saw these pixels scaled so."""
    depth = pixels.shape[-1]
    draw = np.random.default_rng(3)
    kernel = draw.normal(0, 0.2, (3, 3, depth, FILTERS)).astype(np.float32)
    before = convolved(fed(pixels, scaling), kernel)
    with tf.Graph().as_default(), v1.Session() as session:
        seen = session.run(behind(tf.constant(before, tf.float32)))
    mean, variance = (
        np.asarray(moment, np.float32)
        for moment in (seen.mean((0, 1, 2)), seen.var((0, 1, 2)))
    )
    gamma = draw.normal(1, 0.1, FILTERS).astype(np.float32)
    beta = draw.normal(0, 0.3, FILTERS).astype(np.float32)
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, SIDE, SIDE, depth), "input")
        layer = behind(tf.nn.conv2d(image, kernel, 1, "SAME"))
        if stored and apart:
            layer = tf.nn.batch_normalization(layer, mean, variance, beta, gamma, 1e-3)
        elif stored:
            layer = tf.raw_ops.FusedBatchNormV3(
                x=layer, scale=gamma, offset=beta, mean=mean, variance=variance,
                epsilon=1e-3, is_training=False,
            )[0]  # fmt: skip
        tf.nn.softmax(tf.reduce_mean(tf.nn.relu(layer), [1, 2]), name="softmax")
    return graph


def find(graph, **sidecar):
    """Find the classifier's signature."""
    return find_signature(graph, "classification", Sidecar(**sidecar))


@pytest.mark.parametrize("apart", [False, True], ids=["fused", "apart"])
@pytest.mark.parametrize("name", CANDIDATES)
def test_a_normalisation_behind_the_first_convolution_shows_the_scaling(name, apart):
    """The mean pixel and the gain show it, and are reported as evidence."""
    scaling = CANDIDATES[name]
    signature = find(trained(pictures(), scaling, apart=apart))
    assert (signature.mean, signature.scale) == (scaling.mean, scaling.scale)
    assert signature.bgr is bool(scaling.bgr)
    assert signature.scaling.source == "statistics"
    assert "mean pixel" in signature.scaling.why


@pytest.mark.parametrize(
    "behind",
    [tf.nn.relu, lambda layer: tf.nn.max_pool2d(tf.nn.relu(layer), 2, 2, "VALID")],
    ids=["relu", "relu and pool"],
)
@pytest.mark.parametrize("name", ["0..255", "0..1", "[-1, 1]"])
def test_one_behind_an_activation_shows_it_too(name, behind):
    """The moments of photos behind the activation show it."""
    signature = find(trained(pictures(), CANDIDATES[name], behind))
    assert signature.scale == CANDIDATES[name].scale
    assert signature.scaling.source == "statistics"


@pytest.mark.parametrize("name", ["0..255", "0..1", "[-1, 1]"])
def test_gray_networks_tell_it(name):
    """Of the scalings that one channel may have, the right one is found."""
    signature = find(trained(pictures(depth=1), CANDIDATES[name]))
    assert (signature.mean, signature.scaling.source) == (
        CANDIDATES[name].mean,
        "statistics",
    )


@pytest.mark.parametrize(
    ("pixels", "scaling"),
    [
        (pictures() * 0.3, CANDIDATES["0..1"]),
        (np.zeros((4, SIDE, SIDE, 3)) + 4.0, CANDIDATES["0..255"]),
    ],
    ids=["dark", "black"],
)
def test_statistics_of_no_photos_are_no_verdict(pixels, scaling):
    """Silence is better than a wrong word; the habit is reported loudly."""
    assert find(trained(pixels, scaling)).scaling.source == "default"


def test_without_a_normalisation_there_is_no_verdict():
    """The habit counts without a normalisation."""
    graph = trained(pictures(), CANDIDATES["[-1, 1]"], stored=False)
    assert find(graph).scaling.source == "default"


def test_a_sidecar_that_says_otherwise_wins_and_is_reported():
    """The contradiction of the statistics is a sentence."""
    graph = trained(pictures(), CANDIDATES["0..1"])
    signature = find(graph, mean=127.5, scale=1 / 127.5)
    assert (signature.mean, signature.scaling.source) == ((127.5,), "sidecar")
    (against,) = signature.scaling.against
    assert against.startswith("statistics would feed (pixel - [0]) * [0.00392157]")
    assert find(graph, scale=1 / 255).scaling.against == ()


def test_the_order_of_the_mean_pixel_is_a_warning_only():
    """Blue pictures look like red ones turned, so nothing is turned for them."""
    pixels = np.clip(pictures() + np.array([-25.0, 0, 25.0]), 0, 255)
    signature = find(trained(pixels, CANDIDATES["0..1"]))
    assert not signature.bgr
    assert any('"bgr"' in sentence for sentence in signature.scaling.against)


def test_drawn_patches_are_like_photos():
    """They have photos' mean and deviation, and are the same each time."""
    drawn = draw_patches(32, 24, 64.0, 3)
    assert drawn.mean((0, 1, 2)) == pytest.approx(MEANS, abs=6)
    assert drawn.std() == pytest.approx(58, abs=8)
    neighbours = ((drawn[:, 1:] - drawn[:, :-1]) ** 2).mean() / 2 / drawn.var()
    assert 0.03 < neighbours < 0.12
    assert (drawn == draw_patches(32, 24, 64.0, 3)).all()


def test_the_variance_of_a_filter_is_that_of_photos():
    """The closed form agrees with the patches that are drawn."""
    kernel = np.random.default_rng(1).normal(0, 0.2, (3, 3, 3, 8))
    drawn = convolved(draw_patches(64, 24, 96.0, 3), kernel)
    ratio = filter_variances(kernel, 96.0) / drawn.var((0, 1, 2))
    assert np.log2(np.median(ratio)) == pytest.approx(0, abs=0.5)


def test_a_mobilenet_without_names_is_known_by_its_layers():
    """A MobileNet that went to TensorFlow Lite and back is recognised."""
    with tiny_graphs.building() as graph:
        layer = v1.placeholder(tf.float32, (None, 32, 32, 3), "input")
        for _ in range(17):
            taps = np.ones((3, 3, 3, 1), np.float32)
            layer = tf.nn.relu6(tf.nn.depthwise_conv2d(layer, taps, [1] * 4, "SAME"))
            layer = tf.nn.relu6(tf.nn.conv2d(layer, np.eye(3)[None, None], 1, "SAME"))
        tf.nn.softmax(tf.reduce_mean(layer, [1, 2]), name="softmax")
    signature = find(graph)
    assert (signature.mean, signature.scaling.source) == ((127.5,), "architecture")


@pytest.mark.parametrize(
    ("factor", "kernel", "mean", "variance"),
    [
        *((np.inf, 0.1, 0.0, 1.0), (np.nan, 0.1, 0.0, 1.0), (1.0, 3e38, 0.0, 1.0)),
        *((1.0, 0.1, np.nan, 1.0), (1.0, 0.1, np.inf, 1.0), (1.0, 0.1, 0.0, np.nan)),
        *((1.0, 0.1, 0.0, np.inf), (1.0, 0.0, 0.0, 1.0), (1e-40, 3e38, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("behind", [tf.identity, tf.nn.relu])
def test_numbers_that_no_training_leaves_are_no_verdict(
    factor, kernel, mean, variance, behind
):
    """Statistics of numbers that no training leaves are ignored, without an error."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, SIDE, SIDE, 3), "input")
        taps = np.random.default_rng(0).normal(0, 1, (3, 3, 3, FILTERS)) * kernel
        taps = np.clip(taps, -3e38, 3e38).astype(np.float32)
        layer = tf.nn.conv2d(image * tf.constant(factor, tf.float32), taps, 1, "VALID")
        ones = np.ones(FILTERS, np.float32)
        layer = tf.raw_ops.FusedBatchNormV3(
            x=behind(layer),
            scale=ones,
            offset=ones,
            mean=ones * np.float32(mean),
            variance=ones * np.float32(variance),
            is_training=False,
        )[0]
        tf.nn.softmax(tf.reduce_mean(layer, [1, 2]), name="softmax")
    assert find(graph).scaling.source != "statistics"
