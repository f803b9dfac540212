"""Building EfficientNet-Lite0 from a state dict, on a network of the same form but thin."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import efficientnet
from support import torch_files as made
from support.graph_runs import run

# Output channels of the blocks; equal neighbours with stride 1 are added up.
CHANNELS = (3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8, 8, 9)
KERNELS = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3)
STEM, HEAD, CLASSES = 4, 10, 6


def thin_state():
    """Random weights of every tensor that the network has."""
    rng = np.random.default_rng(7)
    state = {}

    def conv(name, *shape):
        state[f"{name}.weight"] = rng.normal(0, 0.5, shape).astype(np.float32)

    def norm(name, channels):
        for part in ("weight", "running_var"):
            values = rng.uniform(0.5, 1.5, channels).astype(np.float32)
            state[f"{name}.{part}"] = values
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = rng.normal(0, 1, channels).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(3, np.int64)

    conv("_conv_stem", STEM, 3, 3, 3)
    norm("_bn0", STEM)
    before = STEM
    for index, (channels, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
        block, wide = f"_blocks.{index}", before
        if index:
            wide = before * 2
            conv(f"{block}._expand_conv", wide, before, 1, 1)
            norm(f"{block}._bn0", wide)
        conv(f"{block}._depthwise_conv", wide, 1, kernel, kernel)
        norm(f"{block}._bn1", wide)
        conv(f"{block}._project_conv", channels, wide, 1, 1)
        norm(f"{block}._bn2", channels)
        before = channels
    conv("_conv_head", HEAD, before, 1, 1)
    norm("_bn1", HEAD)
    conv("_fc", CLASSES, HEAD)
    state["_fc.bias"] = rng.normal(0, 1, CLASSES).astype(np.float32)
    return state


def plainly(state, image):
    """Scores by TensorFlow's own functions in float64, batch norm not folded."""
    state = {name: array.astype(np.float64) for name, array in state.items()}

    def conv(layer, name, norm, stride=1, *, depthwise=False, relu=True):
        kernel = state[f"{name}.weight"]
        strides = [1, stride, stride, 1]
        if depthwise:
            kernel = kernel.transpose(2, 3, 0, 1)
            layer = tf.nn.depthwise_conv2d(layer, kernel, strides, "SAME")
        else:
            layer = tf.nn.conv2d(layer, kernel.transpose(2, 3, 1, 0), strides, "SAME")
        parts = ("running_mean", "running_var", "bias", "weight")
        layer = tf.nn.batch_normalization(
            layer, *(state[f"{norm}.{part}"] for part in parts), 1e-3
        )
        return tf.nn.relu6(layer) if relu else layer

    layer = conv((image.astype(np.float64) - 127) / 128, "_conv_stem", "_bn0", 2)
    for index in range(16):
        block, start = f"_blocks.{index}", layer
        stride = 2 if index in (1, 3, 5, 11) else 1
        if index:
            layer = conv(layer, f"{block}._expand_conv", f"{block}._bn0")
        layer = conv(
            *(layer, f"{block}._depthwise_conv", f"{block}._bn1", stride),
            depthwise=True,
        )
        layer = conv(layer, f"{block}._project_conv", f"{block}._bn2", relu=False)
        if layer.shape == start.shape:
            layer += start
    layer = tf.reduce_mean(conv(layer, "_conv_head", "_bn1"), [1, 2])
    return tf.nn.softmax(layer @ state["_fc.weight"].T + state["_fc.bias"]).numpy()


@pytest.fixture
def state():
    """A thin network's state dict."""
    return thin_state()


@pytest.fixture
def path(tmp_path, state):
    """The same in a file."""
    path = tmp_path / "thin.pth"
    path.write_bytes(made.whole_file(state))
    return path


def test_scores_are_those_of_the_network(path, state):
    """The graph gives the network's scores, computed layer by layer, on a batch of noise."""
    image = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    (scores,) = run(efficientnet.convert(path), ["scores"], {"input": image})
    assert scores.shape == (2, CLASSES)
    # float32 over sixteen blocks: 0.9e-5 off on one processor, others round otherwise.
    np.testing.assert_allclose(scores, plainly(state, image), atol=3e-5)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_the_input_takes_pixels_as_they_are(path):
    """The placeholder is uint8 of a fixed size, so that nothing has to be guessed."""
    graph = tf.compat.v1.GraphDef.FromString(efficientnet.convert(path))
    (node,) = [node for node in graph.node if node.op == "Placeholder"]
    assert node.name == "input"
    assert tf.dtypes.as_dtype(node.attr["dtype"].type) == tf.uint8
    assert [d.size for d in node.attr["shape"].shape.dim] == [-1, 224, 224, 3]


def test_conversion_is_repeatable(path):
    """The same weights are the same bytes."""
    assert efficientnet.convert(path) == efficientnet.convert(path)


def test_another_network_is_refused(tmp_path, state):
    """The tensor that is missing is named."""
    del state["_conv_head.weight"]
    path = tmp_path / "other.pth"
    path.write_bytes(made.whole_file(state))
    with pytest.raises(ConversionError, match=r"other\.pth has no tensor '_conv_head"):
        efficientnet.convert(path)
