"""Where a TensorFlow.js model's files lie, and what may stand in them."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import tfjs
from support import tfjs_models as made

VALUE = np.arange(4, dtype=np.float32)


def model(folder, name="model.json", path="weights.bin", written=None):
    """One constant ``w``, its shard called ``path`` in the manifest."""
    made.write(folder, [made.const("w")], [made.spec("w", VALUE)], VALUE.tobytes())
    content = json.loads((folder / "model.json").read_text())
    content["weightsManifest"][0]["paths"] = [path]
    (folder / "model.json").unlink()
    (folder / name).write_text(json.dumps(content))
    shard = folder / (written or path)
    shard.parent.mkdir(exist_ok=True)
    (folder / "shard0").rename(shard)
    return folder


@pytest.mark.parametrize(
    ("name", "path", "written"),
    [
        pytest.param("model.json", "./weights.bin", None, id="./"),
        pytest.param("model.json", "parts/w1.bin", None, id="a folder below"),
        pytest.param("hands.json", "weights.bin", "hands.bin", id="both renamed"),
        pytest.param("my-model.json", "./my-model.weights.bin", None, id="saved"),
        pytest.param("a.json", "weights.bin", "a.weights.bin", id="renamed"),
        pytest.param(
            *("model.json", "https://x.example/m/w.bin?alt=media&token=1", "w.bin"),
            id="an address",
        ),
        pytest.param("model.json", "w.bin?v=2", "w.bin", id="a query"),
        pytest.param("model.json", "model (1).bin", None, id="downloaded twice"),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_the_files_may_have_any_names(tmp_path, name, path, written, by_file):
    """The description is found by its content, and a lone shard by the description's name."""
    folder = model(tmp_path, name, path, written)
    source = folder / name if by_file else folder
    assert tfjs.find_description(source) == folder / name
    weights = tfjs.read_weights(tfjs.read_description(source))
    assert weights["w"].tolist() == VALUE.tolist()


def test_other_json_files_are_none(tmp_path):
    """A label file next to a model is passed over, and alone it is no model."""
    (tmp_path / "labels.json").write_text('["a", "b"]')
    assert tfjs.find_description(tmp_path) is None
    assert tfjs.find_description(tmp_path / "labels.json") is None
    assert tfjs.find_description(model(tmp_path, "m.json")).name == "m.json"


@pytest.mark.parametrize(
    "path",
    [
        *("../w.bin", "/etc/hosts", "a/../../w.bin", "..", "", "a//b", "C:\\w.bin"),
        *("file:///etc/hosts/", "a\0b", "https://x.example/.."),
    ],
)
def test_a_shard_lies_beside_its_description_or_nowhere(tmp_path, path):
    """A shard's path must not lead out of the folder."""
    folder = model(tmp_path / "in", path="w.bin")
    (tmp_path / "w.bin").write_bytes(VALUE.tobytes())
    description = json.loads((folder / "model.json").read_text())
    description["weightsManifest"][0]["paths"] = [path]
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ConversionError, match=r"not beside|No such file|not a whole"):
        tfjs.read_weights(tfjs.read_description(folder))


def test_a_large_file_pointer_is_named(tmp_path):
    """The error says that the file is a Git LFS pointer."""
    folder = model(tmp_path)
    (folder / "weights.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConversionError, match=r"weights\.bin is a Git LFS pointer"):
        tfjs.read_weights(tfjs.read_description(folder))
    (folder / "model.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConversionError, match=r"model\.json is a Git LFS pointer"):
        tfjs.read_description(folder)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000, id="nested"),
        pytest.param('{"a":' * 200_000, id="nested objects"),
        pytest.param('{"modelTopology": "x"}', id="a word"),
        pytest.param("\xff", id="no text"),
    ],
)
def test_a_hostile_description_is_refused_in_words(tmp_path, text):
    """Any malformed description is an error of ours."""
    (tmp_path / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConversionError):
        tfjs.read_graph(tmp_path)


@pytest.mark.parametrize("shape", [[-1], [2.0, 2], ["4"], [10**30], [True, 4], 4, None])
def test_a_weight_has_a_shape_of_whole_numbers(tmp_path, shape):
    """A negative or broken shape is refused."""
    folder = model(tmp_path)
    description = json.loads((folder / "model.json").read_text())
    description["weightsManifest"][0]["weights"][0]["shape"] = shape
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ConversionError):
        tfjs.read_weights(tfjs.read_description(folder))


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["", "w", "f4"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "op", "s", "list"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    place=st.sampled_from(["node", "attr", "input", "paths", "weights", "signature"]),
    value=junk,
)
def test_whatever_stands_in_a_description_it_is_read_or_refused(tmp_path, place, value):
    """Each part of a good description is replaced by another value."""
    nodes = [made.const("w"), made.node("Relu", "r", "w", T={"type": 1})]
    made.write(tmp_path, nodes, [made.spec("w", VALUE)], VALUE.tobytes())
    content = json.loads((tmp_path / "model.json").read_text())
    topology, group = content["modelTopology"], content["weightsManifest"][0]
    part = {
        "node": topology,
        "attr": topology["node"][1],
        "input": topology["node"][1],
        "paths": group,
        "weights": group,
        "signature": content,
    }[place]
    part[place] = value
    (tmp_path / "model.json").write_text(json.dumps(content))
    with contextlib.suppress(ConversionError):
        described = tfjs.read_description(tmp_path)
        tfjs.graph_def(described)
        tfjs.signature(described)


def test_quantised_groups_and_shards_go_together(tmp_path):
    """Two groups, the second over two shards, are read with each weight's own scale."""
    values = {
        "a": (
            np.array([0, 255], np.uint8),
            {"dtype": "uint8", "scale": 0.5, "min": -3},
        ),
        "b": (np.array([1, 513], np.uint16), {"dtype": "uint16", "scale": 2, "min": 1}),
        "c": (np.array([0.5, 1.5], np.float16), {"dtype": "float16"}),
    }
    specs = [
        {"name": name, "shape": [2], "dtype": "float32", "quantization": how}
        for name, (_, how) in values.items()
    ]
    data = [array.tobytes() for array, _ in values.values()]
    (tmp_path / "g1").write_bytes(data[0])
    rest = data[1] + data[2]
    (tmp_path / "g2a").write_bytes(rest[:3])
    (tmp_path / "g2b").write_bytes(rest[3:])
    manifest = [
        {"paths": ["g1"], "weights": specs[:1]},
        {"paths": ["g2a", "g2b"], "weights": specs[1:]},
    ]
    content = {"modelTopology": {"node": []}, "weightsManifest": manifest}
    (tmp_path / "model.json").write_text(json.dumps(content))
    weights = tfjs.read_weights(tfjs.read_description(tmp_path))
    assert {name: one.tolist() for name, one in weights.items()} == {
        "a": [-3.0, 124.5],
        "b": [3.0, 1027.0],
        "c": [0.5, 1.5],
    }
