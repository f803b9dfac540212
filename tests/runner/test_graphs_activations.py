"""A classifier's last ops decide how its scores are read."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.core.signatures import DetectionOutputs
from modelserver.tasks.classification import answer_of, classes_of
from modelserver.tasks.labels import LabelMap, alignment_of, numbered
from support import tiny_graphs
from support.classifier_runs import BLUE, RED, find, scores

COOL_WARM = LabelMap({0: "cool", 1: "warm"})
SEVERAL = LabelMap(dict(enumerate(tiny_graphs.COLOURS)))
SCALE = 1 / 51


def one(x):
    """Make a logit of the colours' logits: sure for red, as sure against for blue."""
    return tf.matmul(x * SCALE, [[1.0], [0.0], [-1.0]])


def answer(data, colour, labels=COOL_WARM, **sidecar):
    """Return the server's answer to an image of one colour, fed as 0..255."""
    sidecar |= {"mean": 0, "scale": 1}
    signature = find(data, **sidecar)
    aligned = alignment_of(labels, signature)
    found = classes_of(
        signature,
        {"scores": scores(data, colour, **sidecar)},
        labels,
        aligned.offset,
    )
    return answer_of(found), {each.label: each.confidence for each in found}


SIGMOIDS = {
    "sigmoid": tf.sigmoid,
    "half a tanh and one half": lambda x: 0.5 * (tf.tanh(0.5 * x) + 1.0),
    "half a tanh, added": lambda x: 0.5 + 0.5 * tf.tanh(0.5 * x),
    "one by one plus exp": lambda x: 1.0 / (1.0 + tf.exp(-x)),
    "reciprocal": lambda x: tf.math.reciprocal(tf.exp(-x) + 1.0),
    "hard": lambda x: tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0),
    "hard, of two ops": lambda x: tf.maximum(tf.minimum(0.2 * x + 0.5, 1.0), 0.0),
    "hard of MobileNet": lambda x: tf.nn.relu6(x + 3.0) * 0.16667,
    "against": lambda x: 1.0 - tf.sigmoid(-x),
    "cast": lambda x: tf.cast(tf.cast(tf.sigmoid(x), tf.float16), tf.float32),
}
FORMS = {
    "as it is": tf.identity,
    "identity": lambda x: tf.identity(tf.identity(x), name="Identity"),
    "no axis of classes": lambda x: tf.squeeze(x, 1),
    "reshaped": lambda x: tf.reshape(x, [-1]),
    "sliced": lambda x: x[:, 0],
    "rank 4": lambda x: x[:, None, None, :],
    "one image's": lambda x: tf.reshape(x, [1]),
    "a number": lambda x: tf.reshape(x, []),
}


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_a_sigmoid_is_recognised_in_each_spelling(sigmoid):
    """In every spelling a sigmoid decides between two labels, without a guess."""
    data = tiny_graphs.classifier(end=lambda x: SIGMOIDS[sigmoid](one(x)))
    signature = find(data)
    assert (signature.classes, signature.sigmoid, signature.softmax) == (
        1,
        False,
        False,
    )
    assert not [each for each in signature.guesses if "comes from" in each]
    for colour, label in ((RED, "warm"), (BLUE, "cool")):
        found, told = answer(data, colour)
        assert found == label
        assert told[label] > 0.9
        assert sum(told.values()) == pytest.approx(1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", [tf.sigmoid, tf.identity], ids=["sigmoid", "logit"])
def test_one_value_is_found_in_any_form(form, end):
    """[N, 1], [N], [N, 1, 1, 1], [1] and [] all hold one probability an image."""
    data = tiny_graphs.classifier(end=lambda x: FORMS[form](end(one(x))))
    for colour, label in ((RED, "warm"), (BLUE, "cool")):
        assert answer(data, colour)[0] == label
    signature = find(data)
    assert signature.classes == 1
    assert signature.batch == 0


LEARNT = {
    "MatMul": one,
    "BiasAdd": lambda x: tf.nn.bias_add(one(x), [0.0]),
    "Add": lambda x: tf.raw_ops.Add(x=one(x), y=[0.0]),
    "AddV2": lambda x: tf.raw_ops.AddV2(x=one(x), y=[0.0]),
    "Conv2D": lambda x: tf.nn.conv2d(
        x[:, None, None], [[[[SCALE], [0.0], [-SCALE]]]], 1, "VALID"
    ),
    "Mean": lambda x: tf.reduce_mean(
        tf.nn.conv2d(x[:, None, None], [[[[SCALE], [0.0], [-SCALE]]]], 1, "VALID"),
        [1, 2],
    ),
}


@pytest.mark.parametrize("op", LEARNT)
def test_one_learnt_sum_is_a_logit_where_there_are_two_labels(op):
    """A lone logit is reported as a guess; without two labels it is refused."""
    data = tiny_graphs.classifier(end=LEARNT[op])
    signature = find(data)
    assert (signature.classes, signature.sigmoid) == (1, True)
    assert (
        f"comes from {op} and has one value: taken for a logit" in signature.guesses[0]
    )
    for colour, label in ((RED, "warm"), (BLUE, "cool")):
        assert answer(data, colour)[0] == label
    for labels in (LabelMap({}), LabelMap({0: "age"}), SEVERAL):
        with pytest.raises(GraphError, match="for one of two classes where the label"):
            alignment_of(labels, signature)
    assert alignment_of(SEVERAL, find(data, label_offset=1)).offset == 1


MEASURES = {
    "a distance": lambda x: tf.norm(x - [[1.0, 2, 3]], axis=1, keepdims=True),
    "a squared distance": lambda x: tf.reduce_sum(tf.square(x), 1),
    "an age from a sigmoid": lambda x: 100.0 * tf.sigmoid(one(x)),
    "an age from a line": lambda x: one(x) * 20.0 + 40.0,
    "a rectified value": lambda x: tf.nn.relu(one(x)),
    "a likeness": lambda x: tf.exp(-tf.reduce_sum(tf.square(x), 1, keepdims=True)),
    "a tanh": lambda x: tf.tanh(one(x)),
    "a mean": lambda x: tf.reduce_mean(x, 1, keepdims=True),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_another_measure_is_no_class(measure):
    """A graph that gives one number of another kind is refused by its kind."""
    data = tiny_graphs.classifier(end=MEASURES[measure])
    with pytest.raises(
        GraphError, match=r"a distance, an age or another measure|features within"
    ):
        find(data)


def sums(x, count=1500):
    """Add a tensor to a sum of squares again and again."""
    total = tf.reduce_sum(tf.square(x), 1, keepdims=True)
    for _ in range(count):
        total = total + total
    return x * tf.math.rsqrt(total)


def wide(x):
    """Add many copies of a tensor up, eight times over."""
    for _ in range(9):
        x = tf.add_n([x] * 100)
    return x


@pytest.mark.parametrize("end", [sums, wide, lambda x: wide(tf.nn.softmax(x))])
def test_a_graph_made_to_be_looked_at_for_ever_is_not(end):
    """The effort grows with the graph, not with the number of paths through it."""
    data = tiny_graphs.classifier(end=end)
    with contextlib.suppress(GraphError):
        assert find(data)


def test_a_softmax_over_one_value_is_refused():
    """A softmax over one value is 1 for every photo, so its training was in vain."""
    data = tiny_graphs.classifier(end=lambda x: tf.nn.softmax(one(x)))
    with pytest.raises(GraphError, match="which is 1 for every photo"):
        find(data)


def test_the_labels_of_one_sigmoid():
    """Two, one or no labels are accepted; more are refused with a remedy."""
    data = tiny_graphs.classifier(end=lambda x: tf.sigmoid(one(x)))
    assert answer(data, RED, numbered())[0] == "1"
    assert answer(data, RED, LabelMap({7: "no", 9: "yes"}))[0] == "yes"
    assert answer(data, RED, LabelMap({1: "hot dog"}))[0] == "hot dog"
    assert answer(data, BLUE, LabelMap({1: "hot dog"}))[0] is None
    with pytest.raises(GraphError, match="but the label map has 3 labels"):
        answer(data, RED, SEVERAL)
    assert answer(data, RED, SEVERAL, label_offset=1)[0] == "blue"


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_several_sigmoids_do_not_exclude_each_other(sigmoid):
    """Each class has its own probability, and none may be an answer."""
    data = tiny_graphs.classifier(end=lambda x: SIGMOIDS[sigmoid](x * SCALE - 2.5))
    signature = find(data)
    assert (signature.independent, signature.softmax, signature.classes) == (
        True,
        False,
        3,
    )
    assert "each class has a probability of its own" in signature.guesses[0]
    found, told = answer(data, np.array([255, 255, 0]), SEVERAL)
    assert found in {"red", "green"}
    assert told["red"] == told["green"] > 0.9
    assert told["blue"] < 0.1
    assert answer(data, np.zeros(3), SEVERAL)[0] is None


EXCLUSIVE = {
    "softmax": tf.nn.softmax,
    "softmax written out": lambda x: (
        tf.exp(x - tf.reduce_max(x, 1, keepdims=True))
        / tf.reduce_sum(
            tf.exp(x - tf.reduce_max(x, 1, keepdims=True)), 1, keepdims=True
        )
    ),
    "log softmax": tf.nn.log_softmax,
    "logarithm of a softmax": lambda x: tf.math.log(tf.nn.softmax(x) + 1e-7),
    "softmax, then decided": lambda x: tf.argmax(tf.nn.softmax(x), 1),
    "softmax and decision": lambda x: tf.one_hot(
        tf.argmax(tf.nn.softmax(x, name="p"), 1), 3
    ),
    "bytes": lambda x: tf.cast(tf.round(tf.nn.softmax(x) * 255), tf.uint8),
    "logits": lambda x: tf.matmul(x, tf.eye(3)),
    "scaled logits": tf.identity,
    "softmax of sigmoids": lambda x: tf.nn.softmax(9 * tf.sigmoid(x * SCALE - 2.5)),
}


@pytest.mark.parametrize("end", EXCLUSIVE)
def test_exclusive_classes_always_have_an_answer(end):
    """The confidences of exclusive classes add up to 1."""
    data = tiny_graphs.classifier(end=lambda x: EXCLUSIVE[end](x * SCALE))
    assert not find(data).independent
    for colour, label in ((RED, "red"), (BLUE, "blue")):
        found, told = answer(data, colour, SEVERAL)
        assert found == label
        assert sum(told.values()) == pytest.approx(1, abs=1e-3)


def test_a_softmax_done_twice_is_answered_as_the_network_does():
    """The second softmax is the network's output, and it is answered."""

    def twice(x):
        return tf.nn.softmax(tf.nn.softmax(x, name="softmax"), name="again")

    signature = find(tiny_graphs.classifier(end=twice))
    assert signature.outputs["scores"] == "again:0"


def test_logits_of_independent_classes_are_known_by_their_sigmoid():
    """Logits and their probabilities may be two outputs of one network."""

    def ends(x):
        logits = tf.identity(x, name="logits")
        return tf.cast(tf.sigmoid(logits, name="p") > 0.5, tf.int32)

    signature = find(tiny_graphs.classifier(end=ends))
    assert signature.outputs["scores"] == "p:0"
    assert signature.independent


def test_logits_of_independent_classes_are_known_by_their_name():
    """A name is a guess; otherwise logits exclude each other, and a finding says so."""
    data = tiny_graphs.classifier(
        end=lambda x: tf.identity(x, name="multilabel_logits")
    )
    signature = find(data)
    assert (signature.sigmoid, signature.independent) == (True, True)
    assert "by its name taken for logits of independent" in signature.guesses[0]


@pytest.mark.parametrize(
    ("end", "independent", "meant"),
    [
        (tf.identity, True, (False, True, True)),
        (tf.identity, False, (True, False, False)),
        (tf.sigmoid, False, (False, False, False)),
        (tf.sigmoid, True, (False, False, True)),
        (tf.nn.softmax, True, (False, False, True)),
    ],
)
def test_the_sidecar_says_whether_classes_exclude_each_other(end, independent, meant):
    """Logits get the softmax or the sigmoid that the sidecar asks for."""
    signature = find(tiny_graphs.classifier(end=end), independent=independent)
    assert (signature.softmax, signature.sigmoid, signature.independent) == meant


FEATURES = {
    "an embedding by its length": lambda x: tf.math.l2_normalize(x, 1),
    "an embedding by its length, divided": lambda x: (
        x / tf.sqrt(tf.reduce_sum(tf.square(x), 1, keepdims=True))
    ),
    "an embedding by its name": lambda x: tf.identity(x, name="embeddings"),
    "features": tf.nn.relu,
}


@pytest.mark.parametrize("end", FEATURES)
def test_features_are_no_scores(end):
    """A network without its last layer, or a face's embedding, names no class."""
    with pytest.raises(GraphError, match=r"embedding|features within a network"):
        find(tiny_graphs.classifier(end=FEATURES[end]))


def test_an_output_that_the_sidecar_names_is_believed():
    """The sidecar's output may have any name, but never be a detector's part."""
    data = tiny_graphs.classifier(end=lambda x: tf.identity(x, name="embeddings"))
    assert find(data, output="embeddings").softmax
    parts = DetectionOutputs(boxes="a", scores="b", classes="c")
    with pytest.raises(GraphError, match="names a detector's parts"):
        find(data, output=parts)


def test_a_sigmoid_within_a_network_is_a_gate():
    """A tensor that is multiplied by a sigmoid is not taken for probabilities."""

    def gated(x):
        return tf.nn.softmax(x * tf.sigmoid(x), name="answer")

    signature = find(tiny_graphs.classifier(end=gated))
    assert signature.outputs["scores"] == "answer:0"
    data = tiny_graphs.classifier(end=lambda x: x * tf.sigmoid(x))
    assert not find(data).independent
