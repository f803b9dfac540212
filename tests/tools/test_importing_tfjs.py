"""Reading TensorFlow.js graph models."""

import json

import numpy as np
import pytest

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import tfjs
from modelserver.tools.importing.graphdefs import GraphWriter
from support import tfjs_models as made
from support.graph_runs import run


def value(folder):
    """Value of the constant ``w`` in the graph model."""
    (read,) = run(GraphWriter(tfjs.read_graph(folder)).serialise(), ["w"], {})
    return read


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_weights_come_from_the_shards(tmp_path, dtype):
    """A constant takes its shape, dtype and value from the manifest and the shard."""
    array = np.array([[1, 0, 3], [0, 5, 6]]).astype(dtype)
    made.write(tmp_path, [made.const("w")], [made.spec("w", array)], array.tobytes())
    np.testing.assert_array_equal(value(tmp_path), array)
    assert value(tmp_path).dtype == dtype


def test_a_weight_may_lie_across_shards(tmp_path):
    """Shards are cut anywhere, also inside a number."""
    array = np.arange(5, dtype=np.float32)
    specs, data = [made.spec("w", array)], array.tobytes()
    made.write(tmp_path, [made.const("w")], specs, data, cuts=(3, 9))
    np.testing.assert_array_equal(value(tmp_path), array)


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        pytest.param("float32", [-1.0, -0.75, 49.0], id="float32"),
        pytest.param("int32", [-1, -1, 49], id="int32, to the nearest"),
    ],
)
def test_quantised_weights_are_scaled(tmp_path, stored, dtype, expected):
    """A quantised weight is its small integer times the scale plus the minimum."""
    final = np.zeros(3, dtype)
    spec = made.spec("w", final, dtype=stored, scale=0.25, min=-1)
    data = np.array([0, 1, 200], stored).tobytes()
    made.write(tmp_path, [made.const("w")], [spec], data)
    assert value(tmp_path).tolist() == expected


def test_half_precision_weights_are_widened(tmp_path):
    """float16 is a quantisation without scale."""
    half = np.array([0.5, -2], np.float16)
    spec = made.spec("w", half.astype(np.float32), dtype="float16")
    made.write(tmp_path, [made.const("w")], [spec], half.tobytes())
    assert value(tmp_path).tolist() == [0.5, -2]
    assert value(tmp_path).dtype == np.float32


POOL = {
    "T": {"type": 1},
    "ksize": {"list": {"s": [], "i": ["1", "2", "2", "1"], "f": []}},
    "strides": {"list": {"i": ["1", "2", "2", "1"]}},
    "_noted": {"b": True},
}


@pytest.mark.parametrize(
    "padding",
    [
        pytest.param("U0FNRQ==", id="base64"),
        pytest.param([83, 65, 77, 69], id="list of bytes"),
    ],
)
def test_attributes_are_read(tmp_path, padding):
    """Strings are understood in either spelling; an optimiser's notes are dropped."""
    nodes = [
        made.placeholder("image", "float32", -1, 2, 2, 1),
        made.node("MaxPool", "pool", "image", **POOL, padding={"s": padding}),
    ]
    graph = tfjs.read_graph(made.write(tmp_path, nodes, [], b""))
    assert "_noted" not in graph.node[1].attr
    image = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    (pool,) = run(GraphWriter(graph).serialise(), ["pool"], {"image": image})
    assert pool.tolist() == [[[[3]]]]


def test_lists_of_strings_are_read(tmp_path):
    """Strings in a list have the same two spellings."""
    fused = {"list": {"s": [[66, 105, 97, 115], "UmVsdQ=="]}}
    nodes = [made.node("_FusedConv2D", "conv", fused_ops=fused)]
    graph = tfjs.read_graph(made.write(tmp_path, nodes, [], b""))
    assert graph.node[0].attr["fused_ops"].list.s == [b"Bias", b"Relu"]


ONE = np.zeros(1, np.float32)
CASES = {
    "no weight for a constant": ([made.const("v")], [], b"", "'v'"),
    "shards too short": (
        [],
        [made.spec("w", np.zeros(2, "f4"))],
        b"1234",
        "not a whole",
    ),
    "shards too long": ([], [made.spec("w", ONE)], b"12345678", "8 bytes"),
    "strings": ([], [{"name": "w", "shape": [], "dtype": "string"}], b"", "string"),
    "unknown quantisation": ([], [made.spec("w", ONE, dtype="uint4")], b"", "uint4"),
    "unknown attribute": (
        [made.node("Identity", "i", T={"kind": 1})],
        [],
        b"",
        "kind",
    ),
    "no dict for a node": (["w"], [], b"", "not a whole"),
}


@pytest.mark.parametrize(("nodes", "specs", "data", "said"), CASES.values(), ids=CASES)
def test_a_broken_model_is_refused(tmp_path, nodes, specs, data, said):
    """A model that is not whole is refused with the reason."""
    made.write(tmp_path, nodes, specs, data)
    with pytest.raises(ConversionError, match=said):
        tfjs.read_graph(tmp_path)


@pytest.mark.parametrize("text", ["<html>", "[]", "{}", '{"modelTopology": null}'])
def test_another_file_is_refused(tmp_path, text):
    """What is no graph model's ``model.json`` is refused."""
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ConversionError, match="not a whole"):
        tfjs.read_graph(tmp_path)


@pytest.mark.parametrize("name", ["../shard", "/etc/hosts", "..\\shard"])
def test_a_shard_outside_the_folder_is_refused(tmp_path, name):
    """A model reads files beside it and no others."""
    manifest = [{"paths": [name], "weights": []}]
    model = {"modelTopology": {"node": []}, "weightsManifest": manifest}
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(ConversionError, match="not beside"):
        tfjs.read_graph(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    """The error names the file that is not there."""
    made.write(tmp_path, [], [], b"")
    (tmp_path / "shard0").unlink()
    with pytest.raises(ConversionError, match="shard0: No such file"):
        tfjs.read_graph(tmp_path)
