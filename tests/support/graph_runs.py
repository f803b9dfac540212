"""Run a frozen graph: its bytes plainly with TensorFlow, or its file in a session."""

import tensorflow as tf

from modelserver.core.messages import Job
from modelserver.runner.sessions import ModelSession
from support.tiny_graphs.building import building, file_of, v1


def run(data, fetches, feed):
    """Run the graph once; names are those of nodes."""
    definition = tf.compat.v1.GraphDef.FromString(data)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(
            [f"{name}:0" for name in fetches],
            {f"{name}:0": value for name, value in feed.items()},
        )


def session_of(path, kind="detection", sidecar=None, **options):
    """Make a session for a graph's file, which the caller opens and closes."""
    sidecar = None if sidecar is None else str(sidecar)
    job = Job(name="m", kind=kind, graph=str(path), sidecar=sidecar, **options)
    return ModelSession(job)


def refused_op():
    """A classifier that would write a file."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], "input")
        tf.nn.softmax(tf.reduce_mean(image, [1, 2]), name="scores")
        tf.io.write_file("x", "y")
        tf.io.write_file("y", "y")
    return file_of(graph)
