"""The corpus of hostile models is refused, in words that are safe to show."""

import re
from pathlib import Path

import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError, LabelMapError
from modelserver.runner.graphs import read_checked_graph
from modelserver.tasks.labels import read_labels
from support import hostile_models, tiny_graphs
from support.graph_runs import session_of
from support.hostile_models import assert_fit_to_show

MARKER = Path(__file__).parent / "must_never_be_written"
FILES = hostile_models.files(MARKER)
LABEL_MAPS = hostile_models.label_maps()
LOADS = hostile_models.loads()


def test_the_corpus_is_large():
    """The corpus has at least 60 models, of all kinds."""
    assert len(FILES) > 60
    assert len(LABEL_MAPS) > 12
    assert len(LOADS) > 9


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_graph_is_refused_before_tensorflow_sees_it(
    name, tmp_path, monkeypatch
):
    """Reading and checking it is enough, and the reason names the fault."""
    for name_of in ("import_graph_def", "load_op_library"):
        monkeypatch.delattr(tf, name_of)
    path = tiny_graphs.write(tmp_path / "bad.frozen.pb", FILES[name].data)
    with pytest.raises(GraphError) as caught:
        read_checked_graph(path)
    assert re.search(FILES[name].reason, str(caught.value)), str(caught.value)
    assert_fit_to_show(str(caught.value), tmp_path)
    assert not MARKER.exists()


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_a_hostile_label_map_is_refused(name, tmp_path):
    """The error has the file's name and its kind."""
    path = tiny_graphs.write(tmp_path / "bad.label_map.pbtxt", LABEL_MAPS[name].data)
    with pytest.raises(LabelMapError) as caught:
        read_labels(path)
    assert re.search(LABEL_MAPS[name].reason, str(caught.value)), str(caught.value)
    assert_fit_to_show(str(caught.value), tmp_path)


@pytest.mark.parametrize("name", LOADS)
def test_faults_that_only_loading_shows_pass_the_check(name, tmp_path):
    """The rest of the corpus reaches TensorFlow, in a process of its own."""
    hostile = LOADS[name]
    path = tiny_graphs.write(tmp_path / "bad.frozen.pb", hostile.data)
    trusted = tiny_graphs.trusted(hostile.data) if hostile.trusted else ()
    assert read_checked_graph(path, trusted).node


SOFT = sorted(LOADS.keys() - {"load_crashes", "load_hangs"})


@pytest.mark.parametrize("name", SOFT)
def test_faults_that_loading_shows_are_reported_in_a_sentence(name, tmp_path):
    """TensorFlow's refusal and a useless output are reported fit to be shown."""
    path = tiny_graphs.write(tmp_path / "bad.frozen.pb", LOADS[name].data)
    session = session_of(path)
    with pytest.raises(GraphError) as caught:
        session.open()
    session.close()
    assert re.search(LOADS[name].reason, str(caught.value)), str(caught.value)
    assert_fit_to_show(str(caught.value), tmp_path)


def test_the_corpus_has_teeth(tmp_path):
    """Without the check, a graph of it does write its file."""
    marker = tmp_path / "marker"
    bad = hostile_models.files(marker)["op_write_file"].data
    path = tiny_graphs.write(tmp_path / "bad.frozen.pb", bad)
    session = session_of(path, trusted=tiny_graphs.trusted(bad), rewrite=False)
    session.open()
    session.close()
    assert marker.read_text() == "x"


@pytest.mark.parametrize(
    ("words", "shown_as"),
    [
        ("as it is, caf\u00e9", "as it is, caf\u00e9"),
        ("two\n  lines\tfolded", "two lines folded"),
        ("\x1b[2J\0 \u202e", "\\x1b[2J\\x00 \\u202e"),
        ("a" * 1000, "a" * 1000),
        ("a" * 1001, "a" * 997 + "..."),
        ("\0" * 5000, "\\x00" * 249 + "\\..."),
    ],
)
def test_a_reason_is_one_printable_line(words, shown_as):
    """A reason is safe whichever words it quotes."""
    assert str(GraphError(words)) == shown_as
