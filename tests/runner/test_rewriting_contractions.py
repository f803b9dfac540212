"""Arithmetic behind a convolution or matrix product is folded into it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.runner.rewriting.contractions import fold_chains, move_biases
from support.rewriting_runs import Trial, numbers, on_images

v1 = tf.compat.v1
IMAGES = numbers(2, 5, 6, 3)
CHANNELS = 4


def conv(x, stride=1):
    """Convolve to four channels."""
    return tf.nn.conv2d(x, numbers(3, 3, 3, CHANNELS), stride, "SAME")


def depthwise(x):
    """Convolve depthwise with two filters a channel, from two to four."""
    return tf.nn.depthwise_conv2d(
        x[..., :2], numbers(3, 3, 2, 2), (1, 1, 1, 1), "VALID"
    )


def matmul(x):
    return tf.matmul(tf.reshape(x, [-1, 90]), numbers(90, CHANNELS))


def transposed(x):
    kernel = numbers(CHANNELS, 90)
    return tf.matmul(tf.reshape(x, [-1, 90]), kernel, transpose_b=True)


CONTRACTIONS = {f.__name__: f for f in (conv, depthwise, matmul, transposed)}


def vector(seed=2):
    return numbers(CHANNELS, seed=seed, low=0.5)


def norm(version="V3", **options):
    """Normalise with TensorFlow's own batch norm, which does not learn."""
    op = getattr(tf.raw_ops, f"FusedBatchNorm{version}")

    def apply(value):
        return op(
            x=value,
            scale=vector(3),
            offset=vector(4),
            mean=vector(5),
            variance=vector(6),
            epsilon=0.001,
            is_training=False,
            **options,
        )[0]

    return apply


STEPS = {
    "Mul": lambda a: a * vector(),
    "swapped Mul": lambda a: vector() * a,
    "one number": lambda a: a * np.float32(0.25),
    "Add": lambda a: tf.raw_ops.Add(x=a, y=vector(7)),
    "AddV2": lambda a: tf.raw_ops.AddV2(x=vector(8), y=a),
    "Sub": lambda a: a - vector(9),
    "swapped Sub": lambda a: vector(10) - a,
    "BiasAdd": lambda a: tf.nn.bias_add(a, vector(11)),
    "leading ones": lambda a: a + vector(12)[(None,) * (len(a.shape) - 1)],
}
NORMS = {version: norm(version) for version in ("", "V2", "V3")}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CONTRACTIONS)),
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
)
def test_arithmetic_with_constants_is_folded(contraction, steps):
    """Of any contraction, in any order and number, one BiasAdd is left."""
    with on_images() as (graph, x):
        value = CONTRACTIONS[contraction](x)
        for step in steps:
            value = STEPS[step](value)
        tf.nn.relu(value, name="y")
    trial = Trial(graph)
    assert trial.apply(fold_chains) == (steps != ["BiasAdd"])
    assert trial.ops["BiasAdd"] == 1
    assert not {"Mul", "Add", "AddV2", "Sub"} & set(trial.ops)
    trial.assert_same(IMAGES)


@pytest.mark.parametrize("contraction", [conv, depthwise], ids=lambda c: c.__name__)
@pytest.mark.parametrize("version", sorted(NORMS))
def test_a_batch_norm_is_folded(contraction, version):
    """A batch norm of each version is folded, with its neighbours."""
    with on_images() as (graph, x):
        value = NORMS[version](tf.nn.bias_add(contraction(x), vector(1)))
        tf.nn.relu6(value * np.float32(2), name="y")
    trial = Trial(graph)
    assert trial.apply(fold_chains) == 1
    assert trial.ops["BiasAdd"] == 1
    assert not {f"FusedBatchNorm{version}", "Mul"} & set(trial.ops)
    trial.assert_same(IMAGES)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_batch_norm_of_the_first_tensorflow_is_folded(scaled):
    """Inception of 2015 is full of them; only graphs that old may hold them."""
    with on_images() as (graph, x):
        plain = conv(x).op.name
        for name, seed in zip("mvbg", (3, 4, 5, 6), strict=True):
            tf.constant(vector(seed), name=name)
    graph_def = graph.as_graph_def()
    graph_def.versions.producer = 8
    node = graph_def.node.add(name="y", op="BatchNormWithGlobalNormalization")
    node.input.extend([plain, *"mvbg"])
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["variance_epsilon"].f = 0.001
    node.attr["scale_after_normalization"].b = scaled
    trial = Trial(graph_def)
    assert trial.apply(fold_chains) == 1
    assert trial.ops["BiasAdd"] == 1
    trial.assert_same(IMAGES)


