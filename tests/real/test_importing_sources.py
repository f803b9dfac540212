"""What can be given to an import, and the sentence for each thing that cannot."""

import io
import json
import tempfile
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import importer, sources
from support import foreign_models as made
from support import layers_files
from support.tiny_graphs.building import building, v1

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def refusal(source):
    with pytest.raises(ConversionError) as caught, sources.open_source(source):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tflite", b"", "TensorFlow Lite"),
        ("a.onnx", b"", "ONNX"),
        ("a.pt", b"", "PyTorch"),
        ("a.pb", b"", "a graph already"),
        ("a.bin", b"", "import the .json file beside it"),
        ("model.ckpt.meta", b"", "checkpoint"),
        ("model.ckpt.data-00000-of-00001", b"", "checkpoint"),
        ("a.rar", b"", "an archive"),
        ("a.zip", b"no zip", "cannot be unpacked"),
        ("a.txt", b"", "no model that can be imported"),
        ("a.h5", LFS, "a Git LFS pointer"),
        ("a.keras", LFS, "a Git LFS pointer"),
        ("a.json", LFS, "a Git LFS pointer"),
        ("a.pbtxt", b'item { id: 1 name: "x" }', "a label map is given with --labels"),
        ("a.pbtxt", b"node { name: 3 }", "cannot be read as a graph"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.json", b'{"a": 1}', "describes no layers"),
    ],
)
def test_each_thing_that_is_no_model_has_a_sentence(tmp_path, name, content, said):
    """The sentence names the format, if it is known, and a remedy."""
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path):
    """A missing path is an error that lists the formats."""
    assert "is not there" in refusal(tmp_path / "gone")


def test_the_first_format_of_tensorflow_js_is_named(tmp_path):
    """The sentence says to import the original model."""
    for name in ("tensorflowjs_model.pb", "weights_manifest.json"):
        (tmp_path / name).write_bytes(b"[]")
    assert "first format" in refusal(tmp_path / "tensorflowjs_model.pb")


def test_two_models_in_a_folder_are_named(tmp_path):
    """The import does not choose between them."""
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(b"")
    assert "several models: a.h5 and b.h5" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inner", ["", "model.savedmodel"])
def test_a_model_is_found_in_folders_and_archives(tmp_path, zipped, inner):
    """Folders and archives have the forms in which Teachable Machine and people hand them out."""
    source = tmp_path / "source"
    made.classifier(source / inner)
    (source / "labels.txt").write_text("a\nb\nc\n")
    if zipped:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for path in source.rglob("*"):
                archive.write(path, path.relative_to(source))
        source = tmp_path / "x.zip"
    with sources.open_source(source) as (original, found):
        assert original.format == "SavedModel"
        assert (found.parent / "labels.txt").exists() or (found / "labels.txt").exists()


@pytest.mark.parametrize("inner", ["", "model.savedmodel"])
def test_labels_of_everybodys_temporary_files_are_not_an_archives(
    tmp_path, monkeypatch, inner
):
    """Anybody may write where archives are unpacked, so no labels are taken from there."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "labels.txt").write_text("x\ny\nz\n")
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    source = tmp_path / "source"
    made.classifier(source / inner)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in source.rglob("*"):
            file.write(path, path.relative_to(source))
    options = importer.ImportOptions()
    with sources.open_source(tmp_path / "x.zip") as (original, found):
        assert importer._add_labels(options, original, found) == (options, ())


def archive(tmp_path, **members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    path = tmp_path / "x.zip"
    path.write_bytes(data.getvalue())
    return path


@pytest.mark.parametrize(
    "name", ["../a.h5", "/a.h5", "a/../../b.h5", "..\\a.h5", "C:a"]
)
def test_an_archive_writes_nowhere_else(tmp_path, name):
    """A member with a path out of the folder is refused."""
    assert "lies elsewhere" in refusal(archive(tmp_path, **{name: b"x"}))
    assert not list(tmp_path.parent.glob("*.h5"))


def test_an_archive_that_grows_is_left(tmp_path, monkeypatch):
    """Unpacking stops at the limit, even if the archive lies about its sizes."""
    monkeypatch.setattr(sources, "_MAX_UNPACKED_BYTES", 1 << 20)
    assert "unpacks to more" in refusal(archive(tmp_path, a=bytes(5 << 20)))


@pytest.mark.parametrize(
    "members",
    [
        {"a": b"", "a/b.h5": b""},
        {"a/b.h5": b"", "a": b""},
        {"x" * 300: b""},
        {".": b""},
    ],
    ids=["a file as a folder", "a folder as a file", "a long name", "the folder"],
)
def test_an_archive_whose_files_cannot_lie_there_is_refused(tmp_path, members):
    """Two files in one place, or a name too long, are an error."""
    assert "cannot be unpacked" in refusal(archive(tmp_path, **members))


@pytest.mark.parametrize(
    "how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_archive_is_refused_however_it_is_packed(tmp_path, how):
    """Damage is an error for each compression."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr("a.h5", b"weights" * 99)
    data = bytearray(path.read_bytes())
    data[45:60] = b"\xff" * 15
    path.write_bytes(data)
    assert "x.zip" in refusal(path)


