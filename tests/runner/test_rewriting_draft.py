"""A draft of a graph knows who uses whom, and which nodes may change."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.runner.rewriting.draft import (
    Draft,
    as_channels,
    canonical,
    copy_node,
    node_of,
)
from support.rewriting_runs import Trial, on_images
from support.tiny_graphs import building

v1 = tf.compat.v1


def three_in_a_row():
    """Build three nodes in a row, from x by a and b to y."""
    with on_images() as (graph, x):
        a = tf.nn.relu(x, name="a")
        tf.nn.relu(tf.nn.relu(a, name="b"), name="y")
    return graph


def test_names_of_inputs_are_read():
    """An input may name an output, or only a node to wait for."""
    assert [node_of(name) for name in ("a/b", "a/b:1", "^a/b")] == ["a/b"] * 3
    assert [canonical(name) for name in ("a", "a:0", "a:1")] == ["a", "a", "a:1"]


def test_the_only_user_is_found():
    """The only user takes the first output once."""
    draft = Trial(three_in_a_row()).draft
    assert draft.only_user("a").name == "b"
    assert draft.only_user("b").name == "y"


def twice(a):
    return tf.add(a, a, name="y")


def waited_for(a):
    with tf.control_dependencies([a]):
        return tf.constant(1.0, name="y")


@pytest.mark.parametrize("use", [twice, waited_for], ids=lambda use: use.__name__)
def test_a_value_with_other_uses_has_no_only_user(use):
    """A value with other uses must stay as it is."""
    with on_images() as (graph, x):
        use(tf.nn.relu(x, name="a"))
    assert Trial(graph).draft.only_user("a") is None


def test_a_second_output_is_no_only_use():
    """A node that is folded away has one output."""
    with on_images((2, 3)) as (graph, x):
        _, second = tf.unstack(x, name="a")
        tf.nn.relu(second, name="y")
    assert Trial(graph).draft.only_user("a") is None


@pytest.mark.parametrize("kept", ["fed", "fetched"])
def test_a_fed_or_fetched_value_has_no_only_user(kept):
    """A caller sees such a value, so it must stay as it is."""
    graph = three_in_a_row()
    names = {"fed": ("x:0",), "fetched": ("y:0",)}
    names[kept] += ("a:0",)
    assert Trial(graph, **names).draft.only_user("a") is None


def test_putting_and_dropping_keeps_count_of_users():
    """A replaced node's old inputs lose a user."""
    draft = Trial(three_in_a_row()).draft
    draft.put(copy_node(draft.nodes["b"], input=["x"]))
    assert [user.name for user in draft.users("x")] == ["a", "b"]
    assert draft.users("a") == []
    draft.drop("a")
    assert [user.name for user in draft.users("x")] == ["b"]
    assert [node.name for node in draft] == ["x", "b", "y"]


def test_rewiring_moves_the_data_only():
    """A node that waits for the old node goes on waiting for it."""
    with on_images() as (graph, x):
        a = tf.nn.relu(x, name="a")
        with tf.control_dependencies([a]):
            tf.add(x, x, name="y")
        tf.nn.relu(a, name="b")
    draft = Trial(graph).draft
    draft.rewire("a", "x")
    assert list(draft.nodes["y"].input) == ["x", "x", "^a"]
    assert list(draft.nodes["b"].input) == ["x"]


def test_nodes_that_nothing_needs_are_dropped():
    """Neither the training part nor the nodes behind the output are needed."""
    with on_images() as (graph, x):
        y = tf.nn.relu(x, name="y")
        tf.nn.relu(y, name="behind")
        tf.reduce_sum(x, name="beside")
    trial = Trial(graph)
    assert trial.apply(Draft.drop_unused) == 3
    assert set(trial.draft.nodes) == {"x", "y"}


def test_a_node_that_is_waited_for_is_needed():
    """An Assert only has a control edge."""
    with on_images() as (graph, x):
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x > 0), data=[x])
        with tf.control_dependencies([check]):
            tf.nn.relu(x, name="y")
    trial = Trial(graph)
    trial.apply(Draft.drop_unused)
    assert any(node.op == "Assert" for node in trial.draft.nodes.values())
    with pytest.raises(tf.errors.InvalidArgumentError):
        trial.run(np.full((1, 5, 6, 3), -1, np.float32))


def test_a_fed_tensor_that_nothing_takes_stays():
    """A caller that feeds it must not fail."""
    with building() as graph:
        v1.placeholder(tf.float32, (), "x")
        tf.constant(1.0, name="y")
    trial = Trial(graph)
    trial.apply(Draft.drop_unused)
    trial.assert_same(3.0)


def test_constants_are_read():
    """A Const has a value, unless it is fed or waits for a node."""
    with on_images() as (graph, x):
        tf.constant([1.0, 2.0], name="free")
        tf.constant(3.0, name="fed")
        with tf.control_dependencies([x]):
            tf.constant(4.0, name="waits")
    draft = Trial(graph, fed=("fed:0",), fetched=()).draft
    assert draft.constant("free").tolist() == [1, 2]
    assert draft.constant("free:0").tolist() == [1, 2]
    for name in ("fed", "x", "waits", "free:1", "unknown"):
        assert draft.constant(name) is None
    assert draft.value("waits") == 4
    assert draft.value("fed") is None


def test_new_names_are_free():
    """A graph may have any name already."""
    draft = Trial(three_in_a_row()).draft
    names = [draft.add_constant("a", np.float32(n)) for n in (1, 2)]
    assert names == ["a_1", "a_2"]
    assert draft.constant("a_2") == 2


def test_a_colocation_with_a_node_that_is_gone_is_dropped():
    """TensorFlow refuses a graph that asks for such a colocation."""
    with on_images() as (graph, x):
        gone = tf.nn.relu(x, name="gone")
        with v1.colocate_with(gone):
            tf.nn.relu(x, name="y")
        with v1.colocate_with(x):
            tf.nn.relu(x, name="other")
    trial = Trial(graph, fetched=("y:0", "other:0"))
    trial.apply(Draft.drop_unused)
    nodes = {node.name: node for node in trial.draft.graph_def().node}
    assert "gone" not in nodes
    assert "_class" not in nodes["y"].attr
    assert nodes["other"].attr["_class"].list.s == [b"loc:@x"]
    trial.assert_same(np.ones((1, 5, 6, 3), np.float32))


def test_functions_and_versions_are_handed_on():
    """A graph of TensorFlow 2 calls functions of its own."""
    with on_images() as (graph, x):
        double = tf.function(lambda value: value + value)
        tf.identity(double(x), name="y")
    graph_def = graph.as_graph_def()
    made = Draft(graph_def, ("x:0",), ("y:0",)).graph_def()
    assert made.library == graph_def.library
    assert made.versions == graph_def.versions


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        *[(shape, True) for shape in ((), (1,), (3,), (1, 3), (1, 1, 1, 3))],
        *[(shape, False) for shape in ((2,), (3, 1), (4, 3), (1, 1, 1, 1, 3))],
    ],
    ids=str,
)
def test_an_operand_is_one_number_a_channel(shape, given):
    """An operand is spread over the channels and adds no axis."""
    found = as_channels(np.ones(shape, np.float32), 4, 3)
    assert (found is not None) is given
    if given:
        assert found.shape == (3,)


def test_an_operand_of_another_type_is_none():
    """Only float32 is computed with here."""
    assert as_channels(np.ones(3), 4, 3) is None
    assert as_channels(None, 4, 3) is None
