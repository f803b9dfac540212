"""Leftovers of freezing and of other machines are repaired, and reported."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import (
    find_signature,
    import_graph,
    read_checked_graph,
    read_repaired_graph,
)
from modelserver.runner.graphs.repairs import repair
from support import hostile_models, tiny_graphs
from support.classifier_runs import BLUE, GREEN, RED
from support.graph_runs import session_of
from support.hostile_building import sound
from support.tiny_graphs.leftovers import FLOAT, INT, _node

v1 = tf.compat.v1
KINDS = {
    "device": "devices cleared (8 of ",
    "pinned": "devices cleared (",
    "colocated": "lost colocations dropped (",
    "waiting": "waits for nodes that are gone dropped (",
    "with_newer": "unknown attributes dropped (",
    "ref": "reference ops made value ops (",
    "unread": "assignments that nobody reads dropped (",
    "assigned": "assignments replaced by what they give (1 Assign)",
    "asked": "reading a variable replaced by its value (",
}


def answers(folder, data):
    """Return the scores of three plain colours, and the session that gave them."""
    session = session_of(tiny_graphs.write(folder / "m.pb", data), "classification")
    session.open()
    try:
        images = [np.full((8, 8, 3), c).astype(np.uint8) for c in (RED, GREEN, BLUE)]
        return session, [session.run([image])[0]["scores"][0] for image in images]
    finally:
        session.close()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Return the answers of a classifier without leftovers."""
    return answers(tmp_path_factory.mktemp("plain"), tiny_graphs.classifier())[1]


@pytest.mark.parametrize("name", tiny_graphs.LEFTOVERS)
def test_a_graph_with_leftovers_answers_as_without(name, wanted, tmp_path):
    """Each kind of leftover leaves the answers unchanged."""
    session, scores = answers(tmp_path, tiny_graphs.LEFTOVERS[name]())
    np.testing.assert_array_equal(scores, wanted)
    (told,) = [one for one in session.findings if one.code == "repaired"]
    assert told.message in session.notes
    (kind,) = [kind for kind in KINDS if name.startswith(kind)]
    assert KINDS[kind] in told.message


