"""Taking apart the fused nodes of TensorFlow.js."""

import foreign_models as made
import numpy as np
import pytest
import tensorflow as tf
import tfjs_models
from graph_runs import run

from modelserver.conversion import tfjs
from modelserver.conversion.graphdefs import GraphWriter
from modelserver.conversion.tfjs_fused import unfused
from modelserver.errors import ConversionError

STEPS = {
    "Prelu": lambda x: tf.nn.relu(x) - made.weights(3, seed=5) * tf.nn.relu(-x),
    "Relu6": tf.nn.relu6,
    "Elu": tf.nn.elu,
    "Sigmoid": tf.sigmoid,
    "LeakyRelu": tf.nn.leaky_relu,
}


@pytest.mark.parametrize("activation", STEPS)
def test_a_fused_depthwise_convolution_is_what_its_parts_are(tmp_path, activation):
    """Convolution, bias and activation, one after the other."""
    source = made.graph_model(tmp_path / "model", activation=activation)
    writer = GraphWriter(tfjs.read(source))
    unfused(writer.graph)
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
    """TensorFlow's own fused nodes know no Prelu."""
    graph = fused(op, "BiasAdd", "Prelu")
    unfused(graph)
    assert [node.op for node in graph.node] == [
        op.removeprefix("_Fused"),
        *("BiasAdd", "Relu", "Neg", "Relu", "Mul", "Sub"),
    ]
    assert graph.node[-1].name == "fused"
    assert graph.node[1].input[1] == "c"
    assert graph.node[5].input[0] == "d"


def test_what_tensorflow_runs_stays(tmp_path):
    """A graph without such a node is left as it is."""
    graph = fused("_FusedConv2D", "BiasAdd", "Relu")
    before = graph.SerializeToString()
    unfused(graph)
    assert graph.SerializeToString() == before


def test_an_unknown_step_is_refused():
    """What is fused in must be known."""
    with pytest.raises(ConversionError, match="fused has 'Gelu' fused in"):
        unfused(fused("FusedDepthwiseConv2dNative", "Gelu"))
