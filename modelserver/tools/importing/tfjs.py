"""The files of TensorFlow.js models: the description, the binary shards, the graph.

The description is ``model.json``, or a file of another name if the model was renamed.
Its weights lie one after the other in the shards, as the weights manifest says, where
the quantised ones are small integers with a scale and a minimum. A graph model's
description is a ``GraphDef`` in JSON whose constants are empty.
"""

from __future__ import annotations

import base64
import json
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from google.protobuf import json_format
from tensorflow.core.framework import graph_pb2

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graphdefs
from modelserver.tools.importing.source_models import (
    MAX_DESCRIPTION_BYTES,
    MAX_WEIGHT_BYTES,
    refuse_pointer,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DESCRIPTION = "model.json"
DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1"}
QUANTISED = {"uint8": "|u1", "uint16": "<u2", "float16": "<f2"}
_MAX_LOOKED_INTO = 64
# NumPy has no more axes; and no more than the shards' bytes lie along one.
_MAX_RANK, _MAX_SIDE = 64, 1 << 31
# The endings of a lone shard that was renamed with its description.
_RENAMED = (".bin", ".weights.bin")
# A name may be the address of a download: weights.bin?alt=media&token=...
_ADDRESS = re.compile(r"(?:https?://)?(?:[^?#]*/)?([^/?#]+)(?:[?#].*)?")


@dataclass(frozen=True)
class Described:
    """A model's description.

    Attributes:
        path: the file.
        content: the JSON object in it.
    """

    path: Path
    content: dict[str, Any]

    @property
    def is_layers_model(self) -> bool:
        """Whether the model is described by Keras's layers, not by a graph's nodes."""
        topology = self.content.get("modelTopology")
        if self.content.get("format") == "layers-model":
            return True
        return isinstance(topology, dict) and bool(
            topology.keys() & {"model_config", "class_name"}
        )


def find_description(source: Path) -> Path | None:
    """Find the description of a model, given its folder or the file itself.

    A folder's ``model.json`` is first; else the only file there that describes one.
    """
    if source.is_file():
        return (
            source
            if source.suffix.lower() == ".json" and is_description(source)
            else None
        )
    if (source / DESCRIPTION).is_file():
        return source / DESCRIPTION
    if not source.is_dir():
        return None
    others = sorted(source.glob("*.json"))[:_MAX_LOOKED_INTO]
    found = [path for path in others if path.is_file() and is_description(path)]
    return found[0] if len(found) == 1 else None


def is_description(path: Path) -> bool:
    """Return whether a file describes a model, by its beginning and end."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return b'"modelTopology"' in start or b'"weightsManifest"' in file.read()


def read_description(source: Path) -> Described:
    """Read a model's description.

    Raises:
        ConversionError: there is none, or it is something else.
    """
    path = find_description(source) or (
        source / DESCRIPTION if source.is_dir() else source
    )
    with tfjs_errors():
        content = json.loads(read_bounded(path, MAX_DESCRIPTION_BYTES))
        if not isinstance(content, dict) or not isinstance(
            content.get("modelTopology"), dict
        ):
            raise ConversionError(
                f"{path.name} is not a whole TensorFlow.js model: it has no topology"
            )
        return Described(path, content)


@contextmanager
def tfjs_errors() -> Iterator[None]:
    """Raise the errors of a malformed file as a ``ConversionError``."""
    try:
        yield
    except (KeyError, AttributeError, TypeError, IndexError) as err:
        raise ConversionError(f"not a whole TensorFlow.js model: {err}") from err
    # A SystemError is what protobuf makes of a name that is no text.
    except (ValueError, OverflowError, json_format.ParseError, SystemError) as err:
        raise ConversionError(
            f"not a whole TensorFlow.js model: {shorten(err)}"
        ) from err
    except RecursionError as err:
        raise ConversionError(
            "not a TensorFlow.js model: it is nested too deep"
        ) from err
    except OSError as err:
        raise ConversionError(f"{err.filename}: {err.strerror}") from err


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes.

    Raises:
        ConversionError: it has more, or is a Git LFS pointer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ConversionError(f"{path.name} is larger than {limit >> 20} MiB")
    refuse_pointer(path.name, data)
    return data


def read_weights(model: Described) -> dict[str, NDArray[Any]]:
    """Read the value of every weight, in the dtype that the model computes with.

    Raises:
        ConversionError: the shards are not there, or do not match the manifest.
    """
    with tfjs_errors():
        groups = model.content["weightsManifest"]
        names = [name for group in groups for name in group["paths"]]
        shards = [
            _find_shard(model.path, name, alone=len(names) == 1) for name in names
        ]
        if sum(path.stat().st_size for path in shards) > MAX_WEIGHT_BYTES:
            raise ConversionError("the shards are larger than 2000 MiB together")
        paths = iter(shards)
        found: dict[str, NDArray[Any]] = {}
        for group in groups:
            data = b"".join(
                read_bounded(next(paths), MAX_WEIGHT_BYTES) for _ in group["paths"]
            )
            found.update(_group(group["weights"], data))
        return found


def _group(specs: list[dict[str, Any]], data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each weight that lies in some bytes."""
    start = 0
    for spec in specs:
        shape = spec["shape"]
        # Whole numbers in JSON may have thousands of digits, whose product takes hours.
        if len(shape) > _MAX_RANK or not all(map(_is_side, shape)):
            raise ConversionError(f"the weight {spec['name']!r} has no shape: {shape}")
        stored = _stored_dtype(spec)
        end = start + stored.itemsize * math.prod(shape)
        flat = np.frombuffer(data[start:end], stored)
        yield str(spec["name"]), _value(flat, spec).reshape(shape)
        start = end
    if start != len(data):
        raise ConversionError(
            f"the shards hold {len(data)} bytes, the manifest says {start}"
        )


def _is_side(side: object) -> bool:
    return type(side) is int and 0 <= side < _MAX_SIDE


def _find_shard(description: Path, name: str, *, alone: bool) -> Path:
    """Find a shard, which lies next to the description or in a folder below it.

    The manifest's name may be an address that the model was downloaded from; and if
    there is one shard only, it may have been renamed with the description.
    """
    folder = description.parent
    parts = name.split("/")
    plain = [part for part in parts if part != "."]
    address = _ADDRESS.fullmatch(name)
    guesses = [folder.joinpath(*plain)] if _is_below(plain) else []
    if address and "\\" not in name and ("://" in name or "?" in name):
        guesses.append(folder / address[1])
    if not guesses:
        raise ConversionError(f"the shard {name!r} is not beside {description.name}")
    if alone:
        guesses += [folder / f"{description.stem}{end}" for end in _RENAMED]
    found = next((path for path in guesses if path.is_file()), None)
    if found is None:
        raise ConversionError(
            f"{guesses[0].name}: No such file beside {description.name}, which names "
            "it; the description and its weights belong into one folder"
        )
    return found


def _is_below(parts: list[str]) -> bool:
    """Return whether a path of these parts stays inside the folder it starts from."""
    return bool(parts) and not any(
        part in ("", "..") or set(part) & set("\\\0:") for part in parts
    )


def _stored_dtype(spec: dict[str, Any]) -> np.dtype[Any]:
    """Return the dtype in which a weight lies in the shards."""
    if spec.get("quantization"):
        return np.dtype(QUANTISED[spec["quantization"]["dtype"]])
    return np.dtype(DTYPES[spec["dtype"]])


def _value(flat: NDArray[Any], spec: dict[str, Any]) -> NDArray[Any]:
    """Return a weight's values in the dtype that its constant has."""
    wanted = np.dtype(DTYPES[spec["dtype"]])
    quantisation = spec.get("quantization") or {}
    if "scale" in quantisation:
        wide = flat * np.float64(quantisation["scale"]) + quantisation["min"]
        flat = wide if wanted.kind == "f" else np.rint(wide)
    return flat.astype(wanted)


class Tensor(NamedTuple):
    """A tensor of a signature.

    Attributes:
        name: as TensorFlow writes it, ``node:0``.
        rank: its number of axes; ``None`` if the signature does not say.
    """

    name: str
    rank: int | None


def read_graph(source: Path) -> Any:
    """Return the ``GraphDef`` of a graph model, with its weights.

    Args:
        source: its ``model.json`` or the folder that holds it and the shards.

    Raises:
        ConversionError: not a graph model, or not a whole one.
    """
    return graph_def(read_description(source))


def graph_def(model: Described) -> Any:
    """Return the ``GraphDef`` of a graph model's description; see ``read_graph``."""
    with tfjs_errors():
        topology = model.content["modelTopology"]
        if topology.get("library", {}).get("function"):
            raise ConversionError(
                "the graph model holds functions; import the SavedModel it was made of"
            )
        return _graph(topology["node"], read_weights(model))


def signature(model: Described) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a graph model's inputs and outputs, each by its key.

    Both are empty if the model was written without a signature.

    Raises:
        ConversionError: not a graph model.
    """
    with tfjs_errors():
        metadata = model.content.get("userDefinedMetadata") or {}
        written = model.content.get("signature") or metadata.get("signature") or {}
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
    """Return the GraphDef of the JSON ``nodes``."""
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
                json_format.ParseDict(_to_base64(value), node.attr[key])
    return graph


def _to_base64(attr: dict[str, Any]) -> dict[str, Any]:
    """Convert byte strings from lists of numbers to base64, as in protobuf's JSON.

    TensorFlow.js writes ``"SAME"`` either way, by the version of its converter.
    """
    attr = dict(attr)
    if isinstance(attr.get("s"), list):
        attr["s"] = base64.b64encode(bytes(attr["s"])).decode()
    if "list" in attr:
        strings = (_to_base64({"s": s})["s"] for s in attr["list"].get("s", ()))
        attr["list"] = {**attr["list"], "s": list(strings)}
    return attr
