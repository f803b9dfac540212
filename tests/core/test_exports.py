"""Facts about a model from the files of its export."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import exports
from modelserver.core.errors import ModelError

OLD_MANIFEST = {
    "DomainType": "Classification",
    "Platform": "TensorFlow",
    "Flavor": None,
    "ExporterVersion": "1.0",
    "ModelFileName": "model.pb",
    "LabelFileName": "labels.txt",
}
NEW_MANIFEST = OLD_MANIFEST | {
    "Flavor": "TensorFlowNormal",
    "ExporterVersion": "2.0",
    "MetadataPropsFileName": "metadata_properties.json",
}
PROPERTIES = {
    "CustomVision.Postprocess.Method": "ClassificationMultiClass",
    "CustomVision.Preprocess.NormalizeMean": "[0.0, 0.0, 0.0]",
    "CustomVision.Preprocess.NormalizeStd": "[1.0, 1.0, 1.0]",
    "CustomVision.Preprocess.TargetHeight": "224",
    "CustomVision.Preprocess.TargetWidth": "224",
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.NominalPixelRange": "Normalized_0_1",
}
TEACHABLE = {
    "tfjsVersion": "1.3.1",
    "tmVersion": "2.4.4",
    "packageVersion": "0.8.4-alpha2",
    "packageName": "@teachablemachine/image",
    "modelName": "tm-my-image-model",
    "labels": ["Cat", "Dog"],
    "imageSize": 224,
}


def read(**files):
    names = {
        "manifest": exports.MANIFEST,
        "properties": exports.PROPERTIES,
        "metadata": exports.METADATA,
    }
    return exports.read(
        {names[key]: json.dumps(value).encode() for key, value in files.items()}
    )


def test_an_old_manifest_tells_blue_first_and_the_crop():
    export = read(manifest=OLD_MANIFEST)
    assert export.tool == "Azure Custom Vision"
    assert (export.kind, export.bgr, export.resize) == ("classification", True, "crop")
    assert (export.mean, export.scale, export.crop_from) == ((0.0,), (1.0,), 256)
    assert (export.labels, export.told_by) == ("labels.txt", ("cvexport.manifest",))


def test_a_newer_export_has_its_order_and_size_in_its_properties():
    export = read(manifest=NEW_MANIFEST, properties=PROPERTIES)
    assert (export.bgr, export.size, export.resize) == (False, (224, 224), None)
    assert (export.mean, export.scale) == ((0.0,), (1.0,))
    assert export.domain == "Classification TensorFlowNormal"
    assert export.told_by == ("cvexport.manifest", "metadata_properties.json")


def test_a_detectors_manifest_says_so_and_crops_nothing():
    export = read(manifest=OLD_MANIFEST | {"DomainType": "ObjectDetection"})
    assert (export.kind, export.resize, export.crop_from) == ("detection", None, None)


def test_teachable_machines_metadata_tells_labels_scaling_and_crop():
    export = read(metadata=TEACHABLE)
    assert (export.tool, export.names) == ("Teachable Machine", ("Cat", "Dog"))
    assert (export.mean, export.scale) == ((127.5,), (1 / 127.5,))
    assert (export.resize, export.crop_from, export.size) == ("crop", None, (224, 224))


@pytest.mark.parametrize(
    "data",
    [
        *(b'{"labels": ["a"]}', b"[1]", b"\xff", b"["),
        b'{"a": "' + b"x" * exports.MAX_BYTES + b'"}',
    ],
    ids=["labels", "a list", "no text", "cut", "large"],
)
def test_another_programs_metadata_tells_nothing(data):
    assert exports.read({"metadata.json": data}) is None


@pytest.mark.parametrize(
    "name", [exports.MANIFEST, exports.PROPERTIES, "m.import.json"]
)
@pytest.mark.parametrize(
    "data",
    [b"version https://git-lfs", b"[1]", b"[" * 99999, b'{"tool": "\xff"}'],
    ids=["a pointer", "a list", "deep", "no text"],
)
def test_a_broken_file_is_named(name, data):
    with pytest.raises(ModelError, match=name):
        exports.read({name: data})


def test_a_record_comes_back_as_it_was_written():
    original = exports.Export(
        tool="Keras", mean=(1.5,), scale=(0.25,), notes=("a", "b")
    )
    export = exports.read({"cat.import.json": exports.record(original)})
    assert export == msgspec.structs.replace(original, told_by=("cat.import.json",))


@pytest.mark.parametrize(
    "record",
    [
        *({"size": [0, 224]}, {"crop_from": 10**9}, {"crop_from": 0}),
        *({"mean": [1, 2], "scale": [1]}, {"mean": [0], "scale": [1, 1, 1, 1]}),
    ],
)
def test_a_record_out_of_range_is_refused(record):
    with pytest.raises(ModelError, match="out of range"):
        exports.read({"m.import.json": json.dumps(record).encode()})


def test_no_file_tells_nothing():
    assert exports.read({}) is None


values = st.none() | st.integers(-9, 10**6) | st.sampled_from(["", "224", "x", [1], {}])


@given(
    st.dictionaries(
        st.sampled_from(sorted(OLD_MANIFEST | PROPERTIES | TEACHABLE)), values
    ),
    st.sampled_from(exports.NAMES),
)
def test_whatever_stands_in_a_file_gives_facts_within_range(content, name):
    export = exports.read({name: json.dumps(content).encode()})
    if export is not None and export.size is not None:
        assert all(1 <= side <= 8192 for side in export.size)
