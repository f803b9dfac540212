"""Subgraphs of constants are evaluated, and nothing else is."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.runner.graphs import constants
from modelserver.runner.graphs.array_ops import FOLDED
from modelserver.runner.graphs.constants import constant, is_dead
from support import tiny_graphs

v1 = tf.compat.v1
raw = tf.raw_ops

WHOLE = np.array([[-7, 3, 2], [5, 8, -4]], np.int32)
REAL = np.array([[0.5, 0.25, 0.75], [0.1, 0.9, 0.6]], np.float32)
TRUTH = np.array([[True, False, True], [False, False, True]])
AXES = np.array([1], np.int32)

# Op to the inputs and attributes that it is tried with, beyond one or two REALs.
UNARY = (
    *("Abs", "Ceil", "Cos", "Exp", "Expm1", "Floor", "Identity", "Inv", "Log", "Log1p"),
    *("Neg", "OnesLike", "PreventGradient", "Reciprocal", "Relu", "Rint", "Round"),
    *("Rsqrt", "Sigmoid", "Sign", "Sin", "Snapshot", "Sqrt", "Square", "Tanh"),
    *("ZerosLike", "GuaranteeConst"),
)
BINARY = (
    *("Add", "AddV2", "Div", "DivNoNan", "Equal", "FloorDiv", "Greater", "Less"),
    *("GreaterEqual", "LessEqual", "Maximum", "Minimum", "Mul", "NotEqual", "Pow"),
    *("RealDiv", "SquaredDifference", "Sub"),
)
OTHERS = {
    "All": (TRUTH, AXES),
    "Any": (TRUTH, AXES),
    "BiasAdd": (REAL, REAL[0]),
    "BroadcastTo": (REAL, np.array([4, 2, 3])),
    "CheckNumerics": (REAL, {"message": "no"}),
    "Cast": (REAL * 10, {"DstT": tf.int32}),
    "Concat": (np.int32(1), [REAL, REAL]),
    "ConcatV2": ([REAL, REAL], np.int32(0)),
    "Div": (WHOLE, np.int32(2)),
    "EnsureShape": (REAL, {"shape": (2, 3)}),
    "ExpandDims": (REAL, np.int32(-1)),
    "Fill": (np.array([2, 2]), np.float32(7)),
    "FloorDiv": (WHOLE, np.int32(2)),
    "Gather": (REAL, np.array([1, 0])),
    "GatherV2": (REAL, np.array([2, 0]), np.int32(1)),
    "InvertPermutation": (np.array([2, 0, 1]),),
    "LinSpace": (np.float32(0), np.float32(1), np.int32(5)),
    "LogicalAnd": (TRUTH, ~TRUTH),
    "LogicalNot": (TRUTH,),
    "LogicalOr": (TRUTH, ~TRUTH),
    "MatMul": (REAL, REAL, {"transpose_b": True}),
    "Max": (REAL, AXES),
    "Mean": (REAL, np.array([0, 1])),
    "Min": (REAL, AXES, {"keep_dims": True}),
    "OneHot": (np.array([0, 2]), np.int32(3), np.float32(1), np.float32(0)),
    "Pack": ([REAL, REAL], {"axis": 1}),
    "Pad": (REAL, np.array([[1, 0], [0, 2]])),
    "PadV2": (REAL, np.array([[1, 0], [0, 2]]), np.float32(9)),
    "Prod": (REAL, AXES),
    "Range": (np.int32(3), np.int32(11), np.int32(3)),
    "Reshape": (REAL, np.array([3, -1])),
    "ReverseV2": (REAL, AXES),
    "SelectV2": (TRUTH, REAL, -REAL),
    "Slice": (REAL, np.array([0, 1]), np.array([1, -1])),
    "Split": (np.int32(1), REAL, {"num_split": 3}),
    "SplitV": (REAL, np.array([1, 2]), np.int32(1), {"num_split": 2}),
    "Squeeze": (REAL[None], {"axis": [0]}),
    "StopGradient": (REAL,),
    "StridedSlice": (
        *(REAL, np.array([0, 2]), np.array([0, 0]), np.array([1, -1])),
        {"shrink_axis_mask": 1, "end_mask": 2},
    ),
    "Sum": (REAL, AXES),
    "Tile": (REAL, np.array([1, 2])),
    "Transpose": (REAL, np.array([1, 0])),
    "TruncateDiv": (WHOLE, np.int32(2)),
    "Unpack": (REAL, {"num": 3, "axis": 1}),
}
CASES = [
    *((name, (REAL,)) for name in UNARY),
    *((name, (REAL, REAL[::-1].copy())) for name in BINARY),
    *OTHERS.items(),
]


def built(name, given):
    """Add an op by its raw name; a dict at the end holds attributes."""
    *inputs, attrs = given if isinstance(given[-1], dict) else (*given, {})
    function = getattr(raw, name)
    names = list(function.__signature__.parameters)
    attrs = {key: value for key, value in attrs.items() if key in names}
    return function(**dict(zip(names, inputs, strict=False)), **attrs)


@pytest.mark.parametrize(("name", "given"), CASES, ids=[name for name, _ in CASES])
def test_an_op_is_computed_as_tensorflow_does(name, given):
    """Each op that is folded gives a session's result, dtype included."""
    with tiny_graphs.building() as graph:
        made = built(name, given)
    outputs = made if isinstance(made, list) else [made]
    with v1.Session(graph=graph) as session:
        wanted = session.run(outputs)
    for output, want in zip(outputs, wanted, strict=True):
        got = constant(output)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_each_op_that_is_folded_is_tried():
    """No op is folded that the test above leaves out."""
    assert {name for name, _ in CASES} == set(FOLDED)


