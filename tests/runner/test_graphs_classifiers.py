"""A classifier's input, scores and scaling are found."""

import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.core.signatures import DetectionOutputs
from support import tiny_graphs
from support.classifier_runs import BLUE, GREEN, RED, find, scores


@pytest.mark.parametrize(
    "build",
    [
        tiny_graphs.classifier,
        tiny_graphs.logits_classifier,
        tiny_graphs.one_image_classifier,
        tiny_graphs.batch_of_one_classifier,
        tiny_graphs.squeezed_classifier,
        tiny_graphs.rank_4_classifier,
        tiny_graphs.default_classifier,
        tiny_graphs.unknown_shape_classifier,
        tiny_graphs.switched_classifier,
    ],
    ids=lambda build: build.__name__,
)
def test_each_kind_of_classifier_is_served(build):
    """Each kind of classifier, fed by its signature, tells the three colours apart."""
    for place, colour in enumerate((RED, GREEN, BLUE)):
        answer = scores(build(), colour)
        assert answer.size == 3
        assert answer.argmax() == place


def test_a_classifiers_facts():
    """Shape, scaling and classes come from the graph; the guess is reported."""
    signature = find(tiny_graphs.classifier())
    assert (signature.input, signature.dtype) == ("input:0", "float32")
    assert (signature.size, signature.channels) == ((8, 8), 3)
    assert (signature.layout, signature.batch) == ("NHWC", 0)
    assert (signature.mean, signature.scale) == ((0.0,), (1 / 255,))
    assert signature.outputs == {"scores": "softmax:0"}
    assert (signature.softmax, signature.classes) == (False, 3)
    assert len(signature.guesses) == 1
    assert (
        "(pixel - [0]) * [0.00392157]: nothing in the graph tells"
        in (signature.guesses[0])
    )


def test_each_guess_is_reported():
    """Each guess has a sentence, which the front logs with the model's name."""
    assert len(find(tiny_graphs.unknown_shape_classifier()).guesses) == 4


