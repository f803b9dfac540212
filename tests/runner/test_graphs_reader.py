"""Frozen graphs are read from files and given to TensorFlow."""

import logging
import os
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import find_signature, import_graph, read_graph_def
from modelserver.runner.graphs.reader import MAX_GRAPH_BYTES
from support import tiny_graphs


def read(folder, data):
    """Read bytes as a graph's file."""
    return read_graph_def(tiny_graphs.write(folder / "pets.frozen.pb", data))


def test_a_frozen_graph_is_read_and_imported(tmp_path):
    """The graph has the file's nodes under their own names, with static shapes."""
    graph = import_graph(read(tmp_path, tiny_graphs.echo_detector()))
    tensor = graph.get_tensor_by_name("detection_boxes:0")
    assert tensor.shape.as_list() == [None, 3, 4]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("saved_model", "is a SavedModel, whose weights are in the files beside it"),
        ("empty", "is empty; copy the graph again"),
        ("html", "is a web page; download the file itself"),
        ("lfs_pointer", "is a Git LFS pointer, not the graph; run 'git lfs pull'"),
        ("png", "is a PNG image"),
        ("text_form", "is a graph in text form"),
        ("random_bytes", "is not a frozen TensorFlow graph, or is cut off"),
        ("cut_off", "is not a frozen TensorFlow graph, or is cut off"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path, fault, reason):
    """The error names the file, its kind, and a remedy."""
    with pytest.raises(GraphError) as caught:
        read(tmp_path, tiny_graphs.FAULTS[fault]())
    assert str(caught.value).startswith("pets.frozen.pb ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"  \n\t ", "is empty"),
        (b"<html>", "web page"),
        (b"<?xml version='1.0'?>", "XML page"),
        (b"\xff\xd8\xff\xe0", "JPEG image"),
        (b"GIF89a", "GIF image"),
        (b"\x89HDF\r\n", "Keras HDF5"),
        (b"PK\x03\x04", "zip archive"),
        (b"\x1f\x8b\x08", "gzip archive"),
        (b"\x80\x02}q", "Python pickle"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"versions {\n}", "text form"),
        (b"\x12\x00", "is not a frozen TensorFlow graph"),
    ],
    ids=repr,
)
def test_other_files_are_known_by_their_first_bytes(tmp_path, data, what):
    """Files that people mistake for a frozen graph are named."""
    with pytest.raises(GraphError, match=what):
        read(tmp_path, data)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    """A missing file is an error of that model, without the folder's name."""
    with pytest.raises(GraphError, match=r"^x\.pb cannot be read: No such file"):
        read_graph_def(tmp_path / "x.pb")


def test_a_folder_is_refused(tmp_path):
    """A folder under a graph's name is no regular file."""
    with pytest.raises(GraphError, match="not a regular file"):
        read_graph_def(tmp_path)


def test_a_named_pipe_does_not_block_the_load(tmp_path):
    """Nobody writes into the pipe, and yet the call returns."""
    os.mkfifo(tmp_path / "x.pb")
    with pytest.raises(GraphError, match="not a regular file"):
        read_graph_def(tmp_path / "x.pb")


def test_a_file_of_two_gigabytes_is_refused_unread(tmp_path):
    """Size is checked before reading; the file here is a hole without blocks."""
    path = tmp_path / "x.pb"
    with path.open("wb") as file:
        file.truncate(MAX_GRAPH_BYTES + 1)
    with pytest.raises(GraphError, match="2 GiB or more"):
        read_graph_def(path)


def test_an_op_of_somebodys_own_is_named(tmp_path, caplog):
    """TensorFlow's refusal becomes a sentence; its own words go to the log."""
    with pytest.raises(GraphError) as caught, caplog.at_level(logging.WARNING):
        import_graph(read(tmp_path, tiny_graphs.unknown_op()))
    assert "the op SomebodysOwnOp, which this TensorFlow does not have" in str(
        caught.value
    )
    assert "NotFoundError" in caplog.text


def node(**facts):
    """Build a graph of one node."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.add(**facts)
    return graph_def


def test_a_graph_without_a_needed_node_is_cut_off():
    """A node whose input is missing shows a file cut between two nodes."""
    with pytest.raises(GraphError, match="a node's input is missing, so the file is"):
        import_graph(node(name="a", op="Identity", input=["b"]))


def test_a_graph_of_a_newer_tensorflow_is_named_so():
    """A version from the future is reported in a sentence."""
    graph_def = node(name="a", op="NoOp")
    graph_def.versions.min_consumer = 10**6
    graph_def.versions.producer = 10**6
    with pytest.raises(GraphError, match="made by a newer TensorFlow"):
        import_graph(graph_def)


def test_any_other_refusal_is_quoted_in_one_short_line():
    """TensorFlow's words are cut, and hold no line break."""
    with pytest.raises(GraphError) as caught:
        import_graph(node(name="a\nb" * 200, op="NoOp"))
    assert len(str(caught.value)) < 250
    assert str(caught.value).endswith("...")
    assert "\n" not in str(caught.value)


ECHO = tiny_graphs.echo_detector()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, len(ECHO) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    )
)
def test_a_changed_byte_is_a_graph_or_an_error_of_one(changes):
    """Changed bytes give a graph or a ``GraphError``, and no other error."""
    data = bytearray(ECHO)
    for place, value in changes:
        data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            graph = import_graph(read(Path(folder), bytes(data)))
            find_signature(graph, "detection", None)
        except GraphError:
            return
