"""EfficientNet-Lite0: a PyTorch state dict in, a frozen classifier out.

The weights were trained with TensorFlow and carried over to PyTorch, so the graph is
built the way the original was: NHWC, TensorFlow's SAME padding, ReLU6. Batch norm is
folded into the convolutions, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import torch_files
from modelserver.tools.importing.graphdefs import GraphWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = 224
MEAN = 127
SCALE = 1 / 128
EPSILON = 1e-3  # of batch norm, as the network was trained

# Of the network's sixteen blocks, the stride of each; the rest is in the weights'
# shapes. Source: EfficientNet-Lite's block list, depth and width factor 1.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)

FLOAT = np.dtype(np.float32)
UINT8 = np.dtype(np.uint8)
INT32 = np.dtype(np.int32)


def convert(path: Path) -> bytes:
    """Return the frozen classification graph of the state dict in ``path``.

    The graph takes ``input`` uint8 [N, 224, 224, 3], pixels as they are, and gives
    ``scores`` float32 [N, 1000], which add up to 1.

    Raises:
        ConversionError: the file is no state dict of an EfficientNet-Lite0.
    """
    try:
        network = _Network(GraphWriter(), torch_files.read_state(path))
        network.write()
    except KeyError as err:
        raise ConversionError(f"{path.name} has no tensor {err}") from err
    return network.writer.serialise()


@dataclass
class _Network:
    """The network's layers; each method writes some and returns its output's name."""

    writer: GraphWriter
    state: dict[str, NDArray[Any]]

    def write(self) -> None:
        """Write the whole network, from ``input`` to ``scores``."""
        layer = self._pixels()
        layer = self._conv("stem", layer, "_conv_stem", "_bn0", stride=2)
        layer = self._relu6("stem", layer)
        for index, stride in enumerate(STRIDES):
            layer = self._block(index, layer, stride)
        layer = self._conv("head", layer, "_conv_head", "_bn1")
        layer = self._relu6("head", layer)
        self._classify(layer)

    def _pixels(self) -> str:
        """Write the input and its scaling to about -1..1."""
        node, const = self.writer.node, self.writer.const
        image = node("Placeholder", "input", dtype=UINT8, shape=(None, SIZE, SIZE, 3))
        wide = node("Cast", "pixels/Cast", [image], SrcT=UINT8, DstT=FLOAT)
        mean = const("pixels/mean", np.array(MEAN, FLOAT))
        scale = const("pixels/scale", np.array(SCALE, FLOAT))
        centred = node("Sub", "pixels/Sub", [wide, mean], T=FLOAT)
        return node("Mul", "pixels/Mul", [centred, scale], T=FLOAT)

    def _block(self, index: int, layer: str, stride: int) -> str:
        """Write an inverted residual block: expand, depthwise, project, add."""
        here, there = f"block_{index}", f"_blocks.{index}"
        start = layer
        if f"{there}._expand_conv.weight" in self.state:
            layer = self._conv(
                f"{here}/expand", layer, f"{there}._expand_conv", f"{there}._bn0"
            )
            layer = self._relu6(f"{here}/expand", layer)
        layer = self._conv(
            f"{here}/depthwise",
            layer,
            f"{there}._depthwise_conv",
            f"{there}._bn1",
            stride=stride,
            depthwise=True,
        )
        layer = self._relu6(f"{here}/depthwise", layer)
        layer = self._conv(
            f"{here}/project", layer, f"{there}._project_conv", f"{there}._bn2"
        )
        if stride == 1 and self._channels(index - 1) == self._channels(index):
            layer = self.writer.node("AddV2", f"{here}/add", [layer, start], T=FLOAT)
        return layer

    def _channels(self, index: int) -> int:
        """Return the output channels of block ``index``; -1 is the stem."""
        name = "_conv_stem" if index < 0 else f"_blocks.{index}._project_conv"
        return len(self.state[f"{name}.weight"])

    def _conv(
        self,
        name: str,
        layer: str,
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        depthwise: bool = False,
    ) -> str:
        """Write a convolution with its batch norm folded in."""
        kernel, bias = self._fold(conv, norm)
        # PyTorch: [out, in, h, w]. TensorFlow: [h, w, in, out], depthwise [h, w, c, 1].
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        weights = self.writer.const(f"{name}/weights", kernel.transpose(order))
        layer = self.writer.node(
            "DepthwiseConv2dNative" if depthwise else "Conv2D",
            f"{name}/conv",
            [layer, weights],
            T=FLOAT,
            strides=[1, stride, stride, 1],
            padding="SAME",
        )
        return self._add_bias(f"{name}/BiasAdd", layer, f"{name}/bias", bias)

    def _fold(self, conv: str, norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the float32 kernel and bias that do batch norm as well."""
        gamma, beta, mean, variance = (
            self.state[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + EPSILON)
        kernel = self.state[f"{conv}.weight"] * factor[:, None, None, None]
        return kernel.astype(FLOAT), (beta - mean * factor).astype(FLOAT)

    def _add_bias(self, name: str, layer: str, bias_name: str, bias: Any) -> str:
        bias = self.writer.const(bias_name, bias)
        return self.writer.node("BiasAdd", name, [layer, bias], T=FLOAT)

    def _relu6(self, name: str, layer: str) -> str:
        return self.writer.node("Relu6", f"{name}/Relu6", [layer], T=FLOAT)

    def _classify(self, layer: str) -> None:
        """Write the average over the picture, the last layer and the softmax."""
        node, const = self.writer.node, self.writer.const
        axes = const("classifier/axes", np.array([1, 2], INT32))
        mean = node("Mean", "classifier/Mean", [layer, axes], T=FLOAT, Tidx=INT32)
        weights = const("classifier/weights", self.state["_fc.weight"].T)
        product = node("MatMul", "classifier/MatMul", [mean, weights], T=FLOAT)
        logits = self._add_bias(
            "logits", product, "classifier/bias", self.state["_fc.bias"]
        )
        node("Softmax", "scores", [logits], T=FLOAT)
