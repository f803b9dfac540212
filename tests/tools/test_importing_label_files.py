"""Label files of other formats."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import ConversionError
from modelserver.tasks import labels
from modelserver.tools.importing import model_files

ANT_BEE = {0: "ant", 1: "bee"}
FORMATS = {
    "names.txt": ("ant\nbee\n", ANT_BEE),
    "numbered.txt": ("0 ant\n1 bee\n", ANT_BEE),
    "coral.txt": (
        "0  ant\n2  bee\n3  traffic light",
        {0: "ant", 2: "bee", 3: "traffic light"},
    ),
    "no ids.txt": ("3  ant\n17  bee", {0: "3  ant", 1: "17  bee"}),
    "colon.txt": ("0: ant\n1: bee", ANT_BEE),
    "not all numbered.txt": ("1 ant\nbee", {0: "1 ant", 1: "bee"}),
    "numbered twice.txt": ("1 ant\n1 bee", {0: "1 ant", 1: "1 bee"}),
    "list.json": ('["ant", "bee"]', ANT_BEE),
    "metadata.json": ('{"labels": ["ant", "bee"], "x": 1}', ANT_BEE),
    "index.json": ('{"1": "bee", "0": "ant"}', ANT_BEE),
    "class_index.json": (
        '{"0": ["n02123045", "ant"], "1": ["n02123046", "bee"]}',
        ANT_BEE,
    ),
    "class_indices.json": ('{"bee": 1, "ant": 0}', ANT_BEE),
    "map.pbtxt": ('item { id: 7 name: "ant" }', {7: "ant"}),
}


@pytest.mark.parametrize(("name", "case"), FORMATS.items(), ids=FORMATS)
def test_every_format_is_read(tmp_path, name, case):
    """The ending says the format; numbers of its own are kept."""
    content, expected = case
    path = tmp_path / name
    path.write_text(content)
    assert model_files.read_labels(path) == expected


@pytest.mark.parametrize("name", ["names.txt", "list.json"])
def test_names_without_numbers_are_counted_as_asked(tmp_path, name):
    """A detector's names count from 1."""
    path = tmp_path / name
    path.write_text(FORMATS[name][0])
    assert model_files.read_labels(path, 1) == {1: "ant", 2: "bee"}


REFUSED = {
    "page.txt": ("<!DOCTYPE html>", "web page"),
    "empty.txt": ("", "empty"),
    "bad.json": ("{", "no list of class names"),
    "number.json": ("7", "no list of class names"),
    "nested.json": ('[{"name": "ant"}]', "is no name"),
    "nothing.json": ("[]", "holds no class name"),
    "blank.json": ('[" "]', "empty name"),
    "below.json": ('{"ant": -1}', "below zero"),
    "deep.json": ("[" * 100_000, "no list of class names"),
    "map.pbtxt": ("item { }", "has no id"),
    "large.json": (" " * (1 << 20) + "1", "larger than 1 MiB"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items(), ids=REFUSED)
def test_anything_else_is_refused(tmp_path, name, case):
    """The sentence names the file and the fault."""
    content, said = case
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConversionError, match=said) as caught:
        model_files.read_labels(path)
    assert name in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """The error names the file, for each format."""
    for name in ("no.json", "no.txt"):
        with pytest.raises(ConversionError, match=f"{name}.*cannot be read"):
            model_files.read_labels(tmp_path / name)


@given(
    st.dictionaries(
        st.integers(0, 10_000),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).filter(
            lambda name: name.strip()
        ),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_is_written_is_read_back(tmp_path_factory, names):
    """Any name survives: quotes, backslashes, line ends, any script."""
    path = tmp_path_factory.mktemp("labels") / "x.pbtxt"
    model_files.write_labels(path, names)
    assert dict(labels.read_labels(path).names) == names


@given(st.binary(max_size=60))
def test_any_json_is_read_or_refused(tmp_path_factory, data):
    """Bytes of any kind lead to names or to one error."""
    path = tmp_path_factory.mktemp("labels") / "x.json"
    path.write_bytes(data)
    with suppress(ConversionError):
        assert model_files.read_labels(path)


@pytest.mark.parametrize(
    ("target", "first"), [("x.label_map.pbtxt", 1), ("x.pbtxt", 0)]
)
def test_a_targets_name_says_where_ids_start(tmp_path, target, first):
    """A detector's label map counts from 1."""
    source = tmp_path / "labels.json"
    source.write_text(json.dumps(["ant"]))
    model_files.write_label_map(source, tmp_path / target)
    assert labels.read_labels(tmp_path / target).names == {first: "ant"}


def test_a_target_is_never_overwritten_unasked(tmp_path):
    """With force it is, and it appears whole."""
    source, target = tmp_path / "labels.txt", tmp_path / "x.pbtxt"
    source.write_text("ant")
    target.write_text("kept")
    with pytest.raises(ConversionError, match="is there already"):
        model_files.write_label_map(source, target)
    assert target.read_text() == "kept"
    model_files.write_label_map(source, target, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "x.pbtxt"]


def test_an_unwritable_target_is_one_sentence(tmp_path):
    """A folder that is not there is named."""
    source = tmp_path / "labels.txt"
    source.write_text("ant")
    with pytest.raises(ConversionError, match="cannot be written: No such file"):
        model_files.write_label_map(source, tmp_path / "no" / "x.pbtxt")
