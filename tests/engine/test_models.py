"""One model: from an upload to its frame, and from its files to a loaded model."""

import threading
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from modelserver import decoder
from modelserver.core import errors
from modelserver.core.findings import found
from modelserver.core.frames import Frame, Memory
from modelserver.core.messages.requests import Tensor
from modelserver.engine import discovery
from modelserver.engine.loader import Loader
from modelserver.engine.models import likeness
from modelserver.engine.runners.cards import Survey
from modelserver.runner.sessions import ModelSession
from modelserver.tasks import DETECTION, by_kind
from support import tiny_graphs
from support.app_client import make_settings, photo
from support.standin_gpu import a_gpu

__all__ = ["a_gpu"]
LIMIT = 4096
SECONDS = 60


@pytest.fixture
def loaded(folder):
    """Give a function that loads the model ``m`` of the folder, in this process."""
    models = []

    def load(graph, kind="classification", sidecar="", **environ):
        ending = ".pb" if kind == "classification" else ".frozen.pb"
        tiny_graphs.write(folder / f"m{ending}", graph)
        if sidecar:
            (folder / "m.json").write_text(sidecar)
        (files,) = discovery.discover(folder, by_kind(kind)).models
        models.append(Loader(make_settings(ISOLATION="inline", **environ))(files))
        return models[-1]

    yield load
    for model in models:
        model.close()