def test_a_lone_bias_is_left_alone():
    """TensorFlow fuses a lone bias itself."""
    with on_images() as (graph, x):
        tf.nn.relu(tf.nn.bias_add(conv(x), vector()), name="y")
    assert Trial(graph).apply(fold_chains) == 0


def test_a_shared_kernel_is_scaled_for_one_only():
    """The other convolution keeps the old kernel."""
    with on_images() as (graph, x):
        kernel = tf.constant(numbers(3, 3, 3, CHANNELS))
        one = tf.nn.conv2d(x, kernel, 1, "SAME") * vector()
        tf.add(one, tf.nn.conv2d(-x, kernel, 1, "SAME"), name="y")
    trial = Trial(graph)
    assert trial.apply(fold_chains) == 1
    trial.assert_same(IMAGES)


def other_user(value):
    return value * vector() + tf.nn.relu(value)


def itself(value):
    return value * value


def not_constant(value):
    return value * tf.reduce_sum(value)


def more_rows(value):
    return value * numbers(6, CHANNELS)


def more_axes(value):
    return value * numbers(1, 1, 1, 1, CHANNELS)


def waiting(value):
    scale = tf.constant(vector())
    with tf.control_dependencies([tf.no_op()]):
        return value * scale


def waiting_constant(value):
    with tf.control_dependencies([tf.no_op()]):
        return value * tf.constant(vector())


def learning(value):
    return tf.raw_ops.FusedBatchNormV3(
        x=value, scale=vector(), offset=vector(), mean=[], variance=[], is_training=True
    )[0]


def as_the_mean(value):
    return tf.raw_ops.FusedBatchNormV3(
        x=tf.ones([1, 1, 1, 4]),
        scale=vector(),
        offset=vector(),
        mean=tf.reshape(value, [-1])[:4],
        variance=vector(),
        is_training=False,
    )[0]


def with_a_second_output(value):
    out = tf.raw_ops.FusedBatchNormV3(
        x=value,
        scale=vector(),
        offset=vector(),
        mean=vector(),
        variance=vector(),
        is_training=False,
    )
    return out[0] + out[1]


def computed_norm(value):
    mean = vector() + value.graph.get_tensor_by_name("x:0")[0, 0, 0, 0]
    return v1.nn.fused_batch_norm(
        value, vector(), vector(), mean, vector(), is_training=False
    )[0]


def infinite(value):
    return value * np.float32(3e38) * np.float32(3e38)


OTHERS = (
    *(other_user, itself, not_constant, more_rows, more_axes, waiting, learning),
    *(waiting_constant, as_the_mean, with_a_second_output, computed_norm, infinite),
)


@pytest.mark.parametrize(
    "behind",
    OTHERS,
    ids=lambda function: function.__name__,
)
def test_arithmetic_that_is_not_certain_stays(behind):
    """A graph that does not match in every respect is left unchanged."""
    with on_images() as (graph, x):
        tf.nn.relu(behind(conv(x)), name="y")
    trial = Trial(graph)
    assert trial.apply(fold_chains) == 0
    if behind is not infinite:
        trial.assert_same(IMAGES, exact=True)


def test_a_norm_of_no_variance_stays():
    """Folding such a norm would divide by zero."""
    with on_images() as (graph, x):
        zeros = np.zeros(CHANNELS, np.float32)
        out = tf.raw_ops.FusedBatchNormV3(
            x=conv(x),
            scale=vector(),
            offset=vector(),
            mean=vector(),
            variance=zeros,
            epsilon=0,
            is_training=False,
        )
        tf.nn.relu(out[0], name="y")
    assert Trial(graph).apply(fold_chains) == 0