def run_plainly(data):
    """Run a graph with TensorFlow alone."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(v1.GraphDef.FromString(data), name="")
    with v1.Session(graph=graph, config=v1.ConfigProto()) as session:
        session.run("softmax:0", {"input:0": np.zeros((1, 8, 8, 3))})


# A CPU is here, what a function's devices do depends, and attributes are passed over.
PASSED_OVER = {"device_2", "pinned_in_a_function", "with_newer_attributes"}


@pytest.mark.parametrize("name", sorted(tiny_graphs.LEFTOVERS.keys() - PASSED_OVER))
def test_tensorflow_alone_refuses_it(name):
    """Each repair is needed; TensorFlow refuses some graphs only once they are run."""
    with pytest.raises((tf.errors.OpError, ValueError)):
        run_plainly(tiny_graphs.LEFTOVERS[name]())


def test_a_graph_without_leftovers_stays_as_it_is():
    """Such a graph is unchanged bit by bit, and nothing is reported."""
    graph_def = v1.GraphDef.FromString(tiny_graphs.map_resizing_detector())
    before = graph_def.SerializeToString(deterministic=True)
    assert repair(graph_def) == ()
    assert graph_def.SerializeToString(deterministic=True) == before


def test_a_repair_is_done_once():
    """A repaired graph needs no repair."""
    for make in tiny_graphs.LEFTOVERS.values():
        graph_def = v1.GraphDef.FromString(make())
        assert repair(graph_def)
        assert repair(graph_def) == ()


def test_a_colocation_with_a_node_that_is_there_stays():
    """Such a colocation costs nothing, and names no device."""
    graph_def = v1.GraphDef.FromString(
        tiny_graphs.LEFTOVERS["colocated_with_nothing"]()
    )
    repair(graph_def)
    assert list(graph_def.node[1].attr["_class"].list.s) == [b"loc:@input"]


def test_an_assignment_that_training_would_read_is_read_in_training(tmp_path):
    """The sum of both is read if the switch says so; else the branch is dead."""
    data = tiny_graphs.LEFTOVERS["ref_switch"]()
    graph_def = read_checked_graph(tiny_graphs.write(tmp_path / "m.pb", data))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    with v1.Session(graph=graph) as session:
        assert session.run("merge:0").tolist() == [0, 0, 0]
        assert session.run("merge:0", {"phase_train:0": True}).tolist() == [0.5] * 3


def test_a_branch_that_is_not_taken_stays_dead_without_its_assignment():
    """A node that waited for the assignment in the branch waits for its value now."""

    def change(graph_def):
        by_ref = "by_ref"
        _node(graph_def, by_ref, "RefSwitch", "mean", "phase_train", T=FLOAT)
        _node(graph_def, "add", "AssignAdd", f"{by_ref}:1", "Switch:1", T=FLOAT)
        _node(graph_def, "one", "Identity", "half", "^add", T=FLOAT)
        merge = _node(graph_def, "merge", "Merge", "one", by_ref, T=FLOAT)
        merge.attr["N"].i = 2
        return "merge"

    graph_def = v1.GraphDef.FromString(tiny_graphs.with_mean(change))
    repair(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    with v1.Session(graph=graph) as session:
        assert session.run("merge:0").tolist() == [0, 0, 0]
        assert session.run("merge:0", {"phase_train:0": True}).tolist() == [0.5] * 3


def test_an_unknown_attribute_with_a_value_is_reported_apart():
    """TensorFlow ignores it, and nobody knows how it would have changed the op."""
    graph_def = v1.GraphDef.FromString(tiny_graphs.classifier())
    graph_def.node[-1].attr["hotter"].f = 2.0
    assert repair(graph_def) == (
        "unknown attributes, which may matter, dropped (1 hotter of Softmax)",
    )


def test_a_scatter_that_is_read_is_refused_with_its_name(tmp_path):
    """Its value depends on the runs before, which no server can promise."""

    def change(graph_def):
        _node(graph_def, "s", "ScatterSub", "mean", "by", "half", T=FLOAT, Tindices=INT)
        return "s"

    path = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.with_mean(change))
    with pytest.raises(GraphError, match="the op ScatterSub in the node 's'"):
        read_checked_graph(path)


def test_a_variable_is_still_one():
    """Its assignments are no leftovers: the graph is not frozen, and is refused so."""
    graph_def = v1.GraphDef.FromString(tiny_graphs.not_frozen())
    repair(graph_def)
    graph = import_graph(graph_def)
    with pytest.raises(GraphError, match="not frozen"):
        find_signature(graph, "detection", None)


@pytest.mark.parametrize("op", ["WriteFile", "Abort", "SaveV2", "PyFunc", "Print"])
def test_an_op_that_is_refused_is_refused_on_any_device(op, tmp_path):
    """A repair never takes away an op that reaches out of the model."""
    data = tiny_graphs.on_device("/device:GPU:0", sound(("bad", op, "^gone")))
    with pytest.raises(GraphError, match=f"the op {op} in the node 'bad'"):
        read_checked_graph(tiny_graphs.write(tmp_path / "m.pb", data))


def test_hostile_graphs_are_repaired_without_a_word_too_many(tmp_path):
    """The report is short and printable for all hostile graphs."""
    for hostile in hostile_models.files(tmp_path / "marker").values():
        graph_def = v1.GraphDef()
        try:
            graph_def.ParseFromString(hostile.data)
        except Exception:  # noqa: BLE001, S112 - no graph at all
            continue
        if len(graph_def.node) < 1000:
            assert all(
                one.isprintable() and len(one) < 400 for one in repair(graph_def)
            )


def test_a_detector_whose_nodes_say_gpu_serves(tmp_path):
    """Its loops and its convolutions run on the CPU."""
    data = tiny_graphs.on_device("/gpu:0", tiny_graphs.map_resizing_detector())
    path = tiny_graphs.write(tmp_path / "m.frozen.pb", data)
    session = session_of(path)
    session.open()
    try:
        (outputs,) = session.run([np.full((10, 12, 3), 200, np.uint8)])
        assert outputs["classes"][0, 0] == tiny_graphs.echoed(200, 200, 200)[0]
    finally:
        session.close()
    assert session.findings[0].code == "repaired"


def test_all_repairs_of_a_file_are_reported(tmp_path):
    """The report of each kind names the ops, the commonest first."""
    data = tiny_graphs.on_device("/gpu:0", tiny_graphs.on_device("gpu0"))
    path = tiny_graphs.write(tmp_path / "m.pb", data)
    assert read_repaired_graph(path).repairs == ("devices cleared (8 of /gpu:0)",)
