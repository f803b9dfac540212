"""Plain nodes in place of those that TensorFlow.js's converter fused.

TensorFlow has kernels of the same names for some, which need attributes that
TensorFlow.js does not write, and know fewer steps; plain nodes always work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow.core.framework import node_def_pb2, types_pb2

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.graphdefs import set_const

if TYPE_CHECKING:
    from collections.abc import Iterable

# Each fused op, and the op that it starts with.
_FUSED = {
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedConv2D": "Conv2D",
    "_FusedMatMul": "MatMul",
}
_PRELU = "Prelu"
_PLAIN = {"Relu", "Relu6", "Elu", "Sigmoid", "Tanh", "Selu", "Softplus"}
# Attributes of the fused op that the first op has too.
_KEPT = (
    *("strides", "padding", "explicit_paddings", "data_format", "dilations"),
    *("transpose_a", "transpose_b"),
)
_BY_AXIS = ("strides", "dilations")
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_EPSILON = 1e-3  # of FusedBatchNorm, if a node does not say


def unfuse(graph: Any) -> None:
    """Replace the fused nodes by plain ones, in place.

    The last of them has the fused node's name, so the nodes that use it find it.

    Raises:
        ConversionError: something unknown is fused in, or an input is missing.
    """
    nodes = list(graph.node)
    if not any(node.op in _FUSED or node.op == _PRELU for node in nodes):
        return
    del graph.node[:]
    for node in nodes:
        if node.op in _FUSED:
            graph.node.extend(_Parts(node).make())
        elif node.op == _PRELU:
            graph.node.extend(_Parts(node).make_prelu())
        else:
            graph.node.append(node)


class _Parts:
    """The plain nodes that one fused node stands for.

    On a CPU convolutions take channels last only; if they come first, the steps that
    work by channel stand between two transpositions.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        data = [name for name in node.input if not name.startswith("^")]
        self._control = [name for name in node.input if name.startswith("^")]
        self._first, self._rest = data[:2], data[2:]
        self._nodes: list[Any] = []
        self._channels_first = node.attr["data_format"].s == b"NCHW"
        self._type = node.attr["T"].type or types_pb2.DT_FLOAT
        if len(self._first) < 2:  # noqa: PLR2004 - image and kernel
            raise ConversionError(f"{node.name} has no two inputs")

    def make(self) -> list[Any]:
        """Return them: the convolution or product, the bias, the rest."""
        image, kernel = self._first
        turned, by_channel = self._channels_first, True
        if turned:
            image = self._transpose(image, _TO_NHWC)
        last = self._add(_FUSED[self._node.op], [image, kernel])
        self._copy_attributes(self._nodes[-1])
        fused = self._node.attr["fused_ops"].list.s
        steps = [step.decode(errors="replace") for step in fused]
        for step in steps:
            if turned and by_channel and step not in {"BiasAdd", "FusedBatchNorm"}:
                last, by_channel = self._transpose(last, _TO_NCHW), False
            last = self._step(step, last)
        if turned and by_channel:
            self._transpose(last, _TO_NCHW)
        return self._finish()

    def make_prelu(self) -> list[Any]:
        """Return those of a Prelu that nothing is fused with."""
        self._rest = self._first[1:]
        self._step(_PRELU, self._first[0])
        return self._finish()

    def _finish(self) -> list[Any]:
        """Return the nodes, the last with the fused node's name."""
        self._nodes[-1].name = self._node.name
        self._nodes[0].input.extend(self._control)
        return self._nodes

    def _add(self, op: str, inputs: Iterable[str], *, typed: bool = True) -> str:
        name = f"{self._node.name}/unfused_{len(self._nodes)}"
        node = node_def_pb2.NodeDef(op=op, name=name, input=inputs)
        if typed:
            node.attr["T"].type = self._type
        self._nodes.append(node)
        return name

    def _copy_attributes(self, first: Any) -> None:
        for key in _KEPT:
            if key in self._node.attr:
                first.attr[key].CopyFrom(self._node.attr[key])
        if not self._channels_first:
            return
        first.attr["data_format"].s = b"NHWC"
        for key in _BY_AXIS:
            sides = list(first.attr[key].list.i)
            if len(sides) == len(_TO_NHWC):
                first.attr[key].list.i[:] = [sides[axis] for axis in _TO_NHWC]
        pads = list(first.attr["explicit_paddings"].list.i)
        if pads:
            first.attr["explicit_paddings"].list.i[:] = [
                pads[2 * axis + end] for axis in _TO_NHWC for end in (0, 1)
            ]

    def _transpose(self, before: str, order: tuple[int, ...]) -> str:
        axes = self._add("Const", [], typed=False)
        set_const(self._nodes[-1], np.array(order, np.int32))
        last = self._add("Transpose", [before, axes])
        self._nodes[-1].attr["Tperm"].type = types_pb2.DT_INT32
        return last

    def _argument(self) -> str:
        if not self._rest:
            raise ConversionError(f"{self._node.name} lacks an input of what it fuses")
        argument: str = self._rest.pop(0)
        return argument

    def _step(self, step: str, before: str) -> str:
        """Add the nodes of one step and return the name of the last."""
        if step == "BiasAdd":
            return self._add(step, [before, self._argument()])
        if step == "FusedBatchNorm":
            return self._norm(before)
        if step == _PRELU:
            return self._prelu(before, self._argument())
        if step == "LeakyRelu":
            last = self._add(step, [before])
            if "leakyrelu_alpha" in self._node.attr:
                alpha = self._node.attr["leakyrelu_alpha"]
                self._nodes[-1].attr["alpha"].CopyFrom(alpha)
            return last
        if step not in _PLAIN:
            raise ConversionError(
                f"{self._node.name} has {step!r} fused in, which is not known"
            )
        return self._add(step, [before])

    def _norm(self, before: str) -> str:
        """Add the batch norm of a trained model: scale, offset, mean, variance."""
        inputs = [before, *(self._argument() for _ in range(4))]
        last = self._add("FusedBatchNormV3", inputs)
        attr = self._nodes[-1].attr
        attr["U"].type = types_pb2.DT_FLOAT
        attr["epsilon"].f = self._node.attr["epsilon"].f or _EPSILON
        attr["is_training"].b = False
        return last

    def _prelu(self, before: str, slope: str) -> str:
        """Write Prelu out: ``relu(x) - slope * relu(-x)``."""
        positive = self._add("Relu", [before])
        negated = self._add("Neg", [before])
        negative = self._add("Relu", [negated])
        scaled = self._add("Mul", [slope, negative])
        return self._add("Sub", [positive, scaled])
