"""All rewrites work together, and a session uses them if they answer the same."""

import logging
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.engine.discovery import discover
from modelserver.engine.loader import Loader
from modelserver.runner import rewriting, sessions
from modelserver.runner.graphs import find_signature, import_graph
from modelserver.runner.rewriting import rewrite
from modelserver.tasks import DETECTION
from support import tiny_graphs
from support.app_client import make_settings, noise
from support.graph_runs import session_of
from support.rewritable_models import fast_classifier, fast_detector

v1 = tf.compat.v1
SHARED = Path(__file__).parents[3] / "shared" / "data"


def rewritten(data, kind="detection", floor=0.1):
    graph_def = v1.GraphDef.FromString(data)
    signature = find_signature(import_graph(graph_def), kind, None)
    made = rewrite(graph_def, signature, score_floor=floor)
    assert graph_def.SerializeToString(deterministic=True) == v1.GraphDef.FromString(
        data
    ).SerializeToString(deterministic=True)
    return made, Counter(node.op for node in made.graph_def.node)


def test_every_rewrite_finds_its_part():
    """The notes name each rewrite; nothing of the loop and the norms is left."""
    made, ops = rewritten(fast_detector())
    assert made.notes == (
        "loops over images that became one op: 1",
        "images resized without a copy as floats: 1",
        "biases moved to their convolution: 1",
        "chains folded into kernel and bias: 2",
        "suppressions that start at 0.1: 1",
    )
    assert not {"Exit", "Rsqrt", "CheckNumerics"} & set(ops)
    assert ops["BiasAdd"] == 2


def test_a_floor_of_nothing_keeps_every_box():
    """Without a floor suppression is unchanged; and a classifier has none."""
    assert "suppressions" not in " ".join(rewritten(fast_detector(), floor=0)[0].notes)
    made, ops = rewritten(fast_classifier(), "classification")
    assert made.notes[-1].startswith("chains folded")
    assert "Rsqrt" not in ops


def test_a_graph_with_nothing_to_gain_has_no_notes():
    """Dropping nodes without effect makes nothing faster by itself."""
    assert rewritten(tiny_graphs.echo_detector())[0].notes == ()


