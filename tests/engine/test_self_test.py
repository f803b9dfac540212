"""A photo that a model must get right before it serves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.contract import Detection
from modelserver.engine.catalogue import State
from modelserver.tasks import by_kind, matching
from modelserver.tasks.matching import (
    ExpectedDetection,
    class_differs,
    detections_differ,
)
from support import tiny_graphs
from support.app_client import photo, post
from support.fake_models import get

CAT = Detection(1, "cat", 0.9, (0.1, 0.2, 0.5, 0.6))
DOG = Detection(2, "dog", 0.85, (0.5, 0.5, 1.0, 1.0))
LOW = Detection(3, "owl", 0.3, (0.0, 0.0, 0.1, 0.1))


def wanted(one, confidence=0.0, side=0.0):
    """What is expected, off by so much."""
    box = (one.box[0] + side, *one.box[1:])
    return ExpectedDetection(one.label, one.confidence + confidence, box)


def test_the_same_detections_in_another_order_are_the_same():
    """And what is below the threshold does not count."""
    assert not detections_differ([wanted(DOG), wanted(CAT)], [CAT, DOG, LOW], 0.8)
    assert not detections_differ([], [LOW], 0.8)


@pytest.mark.parametrize(
    ("confidence", "side", "same"),
    [
        (0.02, 0.01, True),
        (-0.02, -0.01, True),
        (0.021, 0.0, False),
        (-0.021, 0.0, False),
        (0.0, 0.011, False),
        (0.0, -0.011, False),
    ],
)
def test_a_little_off_is_the_same(confidence, side, same):
    """Confidence by 0.02, each side of a box by 0.01 of the photo."""
    assert (not detections_differ([wanted(CAT, confidence, side)], [CAT], 0.8)) is same


def test_what_is_missing_is_named_with_what_is_there_instead():
    """The nearest of the same label, or the labels that there are."""
    other = Detection(1, "cat", 0.7, CAT.box)
    assert (
        detections_differ([wanted(CAT)], [other, DOG], 0.5)
        == "'cat' at [0.100, 0.200, 0.500, 0.600] with confidence 0.900 is expected, "
        "the nearest is 'cat' at [0.100, 0.200, 0.500, 0.600] with confidence 0.700"
    )
    assert "the model finds 'dog', 'owl'" in detections_differ(
        [wanted(CAT)], [DOG, LOW], 0.5
    )
    assert "the model finds nothing" in detections_differ([wanted(CAT)], [], 0.5)


def test_what_is_found_and_not_expected_is_named():
    """Only what is surer than the threshold, by more than it may be off."""
    assert "'dog' at [0.500" in detections_differ([wanted(CAT)], [CAT, DOG], 0.8)
    assert "'dog'" in detections_differ([], [DOG], 0.8)
    assert not detections_differ([], [Detection(2, "dog", 0.81, DOG.box)], 0.8)


def test_each_detection_stands_for_one_that_is_expected():
    """Two cats are expected: one is not enough."""
    near = Detection(1, "cat", 0.91, CAT.box)
    assert detections_differ([wanted(CAT), wanted(CAT)], [CAT], 0.8)
    assert not detections_differ([wanted(CAT), wanted(CAT)], [CAT, near], 0.8)


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_neighbours_are_told_apart_in_any_order(left, right):
    """Where each is like its neighbours, all find their own in the end."""
    row = [Detection(1, "cat", 0.9 + 0.015 * i, CAT.box) for i in range(4)]
    expected = [wanted(row[i], -0.015) for i in left]
    assert not detections_differ(expected, [row[i] for i in right], 0.0)


def test_thousands_that_are_alike_are_compared():
    """As many as an answer may hold would be, in some seconds."""
    row = [Detection(1, "cat", 0.5 + i / 4000, CAT.box) for i in range(2000)]
    assert not detections_differ([wanted(one) for one in row], row[::-1], 0.0)
    assert "is not expected" in detections_differ([wanted(CAT)], [CAT, *row], 0.0)


def test_a_comparison_that_would_take_long_is_ended(monkeypatch):
    """Detections that must change places again and again, say."""
    monkeypatch.setattr(matching, "_MOST_LOOKS", 30)
    row = [Detection(1, "cat", 0.5 + 0.015 * i, CAT.box) for i in range(30)]
    expected = [wanted(one, -0.015) for one in row]
    assert not detections_differ(expected, row, 0.0)
    with pytest.raises(ValueError, match="alike"):
        detections_differ([*expected[1:], expected[0], wanted(LOW)], row[::-1], 0.0)


def test_a_class_is_the_same_or_not():
    """Its confidence does not count."""
    assert not class_differs("cat", "cat")
    assert class_differs("cat", "dog") == "'cat' is expected, the model says 'dog'"


def test_no_class_can_be_what_is_expected():
    """Of independent classes none may hold."""
    assert not class_differs(None, None)
    assert class_differs(None, "a") == "no class is expected, the model says 'a'"
    assert class_differs("a", None) == "'a' is expected, the model says no class"


@pytest.fixture
def golden(folder, serving):
    """A function that serves a model with a golden image; gives client and registry."""

    def serve(kind, expected, **environ):
        ending = {"detection": ".frozen.pb", "classification": ".pb"}[kind]
        graph = {
            "detection": tiny_graphs.echo_detector,
            "classification": tiny_graphs.classifier,
        }[kind]()
        tiny_graphs.write(folder / f"m{ending}", graph)
        (folder / "m.test.png").write_bytes(photo((200, 100, 50)))
        if not isinstance(expected, (str, bytes)):
            expected = json.dumps(expected)
        (folder / "m.expected.json").write_text(expected)
        client = serving(kind, RELOAD_S=0, **environ)
        return client, next(
            iter(client.application.extensions["modelserver"].engine.registry)
        )

    return serve


@pytest.mark.parametrize(
    ("kind", "path"), [("detection", "/detect"), ("classification", "/classify")]
)
def test_what_the_server_answered_is_what_is_expected(kind, path, golden, folder):
    """So curl makes the file; and the model serves as before."""
    client, entry = golden(kind, "[")
    assert entry.state is State.FAILED
    assert f"m.expected.json is no answer of {path}" in entry.reason
    for name in ("m.test.png", "m.expected.json"):
        (folder / name).rename(folder / f"{name}~")
    registry = client.application.extensions["modelserver"].engine.registry
    registry.put(discovered(folder, kind))
    assert registry.wait(lambda r: r.ready, 60)
    answer = post(client, path, "m", photo((200, 100, 50))).text
    (folder / "m.expected.json").write_text(answer)
    (folder / "m.test.png~").rename(folder / "m.test.png")
    registry.put(discovered(folder, kind))
    old = get(registry, "m")
    assert registry.wait(lambda r: get(r, "m") is not old, 60)
    assert post(client, path, "m", photo((200, 100, 50))).text == answer


def discovered(folder, kind):
    from modelserver.engine import discovery

    (files,) = discovery.discover(folder, by_kind(kind)).models
    return files


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        (
            "detection",
            [{"label": "x", "confidence": 0.9, "bounding_box": [0, 0, 1, 1]}],
            "m.test.png does not come out as expected: 'x' at",
        ),
        ("detection", [], "is not expected"),
        ("detection", {"class": "cat"}, "is no answer of /detect"),
        ("classification", {"class": "x"}, "'x' is expected, the model says"),
        ("classification", [], "is no answer of /classify"),
        ("classification", "[" * 5000, "is no answer of /classify"),
        ("classification", " " * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_model_that_gets_it_wrong_does_not_serve(kind, expected, words, golden):
    """It is FAILED with what differs, and its session is closed."""
    _, entry = golden(kind, expected)
    assert entry.state is State.FAILED
    assert words in entry.reason
    assert entry.loaded is None


def test_an_answer_that_is_gone_by_now_is_the_models_failure(golden, monkeypatch):
    """It was there when the folder was looked at."""
    from modelserver.engine.loader import Loader

    load = Loader.__call__

    def slowly(self, files):
        files.expected.unlink()
        return load(self, files)

    monkeypatch.setattr(Loader, "__call__", slowly)
    _, entry = golden("classification", {"class": "x"})
    assert entry.reason == "m.expected.json cannot be read: No such file or directory."


def test_an_image_that_is_none_is_the_models_failure(golden, folder, monkeypatch):
    """It says which file."""
    monkeypatch.setitem(globals(), "photo", lambda _colour: b"no photo")
    _, entry = golden("classification", {"class": "x"})
    assert "m.test.png could not be evaluated" in entry.reason


def test_an_evaluation_that_takes_too_long_is_the_models_failure(golden, monkeypatch):
    """As long as a load may take."""
    from concurrent.futures import Future

    monkeypatch.setattr("modelserver.engine.models.Model.submit", lambda *_: Future())
    monkeypatch.setattr("modelserver.engine.models.Model.close", lambda _: None)
    _, entry = golden("classification", {"class": "x"}, LOAD_TIMEOUT_S=1)
    assert entry.reason == "m.test.png was not evaluated within 1 s."


@pytest.mark.parametrize(("how", "outside"), [("SIGKILL", True), ("SIGSEGV", False)])
def test_a_process_that_dies_over_it_is_told_apart_from_a_wrong_answer(
    how, outside, tmp_path
):
    """Who is killed from outside may do better next time."""
    from modelserver.core.errors import ModelCrashed, RunnerDied

    with pytest.raises(ModelCrashed, match=how) as crash:
        evaluated(tmp_path, RunnerDied(), how)
    assert crash.value.from_outside is outside


def evaluated(folder, error, how="", device="CPU"):
    """Check a golden image with a model whose run fails so."""
    from concurrent.futures import Future
    from types import SimpleNamespace

    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.self_test import check

    image, expected = folder / "m.test.png", folder / "m.expected.json"
    image.write_bytes(photo())
    expected.write_text("[]")
    files = ModelFiles("m", "detection", image, None, None, image, expected)
    failed, ended = Future(), Future()
    failed.set_exception(error)
    ended.set_result(how)
    model = SimpleNamespace(
        ended=ended,
        facts=SimpleNamespace(device=device),
        prepare=lambda _: SimpleNamespace(frame=None),
        submit=lambda *_: failed,
    )
    check(files, model, 0.8, 5)


def test_a_card_that_fails_over_it_is_not_the_files_fault(tmp_path):
    """The load is tried again; a CPU has the same memory next time."""
    from modelserver.core.errors import (
        DeviceFailed,
        ModelError,
        OutOfMemory,
        RunnerDied,
    )

    lost = "SIGKILL: its GPU's context was lost: CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(DeviceFailed, match="context was lost"):
        evaluated(tmp_path, RunnerDied(), lost, "GPU 0: some")
    with pytest.raises(DeviceFailed, match="could not be evaluated"):
        evaluated(tmp_path, OutOfMemory(), device="GPU 0: some")
    with pytest.raises(ModelError, match="could not be evaluated") as failed:
        evaluated(tmp_path, OutOfMemory())
    assert not isinstance(failed.value, DeviceFailed)


def test_a_thousand_equal_detections_are_compared_soon():
    """As a graph's padded rows are where the threshold is 0."""
    assert not detections_differ([wanted(CAT)] * 1500, [CAT] * 1500, 0.8)