def test_a_fetched_convolution_stays():
    """A caller wants to see its output."""
    with on_images() as (graph, x):
        tf.nn.relu(tf.identity(conv(x)) * vector(), name="y")
        seen = graph.get_operations()[2].name
        assert "Conv2D" in seen
    trial = Trial(graph, fetched=("y:0", f"{seen}:0"))
    trial.apply(fold_chains)
    trial.assert_same(IMAGES, exact=True)


def half(x):
    x = tf.cast(x, tf.float16)
    kernel = numbers(3, 3, 3, CHANNELS).astype(np.float16)
    return tf.nn.conv2d(x, kernel, 1, "SAME") * vector().astype(np.float16)


def channels_first(x):
    kernel = numbers(3, 3, 5, 4)
    return tf.nn.conv2d(x, kernel, 1, "SAME", data_format="NCHW") * numbers(3)


def computed_kernel(x):
    return tf.nn.conv2d(x, numbers(3, 3, 3, 4) * x[0, 0, 0, 0], 1, "SAME") * vector()


def waiting_convolution(x):
    kernel = tf.constant(numbers(3, 3, 3, CHANNELS))
    with tf.control_dependencies([tf.no_op()]):
        made = tf.nn.conv2d(x, kernel, 1, "SAME")
    return made * vector()


@pytest.mark.parametrize(
    "build",
    [half, channels_first, computed_kernel, waiting_convolution],
    ids=lambda function: function.__name__,
)
def test_other_convolutions_stay(build):
    """Convolutions of another type or layout, or without a constant kernel, stay."""
    with on_images((None, 5, 6, 3)) as (graph, x):
        tf.identity(build(x), name="y")
    assert Trial(graph).apply(fold_chains) == 0


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("AddN", tf.add_n),
        ("Add", lambda values: tf.raw_ops.Add(x=values[0], y=values[1])),
        ("AddV2", lambda values: tf.raw_ops.AddV2(x=values[0], y=values[1])),
    ],
    ids=["AddN", "Add", "AddV2"],
)
def test_a_bias_is_added_before_the_other_branch(name, total, side):
    """The moved bias is folded, and the sum keeps its op."""
    with on_images() as (graph, x):
        branches = [conv(x), tf.nn.relu(conv(-x))]
        value = total(branches[:: -1 if side else 1])
        tf.nn.relu(value + vector(), name="y")
    trial = Trial(graph)
    assert trial.apply(move_biases) == 1
    assert trial.apply(fold_chains) == 1
    assert trial.ops[name] == trial.ops["BiasAdd"] == 1
    trial.assert_same(IMAGES)


def three(x, value):
    return tf.add_n([value, conv(-x), conv(2 * x)]) + vector()


def seen_twice(x, value):
    total = tf.add_n([value, conv(-x)])
    return total + vector() + tf.nn.relu(total)


def used_elsewhere(x, value):
    return tf.add_n([value, tf.nn.relu(value)]) + vector()


def no_contraction(x, value):
    return tf.add_n([tf.nn.relu(value), tf.nn.relu(-value)]) + vector()


def whole_map(x, value):
    return tf.add_n([value, tf.nn.relu(conv(-x))]) + numbers(5, 6, CHANNELS)


def waiting_sum(x, value):
    total, bias = tf.add_n([value, tf.nn.relu(conv(-x))]), tf.constant(vector())
    with tf.control_dependencies([tf.no_op()]):
        return total + bias


@pytest.mark.parametrize(
    "build",
    [three, seen_twice, used_elsewhere, no_contraction, whole_map, waiting_sum],
    ids=lambda function: function.__name__,
)
def test_other_sums_stay(build):
    """Sums of more than two, seen by others, or of no contraction stay."""
    with on_images() as (graph, x):
        tf.identity(build(x, conv(x)), name="y")
    trial = Trial(graph)
    assert trial.apply(move_biases) == 0
    trial.assert_same(IMAGES, exact=True)
