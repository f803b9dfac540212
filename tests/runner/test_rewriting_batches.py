"""A graph for a fixed number of images a run serves any number."""

import io

import numpy as np
import pytest
import tensorflow as tf

from modelserver.runner.sessions import session
from support import tiny_graphs
from support.app_client import photo
from support.graph_runs import run, session_of
from support.standin_gpu import a_gpu

__all__ = ["a_gpu"]
v1 = tf.compat.v1
BATCH = 4
COLOURS = [(200, 10, 30), (10, 180, 20), (30, 20, 240), (90, 160, 20), (5, 15, 220)]
FRAMES = [np.full((8, 8, 3), colour, np.uint8) for colour in COLOURS]


def graph_of(change, shape=(BATCH, 8, 8, 3)):
    """Build a classifier of a fixed batch, whose image and logits pass a function."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, shape, "input")
        tf.nn.softmax(change(image), name="softmax")
    return tiny_graphs.file_of(graph)


def logits(image):
    """Score the colours, 0..1, so that no score is sure."""
    return tiny_graphs.colour_logits(image)


OPENED = {
    "plain": logits,
    "reshaped to the batch": lambda image: tf.reshape(
        logits(tf.reshape(image, [BATCH, 8, 8, 3])), [BATCH, 3]
    ),
    "the rest computed": lambda image: tf.reshape(logits(image), [BATCH, -1]),
    "batch and places in one": lambda image: tf.reduce_mean(
        tf.reshape(tf.reshape(image, [BATCH * 64, 3]), [BATCH, 64, 3]), 1
    ),
    "sliced": lambda image: tf.slice(logits(image), [0, 0], [BATCH, 3]),
    "sliced by strides": lambda image: tf.strided_slice(
        logits(image), [0, 0], [BATCH, 3]
    ),
    "ensured": lambda image: tf.ensure_shape(logits(image), [BATCH, 3]),
}
FILLED = {
    "broadcast": lambda image: (
        logits(image) + tf.broadcast_to(tf.zeros_like(logits(image)), [BATCH, 3])
    ),
    "a state of so many": lambda image: (
        logits(image) + tf.constant(np.zeros((BATCH, 3), np.float32))
    ),
    "taken apart": lambda image: tf.stack(
        [logits(one[None])[0] for one in tf.unstack(image, BATCH)]
    ),
    "split": lambda image: tf.concat(
        [logits(part) for part in tf.split(image, BATCH)], 0
    ),
}


@pytest.fixture
def opened(tmp_path):
    """A function that opens a session on a graph's bytes."""
    sessions = []

    def open_(data, kind="classification", **options):
        made = session_of(tiny_graphs.write(tmp_path / "m.pb", data), kind, **options)
        sessions.append(made)
        made.open()
        return made

    yield open_
    for made in sessions:
        made.close()


def scores(made, frames):
    """Return each image's scores."""
    return np.stack([np.reshape(one["scores"], -1) for one in made.run(frames)])


def wanted(data, frames=FRAMES[:BATCH], scale=1 / 255):
    """Return TensorFlow's own answer to a full batch."""
    feed = np.stack(frames).astype(np.float32) * np.float32(scale)
    return run(data, ["softmax"], {"input": feed})[0]


@pytest.mark.parametrize("name", OPENED)
def test_a_batch_that_is_fixed_is_opened(name, opened):
    """Any number of images is answered as in a full batch of the untouched graph."""
    data = graph_of(OPENED[name])
    made = opened(data, max_batch=8)
    assert (made.signature.fill, made.signature.batch, made.max_batch) == (0, 0, 8)
    assert "fixed at 4 images, was opened" in str(made.notes)
    plain = wanted(data)
    np.testing.assert_allclose(scores(made, FRAMES[:1]), plain[:1], atol=1e-6)
    np.testing.assert_allclose(scores(made, FRAMES[:3]), plain[:3], atol=1e-6)
    assert len(made.run(FRAMES)) == 5


