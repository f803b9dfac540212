"""A graph's normalisation of its pixels is read in the spellings of exports."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.signatures import Sidecar
from modelserver.runner.graphs import find_signature
from modelserver.runner.graphs.pixels import follow_pixels
from support import tiny_graphs

v1 = tf.compat.v1
raw = tf.raw_ops
SIDE = 8
RAW, UNIT, SYMMETRIC = ((0.0,), 1.0), ((0.0,), 1 / 255), ((127.5,), 1 / 127.5)
RISING, FALLING = (104.0, 117.0, 123.0), (123.0, 117.0, 104.0)
NOUGHT, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)


def network(before, shape=(None, SIDE, SIDE, 3), old_loops=False):
    """Build a classifier that works on its pixels first."""
    with tiny_graphs.building(old_loops=old_loops) as graph:
        image = v1.placeholder(tf.float32, shape, "input")
        network_of(before(image))
    return graph


def network_of(image):
    """Build a convolution and a softmax behind an image."""
    depth = image.shape[-1] or 3
    kernel = tf.constant(np.ones((3, 3, depth, 4), np.float32))
    layer = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME"))
    tf.nn.softmax(tf.reduce_mean(layer, [1, 2]), name="softmax")


def find(graph):
    """Find the classifier's signature."""
    return find_signature(graph, "classification", Sidecar())


def held(value):
    """Make a constant as freezing leaves a variable: behind an ``Identity``."""
    return tf.identity(tf.constant(value, tf.float32))


def fused(op, mean, variance, gamma=ONE, beta=NOUGHT):
    """Normalise in one op."""
    return lambda image: op(
        x=image,
        scale=held(gamma),
        offset=held(beta),
        mean=held(mean),
        variance=held(variance),
        epsilon=1e-3,
        is_training=False,
    )[0]


def apart(mean, variance, gamma=None, beta=None):
    """Normalise as ``tf.nn.batch_normalization`` does."""
    return lambda image: tf.nn.batch_normalization(
        image,
        held(mean),
        held(variance),
        None if beta is None else held(beta),
        None if gamma is None else held(gamma),
        1e-3,
    )


def custom_vision(image):
    """Normalise as Custom Vision's exports do: the mean negated, no gamma and beta."""
    root = tf.math.rsqrt(held(ONE) + 1e-5)
    return image * root + tf.negative(held(RISING)) * root


def by_roots(image):
    """Normalise as Keras's ``Normalization`` does: less the mean, over the root."""
    return (image - [[[[0.5, 0.45, 0.4]]]]) / tf.maximum(
        tf.sqrt(held(ONE * 0.06)), 1e-7
    )


@pytest.mark.parametrize(
    ("before", "scaling", "bgr"),
    [
        (custom_vision, RAW, True),
        (fused(raw.FusedBatchNorm, RISING, ONE), RAW, True),
        (fused(raw.FusedBatchNormV2, FALLING, 3000 * ONE), RAW, False),
        (fused(raw.FusedBatchNormV3, [0.5, 0.45, 0.4], 0.06 * ONE), UNIT, False),
        (fused(raw.FusedBatchNormV3, [0.4, 0.45, 0.5], 0.06 * ONE), UNIT, True),
        (fused(raw.FusedBatchNormV3, -0.1 * ONE, 0.25 * ONE), SYMMETRIC, False),
        (
            fused(raw.FusedBatchNormV3, 0.5 * ONE, 0.06 * ONE, 300 * ONE, 90 * ONE),
            *(UNIT, False),
        ),
        (apart([0.5, 0.45, 0.4], 0.06 * ONE), UNIT, False),
        (apart([0.4, 0.45, 0.5], 0.06 * ONE, 9 * ONE, 80 * ONE), UNIT, True),
        (apart(RISING, 3000 * ONE, 0.1 * ONE, 5 * ONE), RAW, True),
        (apart(-0.05 * ONE, 0.25 * ONE, 2 * ONE, ONE), SYMMETRIC, False),
        (by_roots, UNIT, False),
        (lambda x: tf.cast(x, tf.float32) - tf.cast([123, 117, 104], "float32"), RAW, False),
        (lambda x: x + tf.negative(held(RISING)), RAW, True),
        (lambda x: fused(raw.FusedBatchNormV3, 0.5 * ONE, 0.06 * ONE)(x / 255), RAW, False),
        (lambda x: tf.pad(x - RISING, [[0, 0], [1, 1], [1, 1], [0, 0]]), RAW, True),
    ],
    ids=[
        *("custom vision", "v1", "v2", "v3 unit", "v3 unit bgr", "v3 symmetric"),
        *("gamma and beta", "apart", "apart with gamma", "apart raw", "apart symmetric"),
        *("keras normalization", "cast", "negated", "behind a rescaling", "padded"),
    ],
)  # fmt: skip
def test_a_first_normalisation_is_read(before, scaling, bgr):
    """Its stored mean and deviation show range and order, before gamma and beta."""
    signature = find(network(before))
    mean, scale = scaling
    assert (signature.mean, signature.scale) == (mean, (pytest.approx(scale),))
    assert signature.bgr is bgr
    assert signature.scaling.source == "arithmetic"


