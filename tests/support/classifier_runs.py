"""Classifiers in bytes: their signatures, and runs as those say."""

import numpy as np
import tensorflow as tf

from modelserver.core.signatures import Sidecar
from modelserver.runner.graphs import find_signature, import_graph

v1 = tf.compat.v1
RED, GREEN, BLUE = np.eye(3) * 255


def imported(data):
    """Import a graph from its bytes."""
    return import_graph(v1.GraphDef.FromString(data))


def find(data, **sidecar):
    """Find the signature of a classifier in bytes."""
    graph = data if isinstance(data, tf.Graph) else imported(data)
    return find_signature(graph, "classification", Sidecar(**sidecar))


def scores(data, colour, **sidecar):
    """Run a classifier on an image of one colour, prepared as its signature says."""
    graph = imported(data)
    signature = find(graph, **sidecar)
    side = signature.size or (8, 8)
    pixels = np.ones((*side, 3)) * colour
    if signature.channels == 1:
        pixels = pixels.mean(2, keepdims=True)
    feed = (pixels - signature.mean) * signature.scale
    feed = feed[None] if signature.layout == "NHWC" else feed
    with v1.Session(graph=graph) as session:
        return session.run(
            signature.outputs["scores"], {signature.input: feed, **signature.feeds}
        )