@pytest.mark.parametrize("name", FILLED)
def test_a_batch_that_cannot_be_opened_is_filled(name, opened):
    """A batch is filled with copies of its own photos, and the cost is reported."""
    data = graph_of(FILLED[name])
    made = opened(data)
    assert made.signature.fill == BATCH
    assert made.max_batch == BATCH
    (told,) = [one for one in made.findings if one.code == "batch-filled"]
    assert "takes as long as 4 photos" in told.message
    plain = wanted(data)
    for count in range(1, BATCH + 1):
        np.testing.assert_allclose(
            scores(made, FRAMES[:count]), plain[:count], atol=1e-6
        )


def test_a_run_is_filled_with_copies_and_never_with_nothing(opened):
    """A graph that answers by its whole batch answers one photo as that photo's."""

    def by_all(image):
        mean = tf.reduce_mean(logits(image), 0, keepdims=True)
        return tf.concat([mean] * BATCH, 0)

    made = opened(graph_of(by_all))
    assert made.signature.fill == BATCH
    assert scores(made, FRAMES[1:2])[0].argmax() == 1
    (told,) = [one for one in made.findings if one.code == "batch-mixed"]
    assert "each is run alone" in told.message
    assert made.max_batch == 1


def test_max_batch_bounds_a_filled_batch(opened):
    """A run takes no more photos than the setting says, and is filled all the same."""
    made = opened(graph_of(FILLED["split"]), max_batch=2)
    assert made.max_batch == 2
    assert scores(made, FRAMES[:1]).shape == (1, 3)


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(("asked", "most"), [(0, BATCH), (2, 2), (9, BATCH)])
def test_max_batch_bounds_a_filled_batch_on_a_gpu_too(asked, most, opened):
    """On a GPU only the graph's own size is warmed up, even if a run takes fewer."""
    made = opened(graph_of(FILLED["split"]), max_batch=asked)
    assert made.signature.fill == BATCH
    assert made.max_batch == most
    assert scores(made, FRAMES[:1]).shape == (1, 3)


def test_a_detector_of_a_fixed_batch_serves(opened):
    """A detector that holds constants of so many rows has its batch filled."""
    made = opened(tiny_graphs.echo_detector((2, 8, 8, 3)), "detection")
    assert (made.signature.fill, made.max_batch) == (2, 2)
    (outputs,) = made.run(FRAMES[:1])
    assert outputs["classes"][0] == tiny_graphs.echoed(*COLOURS[0])[0]


def test_rows_of_a_fixed_batch_serve(opened):
    """Rows of a fixed batch, as in TensorFlow's first tutorials, are answered."""

    def layer(row):
        half = np.repeat([0.0, 1.0], 392)
        weights = np.stack([1 - half, half], 1).astype(np.float32) / 28
        return tf.matmul(row, weights)

    made = opened(graph_of(layer, (100, 784)))
    image = np.zeros((28, 28, 1), np.uint8)
    image[:14] = 255
    assert scores(made, [image])[0].argmax() == 0
    assert made.signature.fill == 0


def test_an_opened_graph_that_answers_otherwise_is_not_used(opened, monkeypatch):
    """The untouched graph is right, and it serves."""
    answers = iter(["score 0 was 1 and is 2"])
    monkeypatch.setattr(
        session.rewriting, "first_difference", lambda *_: next(answers, None)
    )
    made = opened(graph_of(logits))
    assert made.signature.fill == BATCH


def test_a_graph_of_a_fixed_batch_answers_over_http(serving, folder):
    """A photo is answered over HTTP, and so are several at once."""
    tiny_graphs.write(folder / "m.pb", graph_of(FILLED["taken apart"]))
    client = serving("classification")
    answer = client.post(
        "/classify",
        data={"modelname": "m", "file": (io.BytesIO(photo(COLOURS[2])), "x.png")},
    )
    assert answer.status_code == 200
    findings = client.get("/models/m").json["findings"]
    assert "batch-filled" in {one["code"] for one in findings}
