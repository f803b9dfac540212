"""Apply a rewrite to a graph that is built by code, and run both."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from modelserver.runner.rewriting.draft import Draft
from support.tiny_graphs import building

v1 = tf.compat.v1


class Trial:
    """A graph, or its definition, with input ``x`` and output ``y``: before and after."""

    def __init__(self, graph, fetched=("y:0",), fed=("x:0",)):
        is_graph = isinstance(graph, tf.Graph)
        self.before = graph.as_graph_def(add_shapes=False) if is_graph else graph
        self.untouched = self.before.SerializeToString()
        self.fed, self.fetched = fed, fetched
        self.draft = Draft(self.before, fed, fetched)

    def apply(self, *rewrites):
        """Apply rewrites and give what the last one returned."""
        for rewrite in rewrites:
            result = rewrite(self.draft)
        self.draft.drop_unused()
        assert self.before.SerializeToString() == self.untouched
        return result

    @property
    def ops(self):
        """How many nodes of each op the rewritten graph has."""
        return Counter(node.op for node in self.draft.nodes.values())

    def run(self, *feed):
        """Give the fetched values before and after."""
        return [
            fetch(definition, self.fetched, dict(zip(self.fed, feed, strict=True)))
            for definition in (self.before, self.draft.graph_def())
        ]

    def assert_same(self, *feed, exact=False):
        """Check that the rewritten graph answers the same."""
        before, after = self.run(*feed)
        for old, new in zip(before, after, strict=True):
            assert old.dtype == new.dtype
            assert old.shape == new.shape
            if exact:
                np.testing.assert_array_equal(new, old)
            else:
                np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def fetch(definition, fetched, feed):
    """Run a graph as it is, without TensorFlow's own rewriting."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    config = v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with v1.Session(graph=graph, config=config) as session:
        return session.run(list(fetched), feed)


@contextmanager
def on_images(shape=(None, 5, 6, 3)):
    """Build a graph on the float placeholder ``x``."""
    with building() as graph:
        yield graph, v1.placeholder(tf.float32, shape, "x")


def numbers(*shape, seed=1, low=-1.0, high=1.0):
    """Random float32 numbers."""
    random = np.random.default_rng(seed)
    return random.uniform(low, high, shape).astype(np.float32)
