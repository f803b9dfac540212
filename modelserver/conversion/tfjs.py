"""Reads a TensorFlow.js graph model: ``model.json`` and its binary shards.

The topology is a GraphDef in JSON whose constants are empty; their values lie one
after the other in the shards, as the weights manifest says, where the quantised ones
are small integers with a scale and a minimum.
"""

from __future__ import annotations

import base64
import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format
from tensorflow.core.framework import graph_pb2

from modelserver.conversion import graphdefs
from modelserver.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1"}
QUANTISED = {"uint8": "|u1", "uint16": "<u2", "float16": "<f2"}


def read(folder: Path) -> Any:
    """Return the ``GraphDef`` of the graph model in ``folder``, with its weights.

    Args:
        folder: holds ``model.json`` and the shards that it names.

    Raises:
        ConversionError: not a graph model, or not a whole one.
    """
    with _refusing():
        model = json.loads((folder / "model.json").read_bytes())
        _refuse_other_kinds(model)
        weights = dict(_weights(model["weightsManifest"], folder))
        return _graph(model["modelTopology"]["node"], weights)


def read_signature(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return a graph model's inputs and outputs, each by its key, as tensor names.

    Both are empty where the model was written without a signature.

    Raises:
        ConversionError: not a graph model.
    """
    with _refusing():
        model = json.loads((folder / "model.json").read_bytes())
        written = model.get("signature")
        written = written or model.get("userDefinedMetadata", {}).get("signature", {})
        inputs, outputs = (
            {str(key): _tensor(info["name"]) for key, info in sorted(part.items())}
            for part in (written.get("inputs", {}), written.get("outputs", {}))
        )
        return inputs, outputs


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a file that is something else leads to into one error."""
    try:
        yield
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        json_format.ParseError,
    ) as err:
        raise ConversionError(f"not a whole TensorFlow.js graph model: {err}") from err
    except OSError as err:
        raise ConversionError(f"{err.filename}: {err.strerror}") from err


def _refuse_other_kinds(model: dict[str, Any]) -> None:
    """Refuse what TensorFlow.js loads too, but is no graph."""
    topology = model["modelTopology"]
    if model.get("format") == "layers-model" or "model_config" in topology:
        raise ConversionError(
            "this is a TensorFlow.js layers model, not a graph model; import the Keras "
            "or SavedModel file that it was made of (Teachable Machine exports both)"
        )
    if topology.get("library", {}).get("function"):
        raise ConversionError(
            "the graph model holds functions; import the SavedModel it was made of"
        )


def _graph(nodes: list[dict[str, Any]], weights: dict[str, NDArray[Any]]) -> Any:
    """Build the GraphDef of the JSON ``nodes``."""
    graph = graph_pb2.GraphDef()
    for plain in nodes:
        name, op = plain["name"], plain["op"]
        node = graph.node.add(op=op, name=name, input=plain.get("input", ()))
        if op == "Const":
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


def _weights(
    manifest: list[dict[str, Any]], folder: Path
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and value of every weight in the manifest."""
    for group in manifest:
        data = b"".join(_shard(folder, name) for name in group["paths"])
        start = 0
        for spec in group["weights"]:
            stored = _stored_dtype(spec)
            end = start + stored.itemsize * math.prod(spec["shape"])
            flat = np.frombuffer(data[start:end], stored)
            yield spec["name"], _value(flat, spec).reshape(spec["shape"])
            start = end
        if start != len(data):
            raise ConversionError(
                f"the shards hold {len(data)} bytes, the manifest says {start}"
            )


def _shard(folder: Path, name: str) -> bytes:
    """Read one shard, which lies beside ``model.json`` and nowhere else."""
    if "/" in name or "\\" in name:
        raise ConversionError(f"the shard {name!r} is not beside model.json")
    return (folder / name).read_bytes()


def _stored_dtype(spec: dict[str, Any]) -> np.dtype[Any]:
    """Return the dtype in which a weight lies in the shards."""
    if "quantization" in spec:
        return np.dtype(QUANTISED[spec["quantization"]["dtype"]])
    return np.dtype(DTYPES[spec["dtype"]])


def _value(flat: NDArray[Any], spec: dict[str, Any]) -> NDArray[Any]:
    """Return a weight's values in the dtype that its constant has."""
    wanted = np.dtype(DTYPES[spec["dtype"]])
    quantisation = spec.get("quantization", {})
    if "scale" in quantisation:
        wide = flat * np.float64(quantisation["scale"]) + quantisation["min"]
        flat = wide if wanted.kind == "f" else np.rint(wide)
    return flat.astype(wanted)