@pytest.fixture
def opened(tmp_path):
    """A function that opens a session on a graph's bytes and closes it at the end."""
    made = []

    def open_(data, kind="detection", **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", data)
        made.append(session_of(path, kind, **options))
        made[-1].open()
        return made[-1]

    yield open_
    for session in made:
        session.close()


@pytest.mark.parametrize(
    ("build", "kind"),
    [(fast_detector, "detection"), (fast_classifier, "classification")],
    ids=["detector", "classifier"],
)
def test_a_session_answers_the_same_rewritten(build, kind, opened):
    """The session's notes say that it is rewritten."""
    plain = opened(build(), kind, rewrite=False, max_batch=2)
    faster = opened(build(), kind, score_floor=0.02, max_batch=2)
    assert plain.notes == plain.signature.guesses
    assert faster.notes[-1].startswith("rewritten: ")
    assert plain.signature == faster.signature
    assert plain.max_batch == faster.max_batch == 2
    frames = [noise(plain.signature.size or (30, 20), seed) for seed in (1, 2)]
    compared = zip(plain.run(frames), faster.run(frames), strict=True)
    for old, new in compared:
        assert rewriting.first_difference(old, new, plain.signature, 0.02) is None


def test_the_comparison_sees_the_boxes_above_the_floor(opened):
    """Both images have boxes above the floor, so there is something to compare."""
    session = opened(fast_detector(), score_floor=0.02)
    for image in rewriting.sample_images(session.signature):
        assert (session.run([image])[0]["scores"] > 0.02).sum() > 3


def broken(draft):
    """Rewrite wrongly: take another kernel."""
    kernel = next(n for n in draft.nodes.values() if n.op == "Conv2D").input[1]
    wrong = draft.add_constant("wrong", 1.1 * draft.constant(kernel))
    draft.rewire(kernel, wrong)
    return 1


def raising(draft):
    """Rewrite with a mistake in the code."""
    raise KeyError("no_such_node")


def unimportable(draft):
    """Rewrite to a graph that TensorFlow refuses."""
    draft.put(v1.NodeDef(name="detection_boxes", op="NoSuchOp"))
    return 1


def unrunnable(draft):
    """Rewrite to a graph that cannot be run."""
    boxes = draft.nodes["detection_boxes"]
    places = draft.add_constant("places", np.array([999], np.int32))
    node = v1.NodeDef(name=boxes.name, op="Gather", input=[boxes.input[0], places])
    node.attr["Tparams"].type = tf.float32.as_datatype_enum
    node.attr["Tindices"].type = tf.int32.as_datatype_enum
    draft.put(node)
    return 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (broken, ", score 0."),
        (raising, "KeyError: 'no_such_node'"),
        (unimportable, "GraphError: TensorFlow refuses"),
        (unrunnable, "InvalidArgumentError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_rewrite_that_goes_wrong_is_not_used(
    wrong, words, opened, monkeypatch, caplog
):
    """The graph serves as it is, and one line of the log says why."""
    module = sys.modules["modelserver.runner.rewriting.rewriter"]
    steps = (*module._REWRITES, (wrong, "wrong: {}"))
    monkeypatch.setattr(module, "_REWRITES", steps)
    with caplog.at_level(logging.WARNING, "modelserver.runner.sessions.session"):
        session = opened(fast_detector(), score_floor=0.02)
    (record,) = [
        r for r in caplog.records if r.name == "modelserver.runner.sessions.session"
    ]
    assert "m is run as it is, not rewritten: " in record.getMessage()
    assert words in record.getMessage()
    assert session.notes == session.signature.guesses
    plain = opened(fast_detector(), rewrite=False)
    frame = noise()
    (old,), (new,) = plain.run([frame]), session.run([frame])
    for role, values in old.items():
        np.testing.assert_allclose(new[role], values, atol=1e-5)


def test_a_graph_that_cannot_be_run_is_refused_in_its_own_words(opened):
    """The refusal has the graph's own words, rewritten or not."""

    def impossible(boxes):
        return tf.reshape(boxes, [tf.shape(boxes)[0] * 7, -1, 4])

    with pytest.raises(GraphError, match="cannot be run on a 640 x 480"):
        opened(fast_detector(change=impossible))


@pytest.fixture
def started(monkeypatch):
    """The TensorFlow sessions that are started, and with which configuration."""
    made = []

    class Session(v1.Session):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    # Keras 2 gives TensorFlow another module of that name once it is imported.
    monkeypatch.setattr(sessions.runs.v1, "Session", Session)
    return made


def test_only_one_session_stays_open(opened, started):
    """The memory of the session that is not used is given back."""
    session = opened(fast_detector())
    assert [one._closed for one in started] == [True, False]
    session.close()
    assert all(one._closed for one in started)


def test_memory_is_given_back_where_the_c_library_can(monkeypatch):
    """GNU's C library can; others have no such function."""
    asked = []
    library = SimpleNamespace(malloc_trim=asked.append)
    monkeypatch.setattr(sessions.session.ctypes, "CDLL", lambda name: library)
    sessions.give_memory_back()
    assert asked == [0]
    del library.malloc_trim
    sessions.give_memory_back()
    assert asked == [0]


def test_with_a_gpu_the_graphs_are_compared_without_it(opened, started, monkeypatch):
    """There convolutions are rounded to fewer bits, differently for each."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: {})
    session = opened(fast_detector(), score_floor=0.02)
    assert session.notes[-1].startswith("rewritten")
    assert [one._closed for one in started] == [True, True, False]
    counts = [one._config.device_count for one in started]
    assert [dict(count) for count in counts] == [{"GPU": 0}, {"GPU": 0}, {}]


def test_a_slow_graph_is_compared_on_one_image(opened, monkeypatch):
    """A large model's run takes seconds, and loading has a limit."""
    asked = []
    first_difference = rewriting.first_difference

    def counting(*arguments):
        asked.append(arguments)
        return first_difference(*arguments)

    monkeypatch.setattr(rewriting, "first_difference", counting)
    opened(fast_detector())
    assert len(asked) == 3
    monkeypatch.setattr(sessions.session, "_ASK_S", 0.0)
    opened(fast_detector())
    assert len(asked) == 4


GRAPHS = sorted(SHARED.glob("classify/*.pb")) + sorted(SHARED.glob("detect/*.pb"))


@pytest.mark.real
@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.name)
def test_real_graphs_answer_the_same(path):
    """All rewrites that apply to a real graph keep its answers."""
    kind = "detection" if path.parent.name == "detect" else "classification"
    both = []
    for faster in (False, True):
        session = session_of(path, kind, rewrite=faster, score_floor=0.01)
        session.open()
        frame = noise(session.signature.size or (300, 400))
        both.append(session.run([frame])[0])
        session.close()
    assert rewriting.first_difference(*both, session.signature, 0.01) is None


@pytest.mark.process
@pytest.mark.parametrize(
    ("environ", "floor"),
    [
        ({}, 0.01),
        ({"MIN_CONFIDENCE": 0.001}, 0.001),
        ({"SCORE_FLOOR": 0.3}, 0.3),
        ({"SCORE_FLOOR": 0}, 0),
        ({"DEBUG": True}, 0),
    ],
    ids=str,
)
def test_the_floor_is_below_each_answer(environ, floor, folder):
    """The floor is SCORE_FLOOR, lowered to MIN_CONFIDENCE; with DEBUG it is 0."""
    tiny_graphs.write(folder / "m.frozen.pb", b"")
    (files,) = discover(folder, DETECTION).models
    for rewrites in (True, False):
        changed = {"ISOLATION": "inline", "REWRITE_GRAPHS": rewrites, **environ}
        job = Loader(make_settings(**changed))._make_runner(files, None)._job
        assert (job.score_floor, job.rewrite) == (floor, rewrites)
