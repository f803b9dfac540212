"""Reads a TensorFlow.js graph model: a GraphDef in JSON whose constants are empty."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import json_format
from tensorflow.core.framework import graph_pb2

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graphdefs, tfjs_files
from modelserver.tools.importing.tfjs_files import refusing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from modelserver.tools.importing.tfjs_files import Described


class Tensor(NamedTuple):
    """A tensor as the signature has it.

    Attributes:
        name: as TensorFlow writes it, ``node:0``.
        rank: its number of axes; ``None`` where the signature does not say.
    """

    name: str
    rank: int | None


def read(source: Path) -> Any:
    """Return the ``GraphDef`` of a graph model, with its weights.

    Args:
        source: its ``model.json`` or the folder that holds it and the shards.

    Raises:
        ConversionError: not a graph model, or not a whole one.
    """
    return graph_of(tfjs_files.read(source))


def graph_of(model: Described) -> Any:
    """Return the ``GraphDef`` of a graph model that was read; as :func:`read`."""
    with refusing():
        topology = model.content["modelTopology"]
        if topology.get("library", {}).get("function"):
            raise ConversionError(
                "the graph model holds functions; import the SavedModel it was made of"
            )
        return _graph(topology["node"], tfjs_files.weights(model))


def signature_of(model: Described) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a graph model's inputs and outputs, each by its key.

    Both are empty where the model was written without a signature.

    Raises:
        ConversionError: not a graph model.
    """
    with refusing():
        told = model.content.get("userDefinedMetadata") or {}
        written = model.content.get("signature") or told.get("signature") or {}
        inputs, outputs = (
            {str(key): _tensor(info, key) for key, info in sorted(part.items())}
            for part in (written.get("inputs", {}), written.get("outputs", {}))
        )
        return inputs, outputs


def _tensor(info: dict[str, Any], key: str) -> Tensor:
    name = str(info.get("name", key))
    shape = info.get("tensorShape") or {}
    sides = shape.get("dim")
    rank = len(sides) if isinstance(sides, list) else None
    if rank is None and shape.get("unknownRank") is False:
        rank = 0
    return Tensor(name if ":" in name else f"{name}:0", rank)


def _graph(nodes: list[dict[str, Any]], weights: dict[str, NDArray[Any]]) -> Any:
    """Build the GraphDef of the JSON ``nodes``."""
    graph = graph_pb2.GraphDef()
    for plain in nodes:
        name, op = plain["name"], plain["op"]
        node = graph.node.add(op=op, name=name, input=plain.get("input", ()))
        if op == "Const":
            if name not in weights:
                raise ConversionError(f"the manifest has no weight {name!r}")
            graphdefs.set_const(node, weights[name])
            continue
        for key, value in plain.get("attr", {}).items():
            # An underscore marks an optimiser's own note, of no use to others.
            if not key.startswith("_"):
                json_format.ParseDict(_with_base64(value), node.attr[key])
    return graph


def _with_base64(attr: dict[str, Any]) -> dict[str, Any]:
    """Turn byte strings that are lists of numbers into what protobuf's JSON has.

    TensorFlow.js writes ``"SAME"`` either way, by the version of its converter.
    """
    attr = dict(attr)
    if isinstance(attr.get("s"), list):
        attr["s"] = base64.b64encode(bytes(attr["s"])).decode()
    if "list" in attr:
        strings = (_with_base64({"s": s})["s"] for s in attr["list"].get("s", ()))
        attr["list"] = {**attr["list"], "s": list(strings)}
    return attr
