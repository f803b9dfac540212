"""Taking apart the fused nodes of TensorFlow.js."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import tfjs
from modelserver.tools.importing.graphdefs import GraphWriter
from modelserver.tools.importing.tfjs_fused import unfuse
from support import foreign_models as made
from support import tfjs_models
from support.graph_runs import run

STEPS = {
    "Prelu": lambda x: tf.nn.relu(x) - made.weights(3, seed=5) * tf.nn.relu(-x),
    "Relu6": tf.nn.relu6,
    "Elu": tf.nn.elu,
    "Sigmoid": tf.sigmoid,
    "LeakyRelu": tf.nn.leaky_relu,
}


@pytest.mark.parametrize("activation", STEPS)
def test_a_fused_depthwise_convolution_is_what_its_parts_are(tmp_path, activation):
    """The result is convolution, bias and activation, one after the other."""
    source = made.graph_model(tmp_path / "model", activation=activation)
    writer = GraphWriter(tfjs.read_graph(source))
    unfuse(writer.graph)
    image = made.weights(1, made.SIZE, made.SIZE, 3)
    (got,) = run(writer.serialise(), ["depthwise"], {"image": image})
    plain = tf.nn.depthwise_conv2d(
        image, made.weights(3, 3, 3, 1), [1, 1, 1, 1], "SAME"
    )
    expected = STEPS[activation](plain + made.weights(3))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def fused(op, *activations):
    """A graph of one fused node."""
    ops = {"list": {"s": [list(name.encode()) for name in activations]}}
    node = tfjs_models.node(op, "fused", "a", "b", "c", "d", T={"type": 1})
    node["attr"]["fused_ops"] = ops
    return tfjs._graph([node], {})


@pytest.mark.parametrize("op", ["_FusedConv2D", "_FusedMatMul"])
def test_prelu_is_taken_out_of_other_nodes(op):
    """A Prelu that is fused in is written out, too."""
    graph = fused(op, "BiasAdd", "Prelu")
    unfuse(graph)
    assert [node.op for node in graph.node] == [
        op.removeprefix("_Fused"),
        *("BiasAdd", "Relu", "Neg", "Relu", "Mul", "Sub"),
    ]
    assert graph.node[-1].name == "fused"
    assert graph.node[1].input[1] == "c"
    assert graph.node[5].input[0] == "d"


def test_a_graph_without_such_a_node_stays():
    """Nothing is changed in it."""
    graph = tfjs._graph([tfjs_models.node("Relu", "a", "b", T={"type": 1})], {})
    before = graph.SerializeToString()
    unfuse(graph)
    assert graph.SerializeToString() == before


ACTIVATIONS = {
    "Relu": tf.nn.relu,
    "Relu6": tf.nn.relu6,
    "Elu": tf.nn.elu,
    "Sigmoid": tf.sigmoid,
    "Tanh": tf.tanh,
    "LeakyRelu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "Prelu": lambda x: tf.nn.relu(x) - made.weights(4, seed=5) * tf.nn.relu(-x),
}
OPS = {
    "_FusedConv2D": lambda x, k, **how: tf.nn.conv2d(x, k, 2, "SAME", **how),
    "FusedDepthwiseConv2dNative": lambda x, k: tf.nn.depthwise_conv2d(
        x, k, [1, 2, 2, 1], "SAME"
    ),
    "_FusedMatMul": lambda x, k: x @ tf.transpose(k),
}
KERNELS = {
    "_FusedConv2D": (3, 3, 2, 4),
    "FusedDepthwiseConv2dNative": (3, 3, 2, 2),
    "_FusedMatMul": (4, 2),
}


def run_fused(folder, op, steps, *, channels_first=False, **more):
    """Give what a model of one fused node answers, and the image it was shown."""
    shape = (3, 2) if op == "_FusedMatMul" else (1, 6, 8, 2)
    values = {"kernel": made.weights(*KERNELS[op]), "bias": made.weights(4)}
    values |= {f"norm{i}": np.abs(made.weights(4, seed=i)) for i in range(4)}
    values["slope"] = made.weights(4, seed=5)
    image = made.weights(*shape, seed=9)
    if channels_first:
        image = image.transpose(0, 3, 1, 2)
        values["slope"] = values["slope"].reshape(4, 1, 1)
    inputs = {
        "BiasAdd": ["bias"],
        "FusedBatchNorm": [f"norm{i}" for i in range(4)],
        "Prelu": ["slope"],
    }
    strides = [1, 1, 2, 2] if channels_first else [1, 2, 2, 1]
    where = {
        "strides": {"list": {"i": [str(side) for side in strides]}},
        "padding": {"s": "U0FNRQ=="},
        "data_format": {"s": list(b"NCHW" if channels_first else b"NHWC")},
    }
    by_op = {"transpose_b": {"b": True}} if op == "_FusedMatMul" else where
    node = tfjs_models.node(
        *(op, "fused", "image", "kernel"),
        *(name for step in steps for name in inputs.get(step, [])),
        **({"T": {"type": 1}} | by_op | more),
        fused_ops={"list": {"s": [list(step.encode()) for step in steps]}},
        leakyrelu_alpha={"f": 0.3},
        num_args={"i": "1"},
    )
    nodes = [
        tfjs_models.placeholder("image", "float32", *image.shape),
        *map(tfjs_models.const, values),
        node,
    ]
    specs = [tfjs_models.spec(name, array) for name, array in values.items()]
    data = b"".join(array.tobytes() for array in values.values())
    writer = GraphWriter(tfjs.read_graph(tfjs_models.write(folder, nodes, specs, data)))
    unfuse(writer.graph)
    assert not {one.op for one in writer.graph.node} & KERNELS.keys()
    (got,) = run(writer.serialise(), ["fused"], {"image": image})
    return got, image


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_fused_node_is_what_its_parts_are(tmp_path, op, activation):
    """Without TArgs, as TensorFlow.js writes it, the result is that of TensorFlow's own ops."""
    got, image = run_fused(tmp_path, op, ["BiasAdd", activation])
    plain = OPS[op](image, made.weights(*KERNELS[op])) + made.weights(4)
    expected = ACTIVATIONS[activation](plain).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["_FusedConv2D", "FusedDepthwiseConv2dNative"])
