"""Nodes without effect go, constants are computed, and resizers take bytes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.runner.rewriting import passthrough
from modelserver.runner.rewriting.passthrough import (
    fold_constants,
    resize_bytes,
    strip_passthrough,
)
from support.rewriting_runs import Trial, numbers, on_images
from support.tiny_graphs import building

v1 = tf.compat.v1
IMAGES = numbers(2, 5, 6, 3)


@pytest.mark.parametrize(
    "passes",
    [
        tf.identity,
        tf.stop_gradient,
        lambda x: v1.placeholder_with_default(x, x.shape),
        lambda x: tf.raw_ops.PreventGradient(input=x),
        lambda x: tf.debugging.check_numerics(x, "bad"),
        lambda x: tf.identity(tf.stop_gradient(tf.identity(x))),
    ],
    ids=["Identity", "StopGradient", "Default", "PreventGradient", "Check", "three"],
)
def test_a_node_without_effect_goes(passes):
    """Its users take its input."""
    with on_images() as (graph, x):
        tf.nn.relu(passes(x), name="y")
    trial = Trial(graph)
    assert trial.apply(strip_passthrough) >= 1
    assert trial.ops == {"Placeholder": 1, "Relu": 1}
    trial.assert_same(IMAGES, exact=True)


def test_fed_and_fetched_nodes_stay():
    """Their names are the caller's."""
    with building() as graph:
        x = v1.placeholder_with_default(np.float32(1), (), "x")
        tf.identity(tf.identity(x), name="y")
    trial = Trial(graph)
    assert trial.apply(strip_passthrough) == 1
    assert set(trial.draft.nodes) >= {"x", "y"}
    trial.assert_same(7.0, exact=True)


def test_a_node_that_waits_or_is_waited_for_stays():
    """A loop's frame or an Assert may depend on it."""
    with on_images() as (graph, x):
        with tf.control_dependencies([tf.identity(x, name="waited_for")]):
            one = tf.constant(1.0)
        with tf.control_dependencies([tf.no_op()]):
            waits = tf.identity(x, name="waits")
        tf.add(waits, one, name="y")
    trial = Trial(graph)
    assert trial.apply(strip_passthrough) == 0
    trial.assert_same(IMAGES, exact=True)


def test_a_second_output_is_handed_on_as_such():
    """The user takes the input's second output, not its first."""
    with on_images((2, 3)) as (graph, x):
        _, second = tf.unstack(x)
        tf.nn.relu(tf.identity(second), name="y")
    trial = Trial(graph)
    trial.apply(strip_passthrough)
    assert "Identity" not in trial.ops
    trial.assert_same(numbers(2, 3), exact=True)


def test_a_node_that_waits_for_a_check_waits_for_its_input():
    """Inception of 2015 has such checks behind each convolution."""
    with on_images() as (graph, x):
        value = tf.nn.relu(x, name="value")
        with tf.control_dependencies([tf.debugging.check_numerics(value, "bad")]):
            checked = tf.identity(value)
            other = tf.add(x, x, name="other")
        tf.add(checked, other, name="y")
    trial = Trial(graph)
    trial.apply(strip_passthrough)
    assert trial.ops["CheckNumerics"] == trial.ops["Identity"] == 0
    assert list(trial.draft.nodes["other"].input) == ["x", "x", "^value"]
    trial.assert_same(IMAGES, exact=True)


def test_a_check_of_a_switch_is_left():
    """Waiting for a Switch would not show which of its sides is taken."""
    with on_images() as (graph, x):
        alive, _ = tf.raw_ops.Switch(data=x, pred=tf.constant(False))
        with tf.control_dependencies([tf.debugging.check_numerics(alive, "bad")]):
            tf.add(x, x, name="y")
    trial = Trial(graph)
    assert trial.apply(strip_passthrough) == 0
    assert trial.ops["CheckNumerics"] == 1


STEPS = {
    "Add": lambda a: tf.raw_ops.Add(x=a, y=np.float32(2)),
    "AddV2": lambda a: tf.raw_ops.AddV2(x=a, y=np.float32(2)),
    "ExpandDims": lambda a: tf.expand_dims(a, -1),
    "Identity": tf.identity,
    "Mul": lambda a: a * np.float32(1.5),
    "Neg": tf.negative,
    "RealDiv": lambda a: a / np.float32(3),
    "Reshape": lambda a: tf.reshape(a, [2, -1]),
    "Rsqrt": lambda a: tf.math.rsqrt(tf.abs(a) + 1),
    "Sqrt": lambda a: tf.sqrt(tf.abs(a)),
    "Square": tf.square,
    "Squeeze": lambda a: tf.squeeze(tf.reshape(a, [1, -1])),
    "Sub": lambda a: np.float32(1) - a,
}


def test_all_that_is_folded_is_tested():
    """Each op has its step."""
    assert set(STEPS) == set(passthrough._FOLDS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5))
