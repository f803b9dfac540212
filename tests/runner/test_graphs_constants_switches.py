"""Training switches are fed for inference, and random scores are reported."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.signatures import Signature
from modelserver.runner.sessions.warm_up import MOST_SPREAD, draws_numbers, score_spread
from support import tiny_graphs
from support.classifier_runs import RED, find, scores
from support.graph_runs import session_of


@pytest.fixture
def found_by(tmp_path):
    """A function that opens a session on a graph and returns its findings' codes."""

    def codes(data):
        session = session_of(
            tiny_graphs.write(tmp_path / "m.pb", data), "classification"
        )
        session.open()
        session.close()
        return {one.code: one for one in session.findings}

    return codes


FLAGS = (
    "is_training",
    "phase_train",
    "training",
    "keras_learning_phase",
    "bn/phase",
    "net/train_mode/Placeholder",
    "use_dropout",
)


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_that_defaults_to_training_is_fed_with_false(name, found_by):
    """A flag of any name that says training is fed with false."""
    data = tiny_graphs.learning_classifier(name)
    assert find(data).feeds == {f"{name}:0": False}
    assert f"{name}:0 is fed with False: its default, True, is for training" in str(
        find(data).guesses
    )
    assert "unsteady" not in found_by(data)


@pytest.mark.parametrize("name", ["is_inference", "eval_mode", "deterministic"])
def test_a_flag_for_inference_is_fed_with_true(name):
    """A flag for inference says the opposite, so it is fed with true."""
    data = tiny_graphs.learning_classifier(name, default=False)
    assert find(data).feeds == {f"{name}:0": True}


def test_a_default_that_is_inferences_is_not_fed():
    """A default that suits inference is left alone, without a word."""
    signature = find(tiny_graphs.learning_classifier(default=False))
    assert signature.feeds == {}
    assert "is_training" not in str(signature.guesses)


@pytest.mark.parametrize("name", ["keep_prob", "dropout", "Placeholder_1", "rate"])
@pytest.mark.parametrize(("by", "value"), [("keep", 1), ("rate", 0), ("drop", 0)])
def test_a_dropouts_number_is_known_by_its_use(name, by, value):
    """Its use decides, not its name: the kept share is often called dropout."""
    data = tiny_graphs.learning_classifier(name, 0.5, by=by)
    assert find(data).feeds == {f"{name}:0": value}
    once, again = (scores(data, RED) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert once[0].argmax() == 0


@pytest.mark.parametrize(
    ("name", "default", "value"),
    [
        ("keep_prob", 0.5, 1.0),
        ("dropout_rate", 0.5, 0.0),
        ("learning_phase", 1, 0),
        ("phase_train", np.uint8(1), 0),
    ],
)
def test_a_number_without_a_known_use_is_known_by_its_name(name, default, value):
    """The name decides if the use does not, as without a default."""
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        switch = tf.compat.v1.placeholder_with_default(default, (), name)
        logits = tiny_graphs.colour_logits(image) * tf.cast(switch, tf.float32)
        tf.nn.softmax(logits, name="softmax")
    assert find(tiny_graphs.file_of(graph)).feeds == {f"{name}:0": value}


def test_a_switch_without_a_telling_name_keeps_its_default(found_by):
    """The default is reported, and scores that vary are a finding of their own."""
    data = tiny_graphs.learning_classifier("mode")
    signature = find(data)
    assert signature.feeds == {}
    assert "mode:0 keeps its default, True" in str(signature.guesses)
    unsteady = found_by(data)["unsteady"]
    assert unsteady.level == "warning"
    assert "differ by 0." in unsteady.message
    assert "dropout" in unsteady.message


def test_a_default_with_axes_is_no_switch():
    """A default with axes, such as anchors, stays as it is, without a word."""
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        weights = tf.compat.v1.placeholder_with_default(np.ones(3), (3,), "train")
        logits = tiny_graphs.colour_logits(image) * tf.cast(weights, tf.float32)
        tf.nn.softmax(logits, name="softmax")
    signature = find(tiny_graphs.file_of(graph))
    assert signature.feeds == {}
    assert "train" not in str(signature.guesses)


def signature_of(kind, *, softmax=False):
    """Make a signature of which only the kind of scores matters."""
    return Signature(
        kind=kind,
        input="i:0",
        dtype="uint8",
        layout="NHWC",
        channels=3,
        outputs={},
        softmax=softmax,
    )


@pytest.mark.parametrize(
    ("runs", "kind", "gap"),
    [
        ([[0.2, 0.8], [0.2, 0.8]], "classification", 0),
        ([[0.2, 0.8], [0.2, 0.8], [0.25, 0.75]], "classification", 0.05),
        ([[0.9, 0.1], [0.1, 0.9]], "detection", 0),
        ([[0.9, 0.1], [0.9, 0.3]], "detection", 0.2),
        ([[np.nan, 0.1], [np.nan, 0.1]], "classification", 0),
        ([[0.9], [0.9, 0.1]], "detection", 1),
    ],
)
def test_the_spread_of_scores_is_measured(runs, kind, gap):
    """It is over the runs after the first; a detector's scores have no order."""
    waiting = [*runs, *[runs[0]] * 20]
    boxes = {"boxes": np.zeros((1, 4))} if kind == "detection" else {}
    got = score_spread(
        lambda: {"scores": np.array([waiting.pop(0)]), **boxes}, signature_of(kind)
    )
    assert got == pytest.approx(gap)
    assert (got > MOST_SPREAD) == (gap > 0)


def test_logits_are_compared_as_probabilities():
    """A thousandth of a large logit makes no difference."""
    waiting = [[900.0, 0.0], [900.5, 0.0]] * 20
    runs = lambda: {"scores": np.array([waiting.pop(0)])}  # noqa: E731 - one line
    assert (
        score_spread(runs, signature_of("classification", softmax=True)) < MOST_SPREAD
    )


def test_a_graph_that_draws_no_numbers_is_run_twice():
    """More runs are done only if something is random, in a function too."""
    calls = []

    def run():
        calls.append(None)
        return {"scores": np.array([0.2, 0.8])}

    score_spread(run, signature_of("classification"), draws=False)
    assert len(calls) == 2

    @tf.function(autograph=False)
    def noisy(image):
        return image + tf.random.normal(tf.shape(image))

    for inside in (noisy, tf.nn.relu):
        with tiny_graphs.building() as graph:
            image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
            inside(image)
        graph_def = graph.as_graph_def()
        assert draws_numbers(graph_def) == (inside is noisy)
