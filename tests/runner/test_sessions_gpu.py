"""A session on a GPU is tried with a stand-in, as the CPU computes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelserver.core import errors, pixels
from modelserver.runner import rewriting
from support import tiny_graphs
from support.app_client import noise
from support.graph_runs import session_of
from support.rewritable_models import fast_detector
from support.standin_gpu import a_gpu
from support.suppression_graphs import CLASSES, one_image
from support.tiny_graphs import building, file_of

__all__ = ["a_gpu"]
v1 = tf.compat.v1
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
ON_A_GPU = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture
def opened(tmp_path):
    """A function that opens a session on a graph's bytes and closes it at the end."""
    sessions = []

    def open_(graph, kind="detection", **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", graph)
        sessions.append(session_of(path, kind, **options))
        sessions[-1].open()
        return sessions[-1]

    yield open_
    for session in sessions:
        session.close()


def of(colour, size=(10, 12)):
    """Make an image of one colour."""
    return np.full((*size, 3), colour, np.uint8)


def mixing_classifier():
    """Build a classifier whose norm is over its batch, as in training."""

    def normalised(image):
        mean = tf.reduce_mean(image, [0, 1, 2], keepdims=True)
        return (image - mean) / 255

    return tiny_graphs.classifier(before=normalised)


def one_way_detector(op):
    """Build a detector that resizes by another op than the plain bilinear one."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        tiny_graphs.name_outputs(op(tf.cast(image, tf.float32), (6, 8)))
    return file_of(graph)


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_chooses_slots_and_batch(opened):
    """A GPU gets two runs side by side, of 32 images; settings win."""
    session = opened(tiny_graphs.echo_detector())
    assert session.device.startswith("GPU")
    assert (session.slots, session.max_batch) == (2, 32)
    session = opened(tiny_graphs.echo_detector(), slots=1, max_batch=6)
    assert (session.slots, session.max_batch) == (1, 6)


def test_all_sizes_are_warmed_up_the_largest_first(opened, a_gpu):
    """The largest is run as often side by side as serving runs it."""
    opened(tiny_graphs.echo_detector(), max_batch=6)
    assert a_gpu.sizes[:6] == [6, 6, 6, 4, 2, 1]
    assert set(a_gpu.sizes) == {6, 4, 2, 1}


def test_the_warm_up_shows_the_graph_scenes(opened, a_gpu):
    """A grey image finds no boxes, and leaves the ops behind the suppression cold."""
    seen = []
    a_gpu.fail = lambda run, frames: seen.extend(frames)
    opened(tiny_graphs.echo_detector(), max_batch=2)
    assert min(image.std() for image in seen) > 30


@given(data=st.data(), most=st.integers(1, 9))
@settings(ON_A_GPU, max_examples=15)
def test_a_batch_is_filled_up_and_each_image_answered_as_alone(
    data, most, opened, a_gpu
):
    """Any number of images, any MAX_BATCH, in order; few sizes reach the device."""
    session = opened(tiny_graphs.echo_detector(), max_batch=most)
    allowed = set(a_gpu.sizes)
    for _ in range(3):
        colours = data.draw(st.lists(COLOURS, min_size=1, max_size=most))
        frames = [of(colour) for colour in colours]
        answers = session.run(frames)
        assert len(answers) == len(frames)
        for frame, answer in zip(frames, answers, strict=True):
            (alone,) = session.run([frame])
            for role, values in alone.items():
                np.testing.assert_allclose(
                    answer[role].reshape(values.shape), values, atol=1e-6
                )
    assert set(a_gpu.sizes) <= allowed


def test_a_batch_that_does_not_fit_lowers_the_most(opened, a_gpu):
    """The largest that fits is the limit, and /models says so."""
    a_gpu.room = 11
    session = opened(tiny_graphs.echo_detector())
    assert session.max_batch == 8
    assert a_gpu.sizes[:5] == [32, 16, 8, 8, 8]
    assert "a run takes 8 images at most" in session.notes[-1]
    assert "the stand-in is full" in session.notes[-1]
    session.run([of((1, 2, 3))] * 7)
    assert a_gpu.sizes[-1] == 8


def test_runs_side_by_side_must_fit_too(opened, a_gpu):
    """One run of 4 does here, the second at the same time does not."""
    under_way = []

    def fail(_run, frames):
        under_way.append(len(frames))
        if len(frames) == 4 and under_way.count(4) > 1:
            raise errors.OutOfMemory

    a_gpu.fail = fail
    assert opened(tiny_graphs.echo_detector(), max_batch=4).max_batch == 2


def test_a_gpu_on_which_nothing_fits_fails_the_load_for_now(opened, a_gpu):
    """It is the card's fault, not the graph's, rewritten or not."""
    a_gpu.room = 0
    with pytest.raises(errors.DeviceFailed, match="the stand-in is full"):
        opened(fast_detector())


@pytest.mark.usefixtures("a_gpu")
def test_a_graph_that_takes_one_image_is_run_singly(opened):
    """Its shapes say so, or only a run does."""
    assert opened(tiny_graphs.batch_of_one_detector()).max_batch == 1
    assert opened(tiny_graphs.squeezed_classifier(), "classification").max_batch == 1
    session = opened(tiny_graphs.file_classifier(), "classification")
    assert session.max_batch == 1


@pytest.mark.usefixtures("a_gpu")
def test_images_that_change_each_others_answers_are_run_singly(opened):
    """A norm over the batch is one case; the finding is a warning."""
    session = opened(mixing_classifier(), "classification")
    assert session.max_batch == 1
    (finding,) = session.findings
    assert (finding.code, finding.level) == ("batch-mixed", "warning")
    assert "each is run alone" in finding.message


def test_so_they_are_on_a_cpu_with_batches(opened):
    """MAX_BATCH is no licence for wrong answers."""
    session = opened(mixing_classifier(), "classification", max_batch=4)
    assert session.max_batch == 1
    assert [one.code for one in session.findings] == ["batch-mixed"]
    assert opened(tiny_graphs.echo_detector(), max_batch=4).max_batch == 4


def test_a_device_that_answers_otherwise_is_reported(opened, a_gpu):
    """Each run is right by itself, so only the CPU's answer shows it."""

    def darker(_run, answers):
        return [{**one, "scores": one["scores"] * 0.9} for one in answers]

    a_gpu.change = darker
    session = opened(tiny_graphs.echo_detector(), max_batch=2)
    assert session.max_batch == 2
    (finding,) = session.findings
    assert finding.code == "device-differs"
    assert "stand-in answers otherwise than the CPU: class" in finding.message
    a_gpu.change = lambda _run, answers: [
        {**one, "scores": one["scores"] * 0.995} for one in answers
    ]
    assert opened(tiny_graphs.echo_detector(), max_batch=2).findings == ()


def test_a_rewritten_graph_that_the_device_cannot_run_gives_way(
    opened, a_gpu, monkeypatch
):
    """The plain one runs, and /models says why."""
    made = []
    rewrite = rewriting.rewrite

    def noted(*arguments, **options):
        made.append(rewrite(*arguments, **options))
        return made[-1]

    def fail(run, _frames):
        nodes = {node.name for node in run._session.graph_def.node}
        if nodes == {node.name for node in made[-1].graph_def.node}:
            raise errors.RunFailed from ValueError("no kernel for this device")

    monkeypatch.setattr(rewriting, "rewrite", noted)
    a_gpu.fail = fail
    session = opened(fast_detector(), max_batch=4)
    assert made[-1].notes
    assert session.max_batch == 4
    assert "run as it is, not rewritten: " in session.notes[-1]
    assert "no kernel for this device" in session.notes[-1]
    assert "rewritten: loops" not in " ".join(session.notes)
    assert len(session.run([of((1, 2, 3))] * 3)) == 3


def test_a_graph_that_only_the_gpu_can_run_serves_there(opened, monkeypatch):
    """It cannot be compared, so it is not rewritten; both are reported."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {})
    from modelserver.runner.sessions import GraphRun

    plain = GraphRun.__call__

    def call(run, frames):
        if run._session._config.device_count.get("GPU", 1) == 0:
            raise errors.RunFailed from ValueError("NHWC only")
        return plain(run, frames)

    monkeypatch.setattr(GraphRun, "__call__", call)
    session = opened(fast_detector(), max_batch=4)
    assert session.max_batch == 4
    assert "are not compared with the CPU's" in session.notes[-1]
    assert "NHWC only" in session.notes[-1]
    assert session.sampling is None


def test_the_first_run_of_a_shape_is_known(opened, a_gpu):
    """A size that was warmed up has no first run; another has one."""
    session = opened(tiny_graphs.echo_detector(), max_batch=4)
    warm = [noise((48, 64))] * 3
    assert not session.is_first(warm)
    other = [of((1, 2, 3))] * 3
    assert session.is_first(other)
    session.run(other)
    assert not session.is_first(other)
    assert not session.is_first([*other, other[0]])
    assert session.is_first(other[:1])


def test_remembered_shapes_do_not_fill_the_memory(opened, a_gpu, monkeypatch):
    """Clients choose the shapes if a graph takes any size."""
    monkeypatch.setattr("modelserver.runner.sessions.session._MOST_SHAPES", 4)
    session = opened(tiny_graphs.echo_detector(), max_batch=1)
    for side in range(1, 12):
        session.run([of((1, 2, 3), (side, 5))])
        assert len(session._seen_shapes) <= 4
        assert not session.is_first([of((1, 2, 3), (side, 5))])


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(
    ("graph", "sampling"),
    [
        (tiny_graphs.resizing_detector(), "corner"),
        (tiny_graphs.map_resizing_detector(), "corner"),
        (one_way_detector(tf.image.resize), "centre"),
        (
            one_way_detector(
                lambda x, size: v1.image.resize_bilinear(x, size, align_corners=True)
            ),
            "ends",
        ),
        (one_way_detector(v1.image.resize_bicubic), None),
        (one_way_detector(v1.image.resize_nearest_neighbor), None),
        (tiny_graphs.keep_aspect_detector(), None),
        (tiny_graphs.echo_detector(), None),
    ],
    ids=["plain", "loop", "centre", "ends", "bicubic", "nearest", "aspect", "none"],
)
def test_how_a_graph_resizes_is_found_out(graph, sampling, opened):
    """Only resizers that the server has too are tried; the answers decide."""
    session = opened(graph, max_batch=2)
    assert session.sampling == sampling
    assert session.findings == ()
    if sampling is not None:
        frame = noise((50, 70))
        (plain,) = session.run([frame])
        (fed,) = session.run([pixels.sample(frame, (6, 8), sampling)])
        assert (
            rewriting.first_difference(
                plain, fed, session.signature, 0.0, rewriting.NEAR
            )
            is None
        )


@pytest.mark.usefixtures("a_gpu")
def test_photos_are_resized_before_only_where_that_answers_the_same(
    opened, monkeypatch
):
    """A wrong idea of how the graph resizes is found out by its answers."""
    monkeypatch.setattr(
        pixels, "sample", lambda image, size, how: 0 * image[: size[0], : size[1]]
    )
    session = opened(tiny_graphs.resizing_detector(), max_batch=2)
    assert session.sampling is None
    (note,) = [note for note in session.notes if "unlike sizes" in note]
    assert "class" in note


def test_the_warm_up_is_of_the_size_that_is_fed(opened, a_gpu):
    """Otherwise the first photo would be the first of its shape."""
    session = opened(tiny_graphs.resizing_detector(), max_batch=2)
    assert {shape for _, shape in a_gpu.runs} == {(6, 8, 3)}
    assert not session.is_first([of((1, 2, 3), (6, 8))])


def test_a_cpu_is_spared_all_this(opened):
    """On a CPU no size is filled up, nothing is resized before, nothing compared."""
    session = opened(tiny_graphs.resizing_detector(), max_batch=4)
    assert session.sampling is None
    assert (session._sizes, session._seen_shapes) == ((), set())
    assert not session.is_first([of((1, 2, 3))])


def old_detector():
    """Build a detector that suppresses each class by itself, as those of 2018."""
    with building(old_loops=True) as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        colour = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]) / 255
        scores = tf.stack([colour[:, :CLASSES], colour[:, :CLASSES] / 2], 1)
        places = tf.constant([[[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]]])
        boxes = tf.tile(places, [tf.shape(image)[0], 1, 1])

        def each(image):
            with tf.name_scope("MultiClassNonMaxSuppression"):
                return one_image("V3", *image, 1e-8, 0.0)

        with tf.name_scope("Postprocessor/BatchMultiClassNonMaxSuppression"):
            types = (*[tf.float32] * 3, tf.int32)
            boxes, scores, classes, count = tf.map_fn(each, (boxes, scores), types)
        tf.identity(boxes, name="detection_boxes")
        tf.identity(scores, name="detection_scores")
        tf.add(classes, 1, name="detection_classes")
        tf.cast(count, tf.float32, name="num_detections")
    return file_of(graph)


@pytest.mark.parametrize("rewrite", [True, False])
def test_suppressions_of_one_class_each_stay_on_the_cpu(rewrite, opened, a_gpu):
    """The graph that serves has them there, rewritten or not; a setting changes it."""
    options = {"rewrite": rewrite, "max_batch": 2, "score_floor": 0.01}
    session = opened(old_detector(), **options)
    assert f"{CLASSES} suppressions, one a class, are run on the CPU" in session.notes
    ops = session._run._session.graph.get_operations()
    inside = [op for op in ops if "BatchMultiClassNonMaxSuppression/" in op.name]
    assert inside
    assert {op.device for op in inside} == {"/device:CPU:0"}
    (answer,) = session.run([of((200, 100, 50))])
    assert answer["scores"].flat[0] == pytest.approx(200 / 255, abs=1e-3)
    session = opened(old_detector(), suppression_on_cpu=False, **options)
    assert not any(op.device for op in session._run._session.graph.get_operations())
    assert "suppressions, one a class" not in " ".join(session.notes)


def test_on_a_cpu_no_op_is_placed(opened):
    """A CPU has no other device to run on."""
    session = opened(old_detector())
    assert not any(op.device for op in session._run._session.graph.get_operations())