@pytest.mark.parametrize(
    "before",
    [
        fused(raw.FusedBatchNormV3, 5 * ONE, 9 * ONE),
        fused(raw.FusedBatchNormV3, NOUGHT, ONE),
        fused(raw.FusedBatchNormV3, 0.9 * ONE, 0.06 * ONE),
        apart(NOUGHT, ONE, 2 * ONE, ONE),
        lambda x: raw.FusedBatchNormV3(
            x=x, scale=ONE, offset=NOUGHT, mean=[], variance=[], is_training=True
        )[0],
    ],
    ids=["neither", "never trained", "bright", "apart", "in training"],
)
def test_statistics_of_no_range_tell_nothing(before):
    """Numbers that fit no range of pixels are no evidence."""
    assert find(network(before)).scaling.source == "default"


def vgg(image):
    """Part the colours, shift each, and join them the other way round, as VGG does."""
    red, green, blue = tf.split(image, 3, 3)
    return tf.concat([blue - 103.939, green - 116.779, red - 123.68], 3)


def one_by_one(image):
    """Take each colour out, and stack them the other way round."""
    red, green, blue = tf.unstack(image, axis=-1)
    return tf.stack([blue - 104.0, green - 117.0, red - 123.0], -1)


def sliced(image):
    """Cut each colour out."""
    parts = [tf.slice(image, [0, 0, 0, place], [-1, -1, -1, 1]) for place in (2, 1, 0)]
    return tf.concat(parts, -1) - RISING


def channels_first(image):
    """Turn the axes, and subtract there."""
    return tf.transpose(
        tf.transpose(image, [0, 3, 1, 2]) - np.reshape(RISING, (1, 3, 1, 1)),
        [0, 2, 3, 1],
    )


@pytest.mark.parametrize(
    ("before", "bgr"),
    [
        (lambda x: x - RISING, True),
        (lambda x: x - FALLING, False),
        (lambda x: x[..., ::-1] - RISING, False),
        (lambda x: x[:, :, :, ::-1] - FALLING, True),
        (lambda x: (x - FALLING)[..., ::-1], False),
        (lambda x: tf.reverse(x, [-1]) - RISING, False),
        (lambda x: tf.reverse(x, [1, 2]) - RISING, True),
        (lambda x: tf.reverse(x, [3])[..., ::-1] - RISING, True),
        (lambda x: tf.gather(x, [2, 1, 0], axis=3) - RISING, False),
        (lambda x: tf.gather(x, [2, 1, 0], axis=-1) / 255 - [0.4, 0.45, 0.5], False),
        (vgg, False),
        (one_by_one, False),
        (sliced, False),
        (channels_first, True),
        (lambda x: x - 127.5, False),
        (lambda x: x - [127.5, 127.4, 127.6], False),
        (lambda x: (x - [120.0, 121.0, 122.0]) / 60, False),
    ],
    ids=[
        *("rising", "falling", "turned", "turned, falling", "turned behind"),
        *("reversed", "mirrored", "turned twice", "gathered", "gathered in units"),
        *("vgg", "one by one", "sliced", "channels first", "flat", "all but flat"),
        "less than a tenth of the deviation",
    ],
)
def test_the_order_is_that_of_the_means(before, bgr):
    """A turn of the channels in front of the means counts, one behind does not."""
    signature = find(network(before))
    assert (signature.bgr, signature.scaling.source) == (bgr, "arithmetic")