def test_a_value_behind_a_placeholder_is_no_constant():
    """A value that depends on a placeholder is no constant."""
    with tiny_graphs.building():
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        assert constant(image) is None
        assert constant(tf.sqrt(tf.reduce_mean(image))) is None


def test_a_control_input_carries_no_value():
    """A constant that waits for the image is a constant."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        with graph.control_dependencies([image]):
            made = tf.sqrt(tf.constant([4.0, 9.0]))
    assert constant(made).tolist() == [2, 3]


def test_an_op_without_an_output_may_come_first():
    """Ops without outputs only wait for others, and do no harm."""
    with tiny_graphs.building() as graph, graph.control_dependencies([tf.no_op()]):
        made = tf.sqrt(tf.constant(4.0))
    assert constant(made) == 2


def test_a_shape_that_is_known_is_a_constant():
    """A known shape is the same for every image."""
    with tiny_graphs.building():
        image = v1.placeholder(tf.float32, (1, 8, 6, 3), "input")
        assert constant(tf.raw_ops.Shape(input=image)).tolist() == [1, 8, 6, 3]
        assert constant(tf.raw_ops.Rank(input=image)) == 4
        assert constant(tf.raw_ops.Size(input=image)) == 144
        some = v1.placeholder(tf.float32, (None, 8, 6, 3), "some")
        assert constant(tf.raw_ops.Shape(input=some)) is None


@pytest.mark.parametrize(
    "made",
    [
        lambda: tf.random.normal((2,)),
        lambda: v1.random_uniform((2,)) * 0.0,
        lambda: v1.Variable([1.0], use_resource=False).value(),
        lambda: tf.while_loop(lambda i: i < 5, lambda i: i + 1, [tf.constant(0)]),
        tf.timestamp,
    ],
    ids=["random", "random times 0", "variable", "loop", "clock"],
)
@pytest.mark.parametrize("old_loops", [True, False])
def test_random_numbers_state_and_loops_are_none(made, old_loops):
    """Such ops have no one value, or none that is known to end."""
    with tiny_graphs.building(old_loops=old_loops):
        value = made()
        assert constant(value[0] if isinstance(value, list) else value) is None


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        (lambda: v1.placeholder_with_default(True, (), "is_training"), 2),
        (lambda: v1.placeholder_with_default(False, (), "inference_mode"), 1),
        (lambda: v1.placeholder(tf.bool, (), "phase_train"), 2),
        (lambda: tf.constant(value=True), 1),
    ],
    ids=["training", "inference", "fed", "fixed"],
)
def test_a_training_switch_counts_as_for_inference(switch, value):
    """The branch for training is dead, and its value does not count."""
    with tiny_graphs.building(old_loops=True):
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        made = v1.cond(
            switch(),
            lambda: (
                tf.constant(1.0) + 0 * tf.reduce_mean(image)
                if value == 2
                else tf.constant(1.0)
            ),
            lambda: tf.constant(2.0),
        )
    assert constant(made) == value


def test_a_branch_that_is_not_taken_is_dead():
    """A dead branch may work on the image."""
    with tiny_graphs.building(old_loops=True):
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        training = v1.placeholder_with_default(True, (), "is_training")
        off, on = raw.Switch(data=image, pred=training)
        assert is_dead(tf.square(on))
        assert not is_dead(tf.square(off))
        assert constant(tf.square(off)) is None


def test_a_number_with_a_default_of_another_name_has_it():
    """Nobody feeds such a number, so the default is run."""
    with tiny_graphs.building():
        assert constant(v1.placeholder_with_default(3.0, (), "offset") * 2) == 6


def test_an_image_with_a_default_is_none():
    """A photo replaces the default, so it is no constant."""
    with tiny_graphs.building():
        image = v1.placeholder_with_default(np.zeros((1, 2, 2, 3)), None, "input")
        assert constant(image + 1.0) is None


@pytest.mark.parametrize(
    "made",
    [
        lambda: tf.fill([1 << 20, 1 << 20], 0.0),
        lambda: tf.tile([[1.0]], [1 << 20, 1 << 20]),
        lambda: tf.broadcast_to(1.0, [1 << 20, 1 << 20]),
        lambda: tf.fill([1 << 20, 1], 0.0) * tf.fill([1, 1 << 20], 0.0),
        lambda: tf.matmul(tf.fill([1 << 20, 1], 0.0), tf.fill([1, 1 << 20], 0.0)),
        lambda: raw.OneHot(indices=[1], depth=1 << 30, on_value=1.0, off_value=0.0),
        lambda: raw.OneHot(
            indices=np.zeros(0, "int32"), depth=1 << 30, on_value=1.0, off_value=0.0
        ),
        lambda: tf.pad([1.0], [[0, 1 << 30]]),
        lambda: tf.range(1 << 30),
        lambda: tf.linspace(0.0, 1.0, 1 << 30),
        lambda: tf.gather(tf.zeros([8]), tf.zeros([1 << 10, 1 << 13], "int32")),
        lambda: raw.FloorDiv(x=1, y=0),
    ],
    ids=[
        *("fill", "tile", "broadcast", "outer", "matmul", "one hot"),
        *("one hot of nothing", "pad", "range", "linspace", "gather", "over zero"),
    ],
)  # fmt: skip
def test_an_array_of_any_size_is_no_constant(made):
    """The size is known before the op is computed."""
    with tiny_graphs.building():
        assert constant(made()) is None


HOSTILE = st.sampled_from([-(2**31), -5, -1, 0, 1, 2, 3, 1 << 20, 2**31 - 1])


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.sampled_from(CASES), st.data())
def test_an_op_stays_within_the_limits_for_all_inputs(case, data):
    """A result is an array within the limits or none, and never an error."""
    name, given_to = case

    def hostile(value):
        if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind != "i":
            return value
        numbers = data.draw(st.lists(HOSTILE, min_size=value.size, max_size=value.size))
        return np.array(numbers, value.dtype).reshape(np.shape(value))

    with tiny_graphs.building():
        try:
            made = built(name, tuple(map(hostile, given_to)))
        except (ValueError, OverflowError):
            return  # TensorFlow itself does not build it
        for output in made if isinstance(made, list) else [made]:
            value = constant(output)
            assert value is None or value.nbytes <= constants.MAX_BYTES


def test_a_graph_may_cost_a_second_and_no_more(monkeypatch):
    """Arrays of the largest size are folded until the work is spent."""
    monkeypatch.setattr(constants, "MAX_WORK", 1 << 20)
    with tiny_graphs.building():
        values = [tf.fill([1 << 18], 1.0) + float(number) for number in range(8)]
    known = [constant(value) is not None for value in values]
    assert known[0]
    assert not known[-1]


def test_a_constant_that_cannot_be_read_is_none():
    """Bytes that do not fill the shape fail when they are run."""
    with tiny_graphs.building() as graph:
        tf.sqrt(tf.constant([1.0, 2.0], name="bad"), name="root")
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        if node.name == "bad":
            node.attr["value"].tensor.tensor_content = b"123"
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    assert constant(graph.get_tensor_by_name("root:0")) is None
    assert constant(graph.get_tensor_by_name("bad:0")) is None


def test_a_deep_graph_is_read():
    """A deep graph is read without recursion, each op once."""
    with tiny_graphs.building():
        value = tf.constant(0.0)
        for _ in range(3000):
            value = value + value
        assert constant(value + 1.0) == 1


def test_known_constants_do_not_keep_the_graph():
    """A graph that nobody holds any more is collected."""
    with tiny_graphs.building() as graph:
        assert constant(tf.sqrt(4.0)) == 2
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None