def test_a_graph_in_text_form_is_taken(tmp_path):
    """A frozen graph in text form is imported."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 4, 4, 3], "image")
        tf.nn.softmax(tf.reduce_mean(image, [1, 2]), name="probs")
    path = tmp_path / "graph.pbtxt"
    path.write_text(text_format.MessageToString(graph.as_graph_def()))
    image = np.ones((1, 4, 4, 3), np.float32)
    with sources.open_source(path) as (original, _):
        assert original.input == "image:0"
        np.testing.assert_allclose(original.run(image)["probs"], [[1 / 3] * 3])


def test_a_text_graph_with_variables_is_refused(tmp_path):
    """A graph that is not frozen is refused, with a remedy."""
    with building() as graph:
        v1.get_variable("v", initializer=1.0, use_resource=False)
    path = tmp_path / "graph.pbtxt"
    path.write_text(text_format.MessageToString(graph.as_graph_def()))
    assert "not frozen" in refusal(path)


IMAGE = np.random.default_rng(2).normal(size=(1, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("given", ["model.json", "model.weights.h5", ""])
def test_layers_and_weights_may_lie_in_two_files(tmp_path, twice, given):
    """Keras's ``to_json`` and ``save_weights`` write such files."""
    model = layers_files.filled(made.keras_model())
    text = model.to_json()
    (tmp_path / "model.json").write_text(json.dumps(text) if twice else text)
    model.save_weights(tmp_path / "model.weights.h5")
    with sources.open_source(tmp_path / given) as (original, _):
        expected = np.asarray(model(IMAGE, training=False))
        np.testing.assert_allclose(original.run(IMAGE)["scores"], expected, rtol=1e-5)


def test_weights_alone_are_named(tmp_path):
    """The error says that the architecture is missing."""
    made.keras_model().save_weights(tmp_path / "cat.weights.h5")
    said = refusal(tmp_path / "cat.weights.h5")
    assert "has weights only; it needs the model's architecture" in said
    assert "cat.json" in said


def test_layers_alone_are_named(tmp_path):
    """The error says that the weights are missing."""
    (tmp_path / "cat.json").write_text(made.keras_model().to_json())
    assert "layers only" in refusal(tmp_path / "cat.json")


def test_weights_of_another_model_are_refused(tmp_path):
    """Weights that do not fit the layers are an error."""
    (tmp_path / "m.json").write_text(layers_files.teachable().to_json())
    made.keras_model().save_weights(tmp_path / "m.weights.h5")
    assert "are not those of the layers" in refusal(tmp_path / "m.json")


def test_a_description_of_tensorflow_js_is_taken_by_its_file(tmp_path):
    """A description of any name is imported with its shards."""
    source = made.graph_model(tmp_path / "source")
    (source / "model.json").rename(source / "hands.json")
    (source / "shard0").rename(source / "hands.bin")
    with sources.open_source(source / "hands.json") as (original, found):
        assert (original.format, found.name) == ("TensorFlow.js model", "hands.json")