def test_the_order_is_reported():
    """The order is reported with the means that show it; a sidecar overrules it."""
    graph = network(lambda x: x - RISING)
    assert "BGR" in find(graph).scaling.why
    assert "104, 117, 123" in find(graph).guesses[0]
    signature = find_signature(graph, "classification", Sidecar(channels=3))
    assert not signature.bgr


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (np.full((SIDE, SIDE, 3), FALLING), (None, SIDE, SIDE, 3)),
        (np.full((1, SIDE, SIDE, 3), RISING), (None, SIDE, SIDE, 3)),
        (np.full((SIDE, SIDE, 1), 115.0), (None, SIDE, SIDE, 3)),
        (np.full((SIDE, SIDE, 1), 115.0), (None, SIDE, SIDE, 1)),
        (np.full((SIDE, SIDE, 3), RISING), (None, None, None, 3)),
    ],
    ids=["of one", "of a batch", "gray for all", "gray", "of unknown size"],
)
def test_a_mean_image_is_read(image, shape):
    """Its mean a channel shows range and order, its sides the size."""
    noise = np.random.default_rng(0).normal(0, 9, image.shape).astype(np.float32)
    noise -= noise.mean((-3, -2), keepdims=True)
    graph = network(lambda x: (x - (image + noise).astype(np.float32)) / 58.0, shape)
    signature = find(graph)
    assert (signature.mean, signature.scale) == ((0.0,), (1.0,))
    assert signature.bgr is bool(image.ravel()[0] == RISING[0])
    assert signature.size == (SIDE, SIDE)
    (pixels, *_) = follow_pixels(graph.get_tensor_by_name("input:0"))
    assert pixels.sides == (SIDE, SIDE)


def test_a_mean_image_in_units_is_of_units():
    """A mean of fractions shows that the graph takes fractions."""
    image = np.full((SIDE, SIDE, 3), (0.5, 0.45, 0.4), np.float32)
    assert find(network(lambda x: x - image)).scale == (pytest.approx(1 / 255),)


def test_rounding_to_few_levels_keeps_the_pixels():
    """Networks trained to be quantized round so, as a TF-Hub module in a graph does."""

    def before(image):
        doubled = image * tf.identity(2.0)
        rounded = tf.quantization.fake_quant_with_min_max_args(doubled, 0, 2)
        return tf.quantization.fake_quant_with_min_max_args(rounded - 1.0, -1, 1)

    signature = find(network(before))
    assert signature.scale == (pytest.approx(1 / 255),)
    assert signature.scaling.source == "arithmetic"


def test_the_branch_for_training_is_not_followed():
    """Ops that a training switch keeps from running are no evidence."""

    def before(image):
        training = v1.placeholder_with_default(True, (), "is_training")
        return v1.cond(training, lambda: tf.square(image), lambda: image / 255.0)

    graph = network(before, old_loops=True)
    assert find(graph).scaling.source == "arithmetic"
    kinds = {one.end.type for one in follow_pixels(graph.get_tensor_by_name("input:0"))}
    assert kinds == {"Conv2D"}


def test_colours_joined_with_something_else_end_there():
    """Coordinates next to the colours end the walk: it is no image any more."""
    graph = network(lambda x: tf.concat([x - 128.0, tf.zeros_like(x)], 3))
    ends = follow_pixels(graph.get_tensor_by_name("input:0"))
    assert {one.end.type for one in ends} == {"ConcatV2", "ZerosLike"}


def test_a_channel_that_there_is_not_ends_the_walk():
    """An image of unknown depth may have a fourth channel; one of three has none."""
    with tiny_graphs.building():
        image = v1.placeholder(tf.float32, (None, SIDE, SIDE, None), "input")
        network_of(tf.gather(image, [7, 0, 1], axis=-1))
        assert [pixels.end.type for pixels in follow_pixels(image)] == ["GatherV2"]