@pytest.mark.parametrize("activation", ["Relu", "Prelu"])
def test_channels_may_come_first(tmp_path, op, activation):
    """TensorFlow convolves channels last only, on a CPU."""
    got, image = run_fused(tmp_path, op, ["BiasAdd", activation], channels_first=True)
    plain = OPS[op](image.transpose(0, 2, 3, 1), made.weights(*KERNELS[op]))
    expected = ACTIVATIONS[activation](plain + made.weights(4)).numpy()
    np.testing.assert_allclose(
        got, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5
    )


def test_a_fused_batch_norm_uses_its_own_statistics(tmp_path):
    """The result is that of the norm in inference."""
    got, image = run_fused(
        tmp_path, "_FusedConv2D", ["FusedBatchNorm", "Relu6"], epsilon={"f": 0.01}
    )
    plain = OPS["_FusedConv2D"](image, made.weights(*KERNELS["_FusedConv2D"]))
    scale, offset, mean, variance = (
        np.abs(made.weights(4, seed=number)) for number in range(4)
    )
    normed = (plain - mean) / np.sqrt(variance + 0.01) * scale + offset
    np.testing.assert_allclose(got, tf.nn.relu6(normed), rtol=1e-4, atol=1e-5)


def test_nothing_may_be_fused_at_all(tmp_path):
    """A fused op without steps is the first op alone."""
    got, image = run_fused(tmp_path, "_FusedMatMul", [])
    expected = image @ made.weights(*KERNELS["_FusedMatMul"]).T
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_prelu_alone_is_written_out_too(tmp_path):
    """TensorFlow has no such op."""
    graph = tfjs._graph([tfjs_models.node("Prelu", "p", "a", "b")], {})
    unfuse(graph)
    assert [node.op for node in graph.node] == ["Relu", "Neg", "Relu", "Mul", "Sub"]
    assert (graph.node[-1].name, graph.node[3].input[0]) == ("p", "b")


def test_control_inputs_stay_with_the_first_part():
    """The first node waits for them."""
    node = tfjs_models.node("_FusedMatMul", "f", "a", "b", "c", "^w", T={"type": 1})
    node["attr"]["fused_ops"] = {"list": {"s": ["Qmlhc0FkZA=="]}}
    graph = tfjs._graph([node], {})
    unfuse(graph)
    assert [list(one.input) for one in graph.node] == [
        ["a", "b", "^w"],
        [graph.node[0].name, "c"],
    ]


def test_a_missing_input_is_named():
    """The error names the node that lacks an input."""
    node = tfjs_models.node("_FusedMatMul", "f", "a", "b", T={"type": 1})
    node["attr"]["fused_ops"] = {"list": {"s": ["Qmlhc0FkZA=="]}}
    with pytest.raises(ConversionError, match="f lacks an input"):
        unfuse(tfjs._graph([node], {}))


def test_an_unknown_step_is_refused():
    """A step that is not known is refused by its name."""
    with pytest.raises(ConversionError, match="fused has 'Gelu' fused in"):
        unfuse(fused("FusedDepthwiseConv2dNative", "Gelu"))
