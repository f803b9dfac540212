"""Models to import that would read, run or take more than they may."""

import json
import resource
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import hdf5_files, keras3_files
from modelserver.tools.importing.importer import ImportOptions, import_model
from support import foreign_models

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]


def refusal(source, folder):
    """Import a model that is refused, and give the sentence."""
    with pytest.raises(ConversionError) as caught:
        import_model(source, "brought", folder, ImportOptions(), lambda *_: None)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def weights_of(file):
    """Give the path of the first weight inside an HDF5 file."""
    found = []
    file.visititems(
        lambda name, one: found.append(name) if isinstance(one, h5py.Dataset) else None
    )
    return found[0]


def link(file, place, outside):
    """Have a weight be a data set of another file."""
    del file[place]
    file[place] = h5py.ExternalLink(outside.name, "secret")


def raw(file, place, outside):
    """Have a weight be the bytes of another file."""
    shape = file[place].shape
    del file[place]
    places = [(str(outside), 0, 1 << 20)]
    file.create_dataset(place, shape, "f4", external=places)


def virtual(file, place, outside):
    """Have a weight be put together of another file's."""
    shape = file[place].shape
    del file[place]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(outside.name, "secret", shape)
    file.create_virtual_dataset(place, layout)


@pytest.mark.parametrize("lead", [link, raw, virtual])
@pytest.mark.parametrize("keras", [2, 3])
def test_an_h5_file_reads_no_other_file(tmp_path, folder, lead, keras):
    """Weights that lie in another file are refused, and not read."""
    path = tmp_path / "model.h5"
    if keras == 2:
        foreign_models.older_keras_file(path)
    else:
        foreign_models.keras_model().save(path)
    outside = tmp_path / "outside.h5"
    with h5py.File(path, "a") as file:
        place = weights_of(file)
        with h5py.File(outside, "w") as other:
            other["secret"] = np.ones_like(file[place])
        lead(file, place, outside)
    assert "leads to another file" in refusal(path, folder)


def test_weights_beside_their_description_read_no_other_file(tmp_path, folder):
    """The same holds for layers and weights in two files."""
    model = foreign_models.keras_model()
    (tmp_path / "model.json").write_text(model.to_json())
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        raw(file, weights_of(file), tmp_path / "model.json")
    assert "leads to another file" in refusal(path, folder)


def test_an_h5_file_that_claims_terabytes_is_refused(tmp_path, folder):
    """A data set of no bytes may say that it has any number of them."""
    path = foreign_models.older_keras_file(tmp_path / "model.h5")
    with h5py.File(path, "a") as file:
        place = weights_of(file)
        del file[place]
        file.create_dataset(place, (1 << 20, 1 << 20), "f4", chunks=(64, 64))
    assert "unpacks to more than 2000 MiB" in refusal(path, folder)


def test_an_h5_file_of_too_many_objects_is_refused(tmp_path, monkeypatch):
    """Else to look at them would take long."""
    monkeypatch.setattr(hdf5_files, "_MAX_OBJECTS", 3)
    path = foreign_models.older_keras_file(tmp_path / "model.h5")
    with pytest.raises(ConversionError, match="more than 3 objects"):
        hdf5_files.check(path)


def test_a_damaged_h5_file_is_refused(tmp_path, folder):
    """A file that ends early, or is no HDF5 at all, is told in a sentence."""
    path = foreign_models.older_keras_file(tmp_path / "model.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "model.h5" in refusal(path, folder)
    path.write_bytes(b"no HDF5")
    assert "model.h5" in refusal(path, folder)
    with pytest.raises(ConversionError, match="no whole HDF5 file"):
        hdf5_files.check(path)


def rewritten(path, change):
    """Save a model of Keras 3 with its description changed."""
    foreign_models.keras_model().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members["config.json"])
    change(described["config"]["layers"])
    members["config.json"] = json.dumps(described).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def layer(name, **config):
    """Describe one more layer, as Keras 3 does."""
    return {
        "module": "keras.layers",
        "class_name": name,
        "config": config,
        "registered_name": None,
    }


@pytest.mark.parametrize(
    "strange",
    [
        layer("StringLookup", vocabulary="/etc/passwd"),
        layer("TextVectorization", vocabulary="/etc/passwd"),
        layer("TFSMLayer", filepath="elsewhere"),
        layer("Lambda", function="print"),
        layer("TorchModuleWrapper", module="x"),
        layer("JaxLayer", call_fn="x"),
    ],
    ids=lambda one: one["class_name"],
)
def test_a_keras_file_names_no_layer_of_code_or_files(tmp_path, folder, strange):
    """Such a layer is refused by its name, before Keras makes it."""
    path = rewritten(tmp_path / "model.keras", lambda layers: layers.insert(1, strange))
    said = refusal(path, folder)
    assert repr(strange["class_name"]) in said
    assert "not one of Keras's own layers" in said


