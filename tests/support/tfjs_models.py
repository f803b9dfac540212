"""Writes small TensorFlow.js graph models."""

import json
from itertools import pairwise

import numpy as np

TYPES = {"float32": 1, "int32": 3, "uint8": 4, "bool": 10}


def const(name):
    """A constant as TensorFlow.js writes it: its value is in the shards."""
    return {"name": name, "op": "Const", "attr": {"dtype": {"type": 1}, "value": {}}}


def node(op, name, *inputs, **attr):
    """Any other node."""
    return {"name": name, "op": op, "input": list(inputs), "attr": attr}


def placeholder(name, dtype, *shape):
    """An input; -1 is an unknown dimension."""
    dims = {"dim": [{"size": str(size)} for size in shape]}
    return node(
        "Placeholder", name, dtype={"type": TYPES[dtype]}, shape={"shape": dims}
    )


def spec(name, array, **quantization):
    """A weight's line in the manifest; ``array`` has the shape and final dtype."""
    entry = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
    return entry | ({"quantization": quantization} if quantization else {})


def write(folder, nodes, specs, data, cuts=()):
    """Write ``model.json`` and the shards, cut at the bytes ``cuts``."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = [0, *cuts, len(data)]
    paths = []
    for number, (start, end) in enumerate(pairwise(ends)):
        paths.append(f"shard{number}")
        (folder / paths[-1]).write_bytes(data[start:end])
    manifest = [{"paths": paths, "weights": specs}]
    model = {"modelTopology": {"node": nodes}, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(model))
    return folder


def detector(folder, boxes, scores):
    """A graph model that ends as SSDLite's does, whatever the image.

    ``boxes`` float32 [A, 4] and ``scores`` float32 [A, C] are repeated for the batch.
    """
    anchors, classes = scores.shape
    values = {
        "boxes": boxes.reshape(1, anchors, 1, 4).astype(np.float32),
        "scores": scores.reshape(1, anchors, classes).astype(np.float32),
        "tail4": np.array([1, 1, 1], np.int32),
        "tail3": np.array([1, 1], np.int32),
        "first": np.array([0], np.int32),
        "next": np.array([1], np.int32),
    }
    no_mask = {"i": "0"}
    int32, float32 = {"type": 3}, {"type": 1}
    nodes = [
        placeholder("image_tensor", "uint8", -1, -1, -1, 3),
        *map(const, values),
        node("Shape", "shape", "image_tensor", T={"type": 4}, out_type=int32),
        node(
            *("StridedSlice", "batch", "shape", "first", "next", "next"),
            T=int32,
            Index=int32,
            begin_mask=no_mask,
        ),
        node("ConcatV2", "times4", "batch", "tail4", "axis", T=int32, N={"i": "2"}),
        node("ConcatV2", "times3", "batch", "tail3", "axis", T=int32, N={"i": "2"}),
        node(
            *("Tile", "Postprocessor/ExpandDims_1", "boxes", "times4"),
            T=float32,
            Tmultiples=int32,
        ),
        node(
            *("Tile", "Postprocessor/Slice", "scores", "times3"),
            T=float32,
            Tmultiples=int32,
        ),
        const("axis"),
    ]
    values["axis"] = np.array(0, np.int32)
    specs = [spec(name, array) for name, array in values.items()]
    data = b"".join(array.tobytes() for array in values.values())
    return write(folder, nodes, specs, data)
