"""Finding a model's scaling with a photo of known content, and seeing what it is fed."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from modelserver.tools.cli import main
from modelserver.tools.doctor import try_scalings
from modelserver.tools.doctor.inspection import draw_input
from modelserver.tools.doctor.photo_trials import candidates
from modelserver.tools.doctor.reports import Photo
from support import tiny_graphs
from support.app_client import make_settings, photo

LABELS = "red\ngreen\nblue\n"
DIM = Photo("dim.png", photo((90, 30, 30)))


def symmetric_network():
    """Sees red only where the mean of red is below 0: a network of [-1, 1]."""
    weights = np.array([[-9, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    with tiny_graphs.building() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        tf.nn.softmax(tiny_graphs.colour_logits(image, weights), name="softmax")
    return tiny_graphs.file_of(graph)


def settings_of(folder, **more):
    """The server's settings, sessions in this process."""
    return make_settings(MODEL_FOLDER=folder, ISOLATION="inline", **more)


@pytest.fixture
def model(folder):
    """A folder with the network above; gives its graph."""
    (folder / "m.labels.txt").write_text(LABELS)
    return tiny_graphs.write(folder / "m.pb", symmetric_network())


def test_the_scalings_that_see_it_come_first(folder, model):
    """Each trial has its confidence and the line of its sidecar."""
    del model
    (report,) = try_scalings(settings_of(folder), DIM, "red")
    assert (report.name, report.error) == ("m", "")
    assert len(report.tries) == 10
    assert report.tries[0].sees
    assert report.tries[0].confidence > 0.7
    seen = {one.scaling for one in report.tries if one.sees}
    assert "-1..1 RGB" in seen
    assert not seen & {"0..1 RGB", "0..255 RGB"}


def test_the_line_to_paste_keeps_what_the_sidecar_says(folder, model):
    """The line has the sidecar's other keys, and the model with it answers so."""
    sidecar = model.with_name("m.json")
    sidecar.write_text('{"resize": "crop", "mean": 9}')
    (report,) = try_scalings(settings_of(folder), DIM, "red")
    line = json.loads(next(one.sidecar for one in report.tries if one.sees))
    assert line["resize"] == "crop"
    assert line["mean"] != 9
    assert json.loads(sidecar.read_text())["mean"] == 9


def test_a_model_without_the_label_is_not_tried(folder, model):
    """A model that takes the pixels as they are is not tried either."""
    del model
    assert try_scalings(settings_of(folder), DIM, "cat") == ()
    (folder / "b.labels.txt").write_text("cat\ndog\nbird\n")
    tiny_graphs.write(folder / "b.pb", tiny_graphs.classifier(dtype=tf.uint8))
    (report,) = try_scalings(settings_of(folder), DIM, "cat")
    assert "nothing to try" in report.error


def test_a_server_that_requires_a_gpu_is_helped_on_the_cpu(folder, model):
    """Neither the scaling nor the input depends on the device."""
    required = settings_of(folder, REQUIRE_GPU="true")
    (report,) = try_scalings(required, DIM, "red")
    assert (report.error, report.tries[0].error) == ("", "")
    assert report.tries[0].sees
    assert "8 x 8 RGB" in draw_input(model, None, required, DIM)[1]
    asked = ["check", str(folder), "--photo", str(model), "--label", "red", "--gpu"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2
    assert "is not for --gpu" in result.output


def test_a_gray_model_has_no_order():
    """A gray model has three scalings, and none with means of colours."""
    assert [name for name, _ in candidates(1)] == ["0..1", "-1..1", "0..255"]
    assert all("channels" not in keys for _, keys in candidates(1))


@pytest.mark.parametrize(("label", "code"), [("red", 0), ("cat", 1)])
def test_the_command_prints_it(model, monkeypatch, tmp_path, label, code):
    """The output is a table for people, and it is a failure if no model knows the label."""
    monkeypatch.setenv("ISOLATION", "inline")
    shown = tiny_graphs.write(tmp_path / "dim.png", DIM.data)
    asked = ["check", str(model.parent), "--photo", str(shown), "--label", label]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == code
    assert ("-1..1 RGB" in result.output) == (code == 0)
    assert CliRunner().invoke(main, ["check", "--label", "x"]).exit_code == 2


@pytest.mark.parametrize(
    ("sidecar", "colour", "words"),
    [
        ({}, (200, 10, 30), "8 x 8 RGB, stretch"),
        ({"channels": "bgr"}, (30, 10, 200), "8 x 8 BGR"),
        ({"resize": "crop"}, (200, 10, 30), "crop"),
    ],
    ids=["plain", "blue first", "cropped"],
)
def test_a_photo_is_shown_as_it_is_fed(folder, model, sidecar, colour, words):
    """The picture has the input's size and order of channels, and the sentence the range."""
    model.with_name("m.json").write_text(json.dumps(sidecar))
    given = Photo("red.png", photo((200, 10, 30), (30, 20)))
    data, sentence = draw_input(model, None, settings_of(folder), given)
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (8, 8)
    assert picture.getpixel((4, 4)) == colour
    assert words in sentence


def test_the_command_writes_it(model, monkeypatch, tmp_path):
    """The command prints the sentence, and each option needs the other."""
    monkeypatch.setenv("ISOLATION", "inline")
    given = tiny_graphs.write(tmp_path / "red.png", DIM.data)
    asked = ["inspect", str(model), "--photo", str(given)]
    assert CliRunner().invoke(main, asked).exit_code == 2
    out = tmp_path / "out.png"
    result = CliRunner().invoke(main, [*asked, "--out", str(out)])
    assert result.exit_code == 0
    assert "8 x 8 RGB" in result.output
    with Image.open(out) as picture:
        assert picture.size == (8, 8)