def test_arithmetic_with_constants_is_done_once(steps):
    """In every order, the value is TensorFlow's own."""
    with on_images((None,)) as (graph, x):
        value = tf.constant(numbers(4))
        for step in steps:
            value = STEPS[step](value)
        tf.add(x[0], value, name="y")
    trial = Trial(graph)
    trial.apply(fold_constants)
    folded = {"Mul", "Reshape", "Rsqrt", "Sub", "Neg", "RealDiv", "Squeeze"}
    if "Abs" not in trial.ops:
        assert not folded & set(trial.ops)
    trial.assert_same(numbers(2))


def test_the_order_of_the_nodes_does_not_matter():
    """A file may hold its nodes in any order."""
    with on_images((None,)) as (graph, x):
        tf.add(x[0], -(tf.constant(2.0) * 3 + 1), name="y")
    trial = Trial(graph)
    trial.draft.nodes = dict(reversed(trial.draft.nodes.items()))
    trial.apply(fold_constants)
    assert not {"Mul", "Neg"} & set(trial.ops)
    trial.assert_same(numbers(2))


def fed_constant(x):
    return tf.constant(2.0, name="fed") * 3


def waiting(x):
    with tf.control_dependencies([x]):
        return tf.constant(2.0) * 3


def integers(x):
    return tf.cast(tf.constant(2) * 3, tf.float32)


def large(x):
    return tf.reduce_sum(tf.constant(np.ones((2, 6), np.float32)) * 3)


def spread(x):
    product = tf.constant(numbers(2, 1)) * tf.constant(numbers(1, 6))
    return tf.reduce_sum(product)


@pytest.mark.parametrize(
    "build", [fed_constant, waiting, integers, large, spread], ids=lambda b: b.__name__
)
def test_other_nodes_are_not_folded(build, monkeypatch):
    """A node that is fed, waits, is no float32 or is too large stays."""
    monkeypatch.setattr(passthrough, "_MAX_FOLDED", 10)
    with on_images((None,)) as (graph, x):
        tf.add(x[0], build(x), name="y")
    fed = ("x:0", "fed:0") if build is fed_constant else ("x:0",)
    trial = Trial(graph, fed=fed)
    trial.apply(fold_constants)
    assert trial.ops["Mul"] == 1
    trial.assert_same(numbers(2), *([5.0] if len(fed) > 1 else []))


def test_a_node_that_tensorflow_refuses_is_left_to_it():
    """A constant reshape that cannot be done fails when it is run, not at load."""
    with on_images((None,)) as (graph, _):
        tf.constant([1.0, 2.0, 3.0], name="values")
        tf.constant([2, 2], name="shape")
    trial = Trial(graph, fetched=())
    node = v1.NodeDef(name="y", op="Reshape", input=["values", "shape"])
    node.attr["T"].type = tf.float32.as_datatype_enum
    trial.draft.put(node)
    assert fold_constants(trial.draft) == 0
    assert trial.draft.nodes["y"].op == "Reshape"


def bytes_resized(between=tf.identity, **options):
    """Build a graph that resizes bytes after making them floats."""
    with building() as graph:
        x = v1.placeholder(tf.uint8, (None, None, None, 3), "x")
        floats = tf.cast(between(x), tf.float32)
        v1.image.resize_bilinear(floats, (7, 9), name="y", **options)
    return graph


@pytest.mark.parametrize(
    "options",
    [{}, {"align_corners": True}, {"half_pixel_centers": True}],
    ids=lambda options: next(iter(options), "plain"),
)
@pytest.mark.parametrize("size", [(31, 22), (5, 4)], ids=["smaller", "larger"])
def test_a_resizer_takes_bytes(options, size):
    """The answer is the same to the last bit as from a copy as floats."""
    trial = Trial(bytes_resized(**options))
    assert trial.apply(resize_bytes) == 1
    assert "Cast" not in trial.ops
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    trial.assert_same(images, exact=True)


def test_other_casts_stay():
    """Only casts of bytes to float32 go, and none that waits for another node."""
    with building() as graph:
        x = v1.placeholder(tf.int32, (None, None, None, 3), "x")
        v1.image.resize_bilinear(tf.cast(x, tf.float32), (7, 9), name="y")
    assert Trial(graph).apply(resize_bytes) == 0
    with building() as graph:
        x = v1.placeholder(tf.uint8, (None, None, None, 3), "x")
        with tf.control_dependencies([tf.no_op()]):
            floats = tf.cast(x, tf.float32)
        v1.image.resize_bilinear(floats, (7, 9), name="y")
    assert Trial(graph).apply(resize_bytes) == 0
    with building() as graph:
        x = v1.placeholder(tf.uint8, (None, None, None, 3), "x")
        v1.image.resize_bilinear(x, (7, 9), name="y")
    assert Trial(graph).apply(resize_bytes) == 0
