"""Suppressions of one class each stay on the CPU next to a GPU."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.runner.rewriting import keep_suppression_on_cpu
from support.rewriting_runs import fetch
from support.suppression_graphs import CLASSES, KINDS, SCOPE, combined, exported, noise

FETCHED = ("detection_boxes:0", "detection_scores:0", "count:0")


def definition(graph):
    return graph.as_graph_def(add_shapes=False)


def on_the_cpu(graph_def):
    return [node for node in graph_def.node if node.device]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["", "SecondStage"])
def test_suppressions_of_one_class_each_are_kept_there(kind, stage):
    """All nodes between them stay there too, and the answers are unchanged."""
    plain = definition(exported(kind, scope=f"{stage}{SCOPE}"))
    kept = definition(exported(kind, scope=f"{stage}{SCOPE}"))
    assert keep_suppression_on_cpu(kept) == CLASSES
    nodes = on_the_cpu(kept)
    assert {node.device for node in nodes} == {"/device:CPU:0"}
    assert {"GatherV2", "TopKV2", "ConcatV2"} <= {node.op for node in nodes}
    assert all("MultiClassNonMaxSuppression" in node.name for node in nodes)
    feed = {"x:0": noise(images=2)}
    for before, after in zip(
        fetch(plain, FETCHED, feed), fetch(kept, FETCHED, feed), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_colocation_with_another_node_is_dropped():
    """Such a colocation could ask for the GPU again."""
    kept = definition(exported("V3"))
    inside = next(node for node in kept.node if "MultiClass" in node.name)
    inside.attr["_class"].list.s.append(b"loc:@x")
    keep_suppression_on_cpu(kept)
    assert "_class" not in inside.attr


def test_one_suppression_of_all_classes_stays_where_it_is():
    """The first stage of a Faster R-CNN, which knows one class, stays too."""
    kept = definition(combined())
    assert keep_suppression_on_cpu(kept) == 0
    assert not on_the_cpu(kept)
    kept = tf.compat.v1.GraphDef()
    scope = "FirstStagePostprocessor/BatchMultiClassNonMaxSuppression/map/while"
    kept.node.add(name=f"{scope}/NonMaxSuppressionV3", op="NonMaxSuppressionV3")
    assert keep_suppression_on_cpu(kept) == 0
    assert not on_the_cpu(kept)


def test_other_networks_with_many_suppressions_are_left_alone():
    """Nothing is known of those."""
    kept = tf.compat.v1.GraphDef()
    for number in range(80):
        kept.node.add(
            name=f"nms_{number}/NonMaxSuppressionV3", op="NonMaxSuppressionV3"
        )
    assert keep_suppression_on_cpu(kept) == 0
    assert not on_the_cpu(kept)
