"""Takes apart the fused nodes of TensorFlow.js that TensorFlow cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorflow.core.framework import node_def_pb2

from modelserver.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each fused op, and the op that it starts with. TensorFlow's own _FusedConv2D and
# _FusedMatMul know most of what TensorFlow.js fuses, but not Prelu.
_FUSED = {
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedConv2D": "Conv2D",
    "_FusedMatMul": "MatMul",
}
_UNKNOWN_TO_TENSORFLOW = "FusedDepthwiseConv2dNative"
_ACTIVATIONS = {"Relu", "Relu6", "Elu", "Sigmoid", "Tanh", "LeakyRelu"}
# Attributes of the fused op that the first op has too.
_KEPT = (
    *("T", "strides", "padding", "explicit_paddings", "data_format", "dilations"),
    *("transpose_a", "transpose_b"),
)


def unfused(graph: Any) -> None:
    """Replace the fused nodes that TensorFlow cannot run by plain ones, in place.

    The last of them has the fused node's name, so whatever uses it finds it.

    Raises:
        ConversionError: something unknown is fused in.
    """
    nodes = list(graph.node)
    if not any(map(_must_go, nodes)):
        return
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_parts(node) if _must_go(node) else [node])


def _must_go(node: Any) -> bool:
    """Tell whether TensorFlow has no kernel for a node as it is."""
    if node.op not in _FUSED:
        return False
    return node.op == _UNKNOWN_TO_TENSORFLOW or b"Prelu" in _fused_ops(node)


def _fused_ops(node: Any) -> list[bytes]:
    ops: list[bytes] = list(node.attr["fused_ops"].list.s)
    return ops


def _parts(node: Any) -> Iterator[Any]:
    """Give a fused node's parts: the convolution or product, the bias, the rest."""
    made = [node_def_pb2.NodeDef(op=_FUSED[node.op], input=node.input[:2])]
    for key in _KEPT:
        if key in node.attr:
            made[0].attr[key].CopyFrom(node.attr[key])
    rest = list(node.input[2:])
    for number, fused in enumerate(map(bytes.decode, _fused_ops(node))):
        made[-1].name = f"{node.name}/unfused_{number}"
        made += _step(fused, made[-1].name, node, rest)
    made[-1].name = node.name
    yield from made


def _step(fused: str, before: str, node: Any, rest: list[str]) -> list[Any]:
    """Give the nodes of one fused step; all but the last have their names."""
    dtype = node.attr["T"]
    if fused == "BiasAdd":
        steps = [node_def_pb2.NodeDef(op="BiasAdd", input=[before, rest.pop(0)])]
        if "data_format" in node.attr:
            steps[0].attr["data_format"].CopyFrom(node.attr["data_format"])
    elif fused == "Prelu":
        steps = _prelu(before, rest.pop(0))
    elif fused in _ACTIVATIONS:
        steps = [node_def_pb2.NodeDef(op=fused, input=[before])]
        if fused == "LeakyRelu" and "leakyrelu_alpha" in node.attr:
            steps[0].attr["alpha"].CopyFrom(node.attr["leakyrelu_alpha"])
    else:
        raise ConversionError(f"{node.name} has {fused!r} fused in, which is not known")
    for step in steps:
        step.attr["T"].CopyFrom(dtype)
    return steps


def _prelu(before: str, slope: str) -> list[Any]:
    """Write Prelu out: ``relu(x) - slope * relu(-x)``."""
    made = []
    for op, name, *inputs in (
        ("Relu", "positive", before),
        ("Neg", "negated", before),
        ("Relu", "negative", f"{before}/negated"),
        ("Mul", "scaled", slope, f"{before}/negative"),
        ("Sub", "", f"{before}/positive", f"{before}/scaled"),
    ):
        full = f"{before}/{name}" if name else ""
        made.append(node_def_pb2.NodeDef(op=op, name=full, input=inputs))
    return made
