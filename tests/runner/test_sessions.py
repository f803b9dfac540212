"""A model's session prepares images, runs its graph and splits the outputs."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core import errors
from modelserver.core.messages import AssignedCard
from modelserver.core.signatures import Signature
from modelserver.runner.sessions import prepare, split
from support import tiny_graphs
from support.app_client import noise
from support.graph_runs import session_of


@pytest.fixture
def opened(tmp_path):
    """A function that opens a session on a graph's bytes and closes it at the end."""
    sessions = []

    def open_(graph, kind="detection", sidecar=None, **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", graph)
        if sidecar is not None:
            sidecar = tiny_graphs.write(tmp_path / "graph.json", sidecar)
        session = session_of(path, kind, sidecar, **options)
        sessions.append(session)
        session.open()
        return session

    yield open_
    for session in sessions:
        session.close()
        session.close()


def of(colour, size=(10, 12)):
    """Make an image of one colour."""
    return np.full((*size, 3), colour, np.uint8)


def test_a_run_gives_each_image_its_own_arrays(opened):
    """The arrays come in order, by role, without the batch axis."""
    session = opened(tiny_graphs.echo_detector(), max_batch=4)
    colours = [(10, 20, 30), (200, 20, 30), (90, 20, 30)]
    for outputs, colour in zip(
        session.run([of(c) for c in colours]), colours, strict=True
    ):
        class_id, score, box = tiny_graphs.echoed(*colour)
        assert outputs["classes"][0] == class_id
        assert outputs["scores"][0] == pytest.approx(score)
        assert outputs["boxes"][0].tolist() == pytest.approx(box)


@pytest.mark.real
def test_a_run_gives_no_more_rows_than_an_answer_may_have(opened):
    """Each image's best 10,000 leave the session, also of a batch of several."""

    def times_5000(rows):
        return tf.repeat(rows, 5000, axis=1)

    repeated = dict.fromkeys(("boxes", "scores", "classes"), times_5000)
    graph = tiny_graphs.echo_detector(**repeated, count=lambda count: count * 5000)
    session = opened(graph, max_batch=2)
    for images in ([of((10, 20, 30))], [of((10, 20, 30)), of((200, 20, 30))]):
        for outputs in session.run(images):
            assert {len(outputs[role]) for role in repeated} == {10_000}
            assert outputs["count"].tolist() == [10_000]
            assert np.unique(outputs["scores"]).size == 2


def test_slots_and_batch_follow_the_device(opened):
    """A CPU gets a run a core and one image a run, unless the job says otherwise."""
    session = opened(tiny_graphs.echo_detector())
    assert session.device == "CPU"
    assert session.slots >= 1
    assert session.max_batch == 1
    session = opened(tiny_graphs.echo_detector(), slots=3, max_batch=8)
    assert (session.slots, session.max_batch) == (3, 8)


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (tiny_graphs.batch_of_one_detector, "detection"),
        (tiny_graphs.batch_of_one_classifier, "classification"),
        (tiny_graphs.one_image_classifier, "classification"),
        (tiny_graphs.squeezed_classifier, "classification"),
        (tiny_graphs.file_classifier, "classification"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_graph_that_cannot_batch_is_found_out(graph, kind, opened):
    """Its shapes or a run of two images show it, for every MAX_BATCH."""
    assert opened(graph(), kind, max_batch=8).max_batch == 1


def test_requiring_a_gpu_fails_a_model_without_one(opened):
    """It fails as the card's fault, not the files', and is tried again."""
    with pytest.raises(errors.DeviceFailed, match="REQUIRE_GPU"):
        opened(tiny_graphs.echo_detector(), card=AssignedCard(required=True))


@pytest.mark.parametrize(
    "fault",
    [tiny_graphs.empty, tiny_graphs.cut_at_a_node, tiny_graphs.no_placeholder],
    ids=lambda fault: fault.__name__,
)
def test_a_valid_file_that_is_no_model_is_refused(fault, opened):
    """A file cut at a node boundary parses; it must still not serve."""
    with pytest.raises(errors.GraphError):
        opened(fault())


def test_a_graph_that_cannot_run_is_refused_at_its_warm_up(opened):
    """The reason has TensorFlow's words, for the operator."""
    graph = tiny_graphs.echo_detector(
        boxes=lambda boxes: tf.reshape(boxes, [tf.shape(boxes)[0] * 7, 7, 4])
    )
    with pytest.raises(errors.GraphError, match="cannot be run on a 640 x 480"):
        opened(graph)


def test_a_sidecar_is_obeyed(opened):
    """A sidecar gives the size of an input that has none."""
    session = opened(
        tiny_graphs.unknown_shape_classifier(), "classification", b'{"size": [40, 30]}'
    )
    assert session.signature.size == (40, 30)


def test_numbers_of_tensorflows_own_types_are_read(opened):
    """A detector of bfloat16 answers as one of float32, to their precision."""
    import tensorflow as tf

    def short(array):
        return tf.cast(array, tf.bfloat16)

    roles = ("boxes", "scores", "classes", "count")
    graph = tiny_graphs.echo_detector(**dict.fromkeys(roles, short))
    session = opened(graph)
    assert "outputs-odd" not in {finding.code for finding in session.findings}
    (outputs,) = session.run([of((100, 0, 0))])
    assert {array.dtype.name for array in outputs.values()} == {"float32"}
    class_id, score, _ = tiny_graphs.echoed(100, 0, 0)
    assert outputs["classes"].reshape(-1)[0] == class_id
    assert outputs["scores"].reshape(-1)[0] == pytest.approx(score, abs=0.01)


def test_outputs_of_no_use_are_found_at_load(opened):
    """What each photo will be refused for is told before the first one comes."""
    graph = tiny_graphs.echo_detector(scores=lambda scores: scores[:, :2])
    (odd,) = [one for one in opened(graph).findings if one.code == "outputs-odd"]
    assert "3 boxes, 2 scores and 3 classes" in odd.message


@pytest.mark.parametrize("count", [float("nan"), -1.0, 1e30])
def test_any_count_leaves_a_model_loadable(count, opened):
    """Images of one run are compared by the rows that count."""
    graph = tiny_graphs.echo_detector(count=lambda some: some * 0 + count)
    assert opened(graph, max_batch=2).max_batch == 2


def test_a_run_that_tensorflow_refuses_fails_with_its_words_inside(opened):
    """The client gets RunFailed, and the log the cause."""
    session = opened(tiny_graphs.echo_detector())
    with pytest.raises(errors.RunFailed) as failed:
        session.run([np.zeros((4, 4, 1), np.uint8)])
    assert failed.value.__cause__


def test_running_out_of_memory_is_an_error_of_its_own(opened, monkeypatch):
    """A batch that is out of memory can be split."""
    session = opened(tiny_graphs.echo_detector())

    def exhausted(*_args, **_options):
        raise tf.errors.ResourceExhaustedError(None, None, "oom")

    monkeypatch.setattr(session._run, "_call", exhausted)
    with pytest.raises(errors.OutOfMemory):
        session.run([of((1, 2, 3))])


def signature(**changes):
    facts = {
        "kind": "classification",
        "input": "x:0",
        "dtype": "float32",
        "layout": "NHWC",
        "outputs": {"scores": "y:0"},
    }
    return Signature(**{**facts, **changes})


def test_a_single_uint8_image_is_fed_without_a_copy():
    """The graph reads the frame itself."""
    frame = noise()
    fed = prepare([frame], signature(dtype="uint8"))
    assert fed.shape == (1, *frame.shape)
    assert np.shares_memory(fed, frame)


def test_scaling_is_the_signatures():
    """The feed is (pixel - mean) * scale, one number or one a channel."""
    frame = noise()
    fed = prepare([frame, frame], signature(mean=(127.5,), scale=(1 / 127.5,)))
    assert fed.dtype == np.float32
    assert fed.shape == (2, *frame.shape)
    assert np.allclose(fed[1], frame / 127.5 - 1, atol=1e-6)
    fed = prepare([frame], signature(mean=(1.0, 2.0, 3.0), scale=(2.0,)))
    assert np.array_equal(fed[0], (frame - np.array([1, 2, 3], np.float32)) * 2)


def test_bgr_turns_the_channels_before_the_mean():
    """Mean and scale are in the order in which they are fed."""
    frame = noise()
    fed = prepare([frame], signature(bgr=True, mean=(1.0, 2.0, 3.0)))
    assert np.array_equal(fed[0], frame[..., ::-1] - np.array([1, 2, 3], np.float32))


def test_other_layouts_are_fed_as_the_graph_takes_them():
    """Graphs take one image without a batch axis, one encoded file, or several."""
    frame = noise()
    assert prepare([frame], signature(layout="HWC", dtype="uint8")).shape == frame.shape
    file = prepare([frame], signature(layout="encoded", dtype="string"))
    assert file.startswith(b"\x89PNG")
    files = prepare([frame] * 2, signature(layout="encoded_batch", dtype="string"))
    assert files.tolist() == [file, file]


def test_outputs_that_are_no_batch_fail_the_batch():
    """Nobody is given somebody else's arrays."""
    arrays = [np.zeros((1, 5))]
    assert split(arrays, signature(), 1)[0]["scores"].shape == (1, 5)
    with pytest.raises(errors.RunFailed):
        split(arrays, signature(), 2)