def test_a_keras_file_that_is_too_large_is_refused_before_it_takes_memory(
    tmp_path, folder
):
    """The weights of Keras 3 have no values before they are known to fit."""
    path = rewritten(
        tmp_path / "model.keras",
        lambda layers: layers.append(layer("Dense", units=10**9)),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "model.keras" in refusal(path, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    # What was counted and never made is no concern of the next model.
    good = foreign_models.keras_model()
    good.save(tmp_path / "good.keras")
    loaded = keras3_files.load(tmp_path / "good.keras")
    image = np.ones((1, 16, 16, 3), np.float32)
    np.testing.assert_allclose(loaded(image), good(image), rtol=1e-5)


def test_a_description_of_keras_3_that_is_too_large_is_refused(tmp_path, folder):
    """The weights of its layers are counted before they are made."""
    model = foreign_models.keras_model()
    described = json.loads(model.to_json())
    described["config"]["layers"].append(layer("Dense", units=10**9))
    (tmp_path / "model.json").write_text(json.dumps(described))
    model.save_weights(tmp_path / "model.weights.h5")
    assert "more than a graph can hold" in refusal(tmp_path / "model.json", folder)


@pytest.mark.parametrize(
    "member", ["config.json", "model.weights.h5"], ids=["description", "weights"]
)
def test_a_keras_file_that_unpacks_to_too_much_is_refused(
    tmp_path, folder, monkeypatch, member
):
    """By the sizes that the archive gives, beyond which nothing is read of it."""
    limit = "MAX_DESCRIPTION_BYTES" if member == "config.json" else "MAX_WEIGHT_BYTES"
    monkeypatch.setattr(keras3_files, limit, 100)
    path = tmp_path / "model.keras"
    foreign_models.keras_model().save(path)
    assert "unpacks to more than a model can have" in refusal(path, folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "5", "null", '{"class_name": 5}', "\xff"], ids=repr
)
def test_a_keras_file_of_any_description_is_refused_in_words(tmp_path, folder, text):
    """Whatever JSON, or no JSON, lies in the archive."""
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", text.encode("latin-1"))
        archive.writestr("model.weights.h5", b"")
    said = refusal(path, folder)
    assert "model.keras" in said
    assert len(said) <= 1000


def test_a_keras_file_nested_too_deep_is_refused(tmp_path, folder):
    """Deep JSON that can be read is an error, not a crash."""

    def nest(layers):
        deep = inner = {}
        for _ in range(400):
            inner["config"] = inner = {}
        layers.append(layer("Dense", units=3) | {"config": deep})

    assert refusal(rewritten(tmp_path / "model.keras", nest), folder)


def test_an_output_that_is_not_asked_for_is_never_run(tmp_path, folder):
    """A graph may hold nodes that write files, and that none of its roles needs."""
    written = tmp_path / "written"
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "image")
        tf.nn.softmax(tf.reduce_mean(image, [1, 2]), name="probs")
        with tf.control_dependencies([tf.io.write_file(str(written), "x")]):
            tf.identity(image, name="other")
    path = tmp_path / "graph.pbtxt"
    path.write_text(str(graph.as_graph_def()))
    wish = ImportOptions(outputs={"scores": "probs"})
    made = import_model(path, "brought", folder, wish, lambda *_: None)
    assert not written.exists()
    data = made.paths[-1].read_bytes()
    ops = {node.op for node in tf.compat.v1.GraphDef.FromString(data).node}
    assert "WriteFile" not in ops


def test_a_sentence_about_a_model_is_bounded(tmp_path, folder):
    """However long the names are that it quotes."""
    source = foreign_models.graph_model(tmp_path / "source")
    path = source / "model.json"
    content = json.loads(path.read_text())
    content["weightsManifest"][0]["paths"] = ["x\n" * 100_000]
    path.write_text(json.dumps(content))
    said = refusal(source, folder)
    assert len(said) <= 1000
    assert "\n" not in said


def test_a_shape_of_endless_numbers_is_refused_at_once(tmp_path, folder):
    """Whole numbers in JSON may have thousands of digits, and a shape many of them."""
    source = foreign_models.graph_model(tmp_path / "source")
    path = source / "model.json"
    content = json.loads(path.read_text())
    content["weightsManifest"][0]["weights"][0]["shape"] = [10**4000] * 10_000
    path.write_text(json.dumps(content))
    assert "has no shape" in refusal(source, folder)