def half_and_half(size=(100, 50)):
    """Make a photo whose left half is red and whose right half is blue."""
    import io

    from PIL import Image

    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = 255
    pixels[:, size[0] // 2 :, 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("how", "corner"), [("stretch", 255), ("crop", 255), ("pad", 0)]
)
def test_an_upload_is_brought_to_the_size_in_the_sidecars_way(how, corner, loaded):
    """It is stretched, cropped or padded; only that much goes to the runner."""
    model = loaded(tiny_graphs.classifier(), sidecar=f'{{"resize": "{how}"}}')
    frame, *photo_size, _, _, _ = model.prepare(half_and_half())
    height, width = model.facts.signature.size
    assert frame.pixels.shape == (height, width, 3)
    assert photo_size == [100, 50]
    assert frame.pixels[0, 0, 0] == corner
    assert frame.pixels[height // 2, 0, 0] == 255
    frame.release()


def test_a_gray_model_gets_one_channel(loaded):
    """Colours are weighed as the eye does."""
    model = loaded(tiny_graphs.gray_classifier())
    frame, *_ = model.prepare(photo((0, 255, 0)))
    assert frame.pixels.shape[2] == 1
    assert frame.pixels[0, 0, 0] == 150
    frame.release()


def test_boxes_of_a_padded_photo_come_back_in_its_own_frame(loaded):
    """The window is the part of the photo that the graph was shown."""
    model = loaded(
        tiny_graphs.echo_detector((None, 64, 64, 3)),
        "detection",
        '{"resize": "pad"}',
    )
    prepared = model.prepare(half_and_half())
    assert prepared.window == pytest.approx((-0.5, 0.0, 1.5, 1.0))
    prepared.frame.release()


def test_a_large_jpeg_for_a_small_model_is_decoded_at_a_reduced_size(loaded):
    """It has twice the model's size at least; FULL_DECODE decodes in full."""
    graph = tiny_graphs.resizing_detector((30, 40))
    large = photo(size=(640, 480), form="JPEG")
    frame, *photo_size, _, _, _ = loaded(graph, "detection").prepare(large)
    assert frame.pixels.shape == (60, 80, 3)
    assert photo_size == [640, 480]
    frame.release()
    frame, *_ = loaded(graph, "detection", FULL_DECODE=True).prepare(large)
    assert frame.pixels.shape == (480, 640, 3)
    frame.release()


@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_a_photo_that_cannot_be_prepared_leaves_no_memory_behind(
    kind, loaded, monkeypatch
):
    """Its room is free for the next, however far the decoder got."""
    graph = {
        "classification": tiny_graphs.classifier,
        "detection": tiny_graphs.echo_detector,
    }[kind]()
    model = loaded(graph, kind, MAX_IMAGE_PIXELS=LIMIT, MAX_PIXELS_IN_FLIGHT=LIMIT)
    damaged = photo(size=(60, 60), form="JPEG")[:-200]

    def broken(*_args, **_options):
        raise errors.UndecodableImage("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "resize", broken)
        for _ in range(5):
            with pytest.raises(errors.UndecodableImage):
                model.prepare(damaged)
            if kind == "classification":
                with pytest.raises(errors.UndecodableImage):
                    model.prepare(photo(size=(60, 60)))
    frame, *_ = model.prepare(photo(size=(60, 60)))
    frame.release()


@pytest.fixture
def narrow(monkeypatch):
    """Leave no room next to that of MAX_PIXELS_IN_FLIGHT."""
    monkeypatch.setattr("modelserver.engine.loader._RESIZED_BYTES", 0)


def test_images_in_flight_have_a_budget(narrow, loaded):
    """One that finds no room is refused with 503, and fits later."""
    model = loaded(
        tiny_graphs.echo_detector(),
        "detection",
        MAX_IMAGE_PIXELS=LIMIT,
        MAX_PIXELS_IN_FLIGHT=LIMIT,
    )
    first, *_ = model.prepare(photo(size=(60, 60)))
    with pytest.raises(errors.Overloaded):
        model.prepare(photo(size=(60, 60)))
    first.release()
    model.prepare(photo(size=(60, 60)))[0].release()


def test_a_refused_frame_is_released(narrow, loaded):
    """A closed model takes no frame and keeps none."""
    model = loaded(
        tiny_graphs.echo_detector(),
        "detection",
        MAX_IMAGE_PIXELS=LIMIT,
        MAX_PIXELS_IN_FLIGHT=LIMIT,
    )
    frame, *_ = model.prepare(photo(size=(60, 60)))
    model.queue.close(errors.ModelNotReady("m", "closing"))
    with pytest.raises(errors.ModelNotReady):
        model.submit(frame)
    model.prepare(photo(size=(60, 60)))[0].release()


def test_a_label_map_that_does_not_fit_is_warned_about(loaded, folder, caplog):
    """The warning names the setting that may fix it."""
    (folder / "m.labels.txt").write_text("\n".join("abcdefgh"))
    caplog.set_level("INFO")
    model = loaded(tiny_graphs.classifier())
    assert "label_offset" in caplog.text
    assert model.offset == 0


def test_findings_of_a_load_are_logged_and_reported(
    serving, folder, monkeypatch, caplog
):
    """A session's own findings stand before those that the front makes itself."""
    doubt = msgspec.structs.replace(found("guessed", "m", "a doubt"), level="warning")

    def open_and_find(session, *arguments):
        opened(session, *arguments)
        session.findings = (found("batch-one", "m", "an odd thing", "a remedy"), doubt)

    opened = ModelSession.open
    monkeypatch.setattr(ModelSession, "open", open_and_find)
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    with caplog.at_level("INFO"):
        client = serving("classification")
    levels = {line.getMessage(): line.levelname for line in caplog.records}
    assert levels["m: an odd thing"] == "INFO"
    assert levels["m: a doubt"] == "WARNING"
    reported = client.get("/models/m").json["findings"]
    assert [finding["message"] for finding in reported[:2]] == [
        "an odd thing",
        "a doubt",
    ]
    assert len(reported) > 2


def test_on_a_gpu_photos_of_unlike_sizes_run_together(loaded, a_gpu):
    """If the graph resizes all to one size, the server does so before it."""
    model = loaded(tiny_graphs.resizing_detector(), "detection", SLOTS=1, MAX_BATCH=4)
    assert model.facts.sampling == "corner"
    began, gate = threading.Event(), threading.Event()

    def wait(_run, _frames):
        began.set()
        gate.wait(SECONDS)

    a_gpu.fail = wait
    colours = [(200, 10, 20), (30, 200, 40), (50, 60, 200), (240, 240, 240)]
    sizes = [(40, 30), (64, 48), (100, 50), (33, 77)]
    prepared = [
        model.prepare(photo(*look)) for look in zip(colours, sizes, strict=True)
    ]
    assert {image.frame.pixels.shape for image in prepared} == {(6, 8, 3)}
    assert [(image.width, image.height) for image in prepared] == sizes
    first = model.submit(prepared[0].frame)
    assert began.wait(SECONDS)
    others = [model.submit(image.frame) for image in prepared[1:]]
    gate.set()
    done = [future.result(SECONDS) for future in (first, *others)]
    assert [result.batch for result in done] == [1, 3, 3, 3]
    assert a_gpu.sizes[-2:] == [1, 4]
    for result, colour in zip(done, colours, strict=True):
        _, score, box = tiny_graphs.echoed(*colour)
        assert result.result.outputs["scores"].flat[0] == pytest.approx(score)
        assert result.result.outputs["boxes"].reshape(-1, 4)[0] == pytest.approx(box)


def test_on_a_cpu_photos_go_to_the_graph_as_they_are(loaded):
    """Its own resizer sees every pixel that was decoded."""
    model = loaded(tiny_graphs.resizing_detector(), "detection", FULL_DECODE="true")
    prepared = model.prepare(photo(size=(40, 30)))
    assert prepared.frame.pixels.shape == (30, 40, 3)
    prepared.frame.release()


def test_a_model_is_given_a_card_and_gives_its_share_back(folder, monkeypatch):
    """It gives it back even if it cannot be loaded, with either kind of error."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (files,) = discovery.discover(folder, DETECTION).models
    calls, jobs = [], []

    class Placed:
        """Notes the calls that it gets."""

        def __getattr__(self, name):
            return lambda *_: calls.append(name)

    def opens(job, **_options):
        jobs.append(job)
        return SimpleNamespace(open=outcomes.pop(0), close=lambda: None)

    def fails():
        raise errors.DeviceFailed("GPU 0 failed")

    def breaks():
        raise errors.GraphError("no")

    outcomes = [fails, breaks]
    monkeypatch.setattr("modelserver.engine.loader.ProcessRunner", opens)
    loader = Loader(make_settings(GPU_MEMORY_MB=7), Survey((), ("no driver",)))
    monkeypatch.setattr(loader, "_placement", Placed())
    for _ in range(2):
        with pytest.raises(errors.ModelError):
            loader(files)
    assert calls == ["assign", "fail", "assign", "release"]
    assert (jobs[0].card.gpu, jobs[0].card.missing, jobs[0].card.memory_mb) == (
        None,
        "no driver",
        7,
    )


def test_a_closed_model_gives_its_share_back_once(loaded):
    """Closing twice gives it back once."""
    calls = []
    model = loaded(tiny_graphs.classifier())
    model._on_close = lambda: calls.append("released")
    model.close()
    model.close()
    assert calls == ["released"]


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("<f4", (1, 4, 4, 3), "takes uint8 .*, not float32"),
        ("|u1", (4, 4, 3), "not uint8 \\[4, 4, 3\\]"),
        ("|u1", (1, 4, 4, 4), "not uint8 \\[1, 4, 4, 4\\]"),
        ("|O", (1, 4, 4, 3), "not object"),
    ],
)
def test_numbers_that_the_graph_does_not_take_are_refused(dtype, shape, words, loaded):
    """The sentence names what it takes."""
    model = loaded(tiny_graphs.echo_detector(), "detection", MAX_TENSOR_MB=1)
    model.check(Tensor("|u1", (1, 4, 4, 3)))
    with pytest.raises(errors.BadRequest, match=words):
        model.check(Tensor(dtype, shape))
    with pytest.raises(errors.UploadTooLarge, match="MAX_TENSOR_MB"):
        model.check(Tensor("|u1", (1, 1024, 1024, 3)))


def test_a_graph_of_files_takes_no_numbers(loaded):
    """It says what to send instead."""
    model = loaded(tiny_graphs.encoded_detector(), "detection")
    with pytest.raises(errors.BadRequest, match="BYTES"):
        model.check(Tensor("|u1", (1, 4, 4, 3)))


def test_numbers_of_one_image_are_run_with_others_and_those_of_several_alone():
    """And never together with photos."""

    def frame(shape, dtype):
        return Frame(memory, 64, shape, lambda _: None, dtype=dtype)

    memory = Memory(None, 4096)
    other = Memory(None, 4096)
    one, two = frame((1, 4, 4, 3), "|u1"), frame((2, 4, 4, 3), "|u1")
    assert likeness(one) == likeness(frame((1, 4, 4, 3), "|u1"))
    assert likeness(one) != likeness(frame((1, 4, 4, 3), "<f4"))
    assert likeness(one) != likeness(frame((1, 4, 4, 3), None))
    assert likeness(two) != likeness(
        Frame(other, 64, (2, 4, 4, 3), lambda _: None, dtype="|u1")
    )