@pytest.mark.parametrize(
    ("build", "layout", "batch"),
    [
        (tiny_graphs.classifier, "NHWC", 0),
        (tiny_graphs.batch_of_one_classifier, "NHWC", 1),
        (tiny_graphs.one_image_classifier, "HWC", 1),
        (tiny_graphs.squeezed_classifier, "NHWC", 1),
        (tiny_graphs.rank_4_classifier, "NHWC", 0),
        (tiny_graphs.file_classifier, "encoded", 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_batch_follows_the_shapes(build, layout, batch):
    """A run takes one image without a batch axis, a batch of one, or any number."""
    signature = find(build())
    assert (signature.layout, signature.batch) == (layout, batch)


def test_logits_get_a_softmax():
    """Scores out of a matrix product are logits, and the guess is reported."""
    signature = find(tiny_graphs.logits_classifier())
    assert signature.softmax
    assert "comes from MatMul: taken for logits" in signature.guesses[0]


@pytest.mark.parametrize(
    ("end", "softmax", "output"),
    [
        (lambda x: tf.reshape(tf.nn.softmax(x), [-1, 3], name="out"), False, "out:0"),
        (lambda x: tf.identity(tf.nn.sigmoid(x), name="out"), False, "out:0"),
        (lambda x: tf.nn.log_softmax(x, name="out"), True, "out:0"),
        (lambda x: tf.divide(tf.exp(x), 9.0, name="out"), False, "out:0"),
        (lambda x: tf.exp(x, name="out"), False, "out:0"),
        (lambda x: tf.reshape(tf.nn.softmax(x, name="s"), [3]), False, "s:0"),
        (lambda x: tf.argmax(tf.nn.softmax(x, name="s"), 1), False, "s:0"),
        (lambda x: tf.nn.top_k(tf.identity(x, name="l"), 2), True, "l:0"),
        (lambda x: tf.argmax(tf.identity(x, name="l"), 1), True, "l:0"),
        (
            lambda x: tf.nn.softmax(tf.matmul(tf.nn.softmax(x), tf.eye(3)), name="s"),
            False,
            "s:0",
        ),
    ],
    ids=[
        "reshape",
        "sigmoid",
        "log softmax",
        "written out",
        "unknown",
        "lost batch",
        "argmax",
        "top k",
        "argmax of logits",
        "attention",
    ],
)
def test_the_scores_are_found_behind_any_end(end, softmax, output):
    """Ops behind the scores only change their form or decide by them."""
    signature = find(tiny_graphs.classifier(end=end))
    assert signature.outputs == {"scores": output}
    assert signature.softmax == softmax


def test_an_auxiliary_head_is_not_the_answer():
    """Of two softmaxes the main one is taken, and the choice is reported."""

    def heads(logits):
        tf.nn.softmax(logits * 2, name="AuxLogits/Softmax")
        tf.nn.softmax(logits, name="Predictions/Softmax")

    signature = find(tiny_graphs.classifier(end=heads))
    assert signature.outputs == {"scores": "Predictions/Softmax:0"}
    assert "was chosen over AuxLogits/Softmax:0" in signature.guesses[0]


def test_of_several_heads_the_last_is_taken_or_the_named():
    """The last head is taken if no name decides, else the named, else the sidecar's."""

    def heads(first):
        def build(logits):
            tf.nn.bias_add(logits, [0.0, 0, 0], name=first)
            tf.nn.bias_add(logits, [1.0, 0, 0], name="b")

        return build

    assert find(tiny_graphs.classifier(end=heads("a"))).outputs["scores"] == "b:0"
    data = tiny_graphs.classifier(end=heads("final_result"))
    assert find(data).outputs["scores"] == "final_result:0"
    assert find(data, output="b").outputs["scores"] == "b:0"


def test_a_sidecars_output_must_be_floats():
    """A decision is no scores."""
    data = tiny_graphs.classifier(end=lambda x: tf.argmax(x, 1, name="answer"))
    with pytest.raises(GraphError, match=r"'answer' is int64 \[\?\], which cannot be"):
        find(data, output="answer")


@pytest.mark.parametrize(
    ("build", "sidecar", "reason"),
    [
        (tiny_graphs.echo_detector, {}, "the graph is a detector"),
        (tiny_graphs.tensorflow_2_detector, {}, "the graph is a detector"),
        (tiny_graphs.raw_heads, {}, "a detector without post-processing"),
        (tiny_graphs.cut_at_a_node, {}, "no class scores"),
        (tiny_graphs.classifier, {"input": "x"}, "its placeholders are: input"),
        (tiny_graphs.classifier, {"input": ""}, "the sidecar's input '' is not in"),
        (tiny_graphs.classifier, {"output": "x"}, "output 'x' is not in the graph"),
        (tiny_graphs.classifier, {"output": "Cast/x:7"}, "is not in the graph"),
        (tiny_graphs.classifier, {"output": "input"}, "which cannot be class scores"),
        (tiny_graphs.classifier, {"size": 9}, r"size \[9, 9\] does not fit the input"),
        (tiny_graphs.classifier, {"channels": 1}, "says 1 channels, but the input"),
        (tiny_graphs.gray_classifier, {"channels": "bgr"}, "says 3 channels, but the"),
        (
            tiny_graphs.gray_classifier,
            {"mean": (1, 2, 3)},
            "more numbers than the input",
        ),
        (
            tiny_graphs.classifier,
            {"output": DetectionOutputs(boxes="a", scores="b", classes="c")},
            "names a detector's parts",
        ),
    ],
)
def test_contradictions_are_refused(build, sidecar, reason):
    """Graph, file name and sidecar must agree, and the error says where they differ."""
    with pytest.raises(GraphError, match=reason):
        find(build(), **sidecar)


def test_scores_are_followed_to_their_own_place_among_several():
    """Outputs next to the scores are the network's features."""

    def end(logits):
        tf.identity_n([tf.nn.relu(logits), tf.nn.softmax(logits)], name="both")

    signature = find(tiny_graphs.classifier(end=end))
    assert (signature.outputs, signature.softmax) == ({"scores": "both:1"}, False)
