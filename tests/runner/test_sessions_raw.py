"""Numbers that are fed as they are, to the graph as it was written."""

import logging
import os

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError, OtherTask, RunFailed
from modelserver.core.messages import Job
from modelserver.runner import inline
from support import tiny_graphs
from support.app_client import noise
from support.graph_runs import run, session_of
from support.rewritable_models import fast_classifier, fast_detector

v1 = tf.compat.v1
BOXES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


@pytest.fixture
def opened(tmp_path):
    """A function that opens a session on a graph's bytes and closes it at the end."""
    sessions = []

    def open_(graph, kind="detection", **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", graph)
        held = os.open(path, os.O_RDONLY)
        session = session_of(path, kind, held={"graph": held}, **options)
        sessions.append(session)
        session.open()
        os.close(held)
        path.unlink()
        return session

    yield open_
    for session in sessions:
        session.close()


def equal(found, wanted):
    """Compare all outputs with TensorFlow's own."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_a_rewritten_detector_gives_all_that_its_graph_gives(opened, caplog):
    """No score floor, no other suppression: a second session, told once, has them."""
    caplog.set_level(logging.INFO)
    data = fast_detector()
    session = opened(data, score_floor=0.4, max_batch=4)
    assert any(note.startswith("rewritten") for note in session.notes)
    assert "once more" not in caplog.text
    for seed in range(2):
        image = noise(seed=seed)[None]
        (found,) = session.run_raw([image])
        wanted = run(data, BOXES, {"image_tensor": image})
        equal(found, dict(zip(BOXES, wanted, strict=True)))
        assert (found["detection_scores"] < 0.4).any()
    assert caplog.text.count("once more") == 1


def test_a_graph_that_runs_as_it_is_needs_no_second_session(opened, caplog):
    """Its own session answers."""
    caplog.set_level(logging.INFO)
    data = tiny_graphs.echo_detector()
    session = opened(data, rewrite=False)
    image = noise()[None]
    (found,) = session.run_raw([image])
    equal(
        found, dict(zip(BOXES, run(data, BOXES, {"image_tensor": image}), strict=True))
    )
    assert "once more" not in caplog.text


def test_numbers_of_several_clients_run_together(opened):
    """Each is answered as it would be alone."""
    data = fast_classifier()
    session = opened(data, "classification", max_batch=4)
    (spec,), (out,) = session.inputs, session.outputs
    shape = [side if side > 0 else 8 for side in spec.shape[1:]]
    rng = np.random.default_rng(3)
    tensors = [rng.normal(size=(1, *shape)).astype(spec.dtype) for _ in range(3)]
    together = session.run_raw(tensors)
    for one, found in zip(tensors, together, strict=True):
        equal(found, {out.name: run(data, [out.name], {spec.name: one})[0]})


def test_several_images_of_one_client_are_one_run(opened):
    """They come back with their batch axis."""
    data = fast_detector()
    session = opened(data)
    images = np.stack([noise(seed=seed) for seed in range(3)])
    (found,) = session.run_raw([images])
    wanted = run(data, BOXES, {"image_tensor": images})
    equal(found, dict(zip(BOXES, wanted, strict=True)))


def test_a_session_tells_its_tensors_as_they_are_in_the_graph(opened):
    """Names without :0, types, and -1 for any length."""
    session = opened(tiny_graphs.echo_detector())
    (given,) = session.inputs
    assert (given.name, given.dtype, given.shape) == (
        "image_tensor",
        "|u1",
        (-1, -1, -1, 3),
    )
    assert [one.name for one in session.outputs] == list(BOXES)
    assert {one.dtype for one in session.outputs} == {"<f4"}
    assert opened(tiny_graphs.encoded_detector()).inputs[0].dtype == ""


def test_numbers_that_the_graph_cannot_compute_with_are_a_failed_run(opened):
    """TensorFlow's own refusal is the cause."""
    session = opened(tiny_graphs.classifier(), "classification")
    with pytest.raises(RunFailed):
        session.run_raw([np.zeros((1, 3, 3, 9), "<f4")])


def raw_job(path, data):
    """Return the job of a graph that no task serves."""
    tiny_graphs.write(path, data)
    return Job(name="m", kind="raw", graph=str(path), max_batch=8)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (tiny_graphs.pose, ["heatmap", "offsets"]),
        (tiny_graphs.segmentation, ["SemanticPredictions"]),
        (tiny_graphs.embedding, ["embeddings"]),
    ],
)
def test_a_graph_of_another_task_gives_what_tensorflow_gives(tmp_path, build, names):
    """One tensor a run, whatever MAX_BATCH allows; a switch for training is off."""
    data = build()
    session = inline.open_session(raw_job(tmp_path / "graph.pb", data))
    try:
        facts = inline.facts(session)
        assert facts.max_batch == 1
        assert [one.name for one in facts.outputs] == names
        (given,) = facts.inputs
        shape = [abs(side) for side in given.shape]
        image = np.random.default_rng(1).normal(size=shape).astype(given.dtype)
        (found,) = session.run_raw([image])
        feed = {given.name: image}
        if build is tiny_graphs.segmentation:
            feed["is_training"] = False
        equal(found, dict(zip(names, run(data, names, feed), strict=True)))
    finally:
        session.close()


def test_a_graph_of_another_task_is_refused_with_what_it_takes(opened):
    """So the server can offer it to clients who have tensors."""
    with pytest.raises(OtherTask, match="finds keypoints") as refused:
        opened(tiny_graphs.pose())
    tensors = refused.value.tensors
    assert [(one.name, one.dtype) for one in tensors.inputs] == [("image", "<f4")]
    assert [one.shape for one in tensors.outputs] == [(-1, 8, 8, 5), (-1, 8, 8, 10)]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (tiny_graphs.classifier(), "detection"),
        (tiny_graphs.echo_detector(), "classification"),
        (tiny_graphs.two_inputs(), "detection"),
    ],
)
def test_what_another_app_serves_or_takes_two_tensors_is_just_refused(
    opened, data, kind
):
    """Nobody is to feed it instead of mending it."""
    with pytest.raises(GraphError) as refused:
        opened(data, kind)
    assert not isinstance(refused.value, OtherTask)


def test_a_graph_of_another_task_that_cannot_be_run_does_not_load(tmp_path):
    """The warm-up says why."""
    job = raw_job(tmp_path / "graph.pb", tiny_graphs.unrunnable_pose())
    with pytest.raises(GraphError, match=r"zeros of the shape \[1, 16, 16, 3\]"):
        inline.open_session(job)


def test_a_graph_of_another_task_and_of_any_size_is_loaded_without_a_run(tmp_path):
    """Nothing tells which size it would take."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, [None, None, None, 3], "image")
        tf.multiply(image, 2.0, name="heatmap")
    job = raw_job(tmp_path / "graph.pb", tiny_graphs.file_of(graph))
    session = inline.open_session(job)
    try:
        (found,) = session.run_raw([np.ones((1, 2, 3, 3), "<f4")])
        assert (found["heatmap"] == 2).all()
    finally:
        session.close()
