"""``python -m modelserver import`` and ``labels``."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelserver.tools.cli import main
from modelserver.tools.importing.model_files import SCALINGS
from support import foreign_models as made

ROOT = Path(__file__).parents[2]


def call(*arguments):
    """Call the command line in this process."""
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder without sample photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_FOLDER", raising=False)
    return tmp_path


@pytest.mark.real
def test_a_model_is_imported_and_said_so(here):
    """The output has the steps, the notes and the files; the folder is ./models by default."""
    made.classifier(here / "source")
    (here / "labels.txt").write_text("ant\nbee\ncow")
    result = call(
        *("import", "source", "--name", "ants", "--labels", "labels.txt"),
        *("--output", "scores=probs", "--scaling", "0..1"),
    )
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[:3] == [
        "starting TensorFlow",
        "reading source",
        "freezing the SavedModel",
    ]
    assert lines[-1] == ("wrote models/ants.pbtxt, models/ants.json, models/ants.pb")
    assert any(line.startswith("note: the label map has an id 0") for line in lines)


@pytest.mark.real
def test_a_guessed_scaling_comes_with_the_command_that_says_another(here):
    """As it was given, to be copied; another one is not asked for then."""
    made.classifier(here / "the source")
    arguments = ["the source", "--name", "a b", "--output", "scores=probs"]
    result = call("import", *arguments, "--first-id", 0)
    assert result.exit_code == 0, result.output
    (line,) = (x for x in result.output.splitlines() if "trained otherwise: " in x)
    words = shlex.split(line.partition("otherwise: ")[2])
    assert words[:4] == ["python", "-m", "modelserver", "import"]
    assert sorted(words[4:]) == sorted(
        [*arguments, "--first-id", "0", "--scaling", "-1..1", "--force"]
    )
    again = call(*words[3:])
    assert again.exit_code == 0, again.output
    assert "otherwise: " not in again.output


def test_what_is_not_there_is_said_at_once(here):
    """Before TensorFlow is started."""
    result = call("import", "no_model", "--name", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no_model is not there; what can be")
    assert "TensorFlow" not in result.stdout


@pytest.mark.real
def test_a_sample_photo_is_compared_on_where_it_is_there(here):
    """The photo that `models install --samples` writes is used, so it must be one."""
    made.old_detector(here / "source")
    (here / "samples").mkdir()
    (here / "samples" / "astronaut.png").write_bytes(b"no photo")
    result = call("import", "source", "--name", "x")
    assert result.exit_code == 1
    assert "the photo cannot be used" in result.stderr


@pytest.mark.real
def test_what_is_no_model_is_one_sentence_and_exit_code_1(here):
    """TensorFlow prints nothing, not in a process of its own either."""
    (here / "x.tflite").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-m", "modelserver", "import", "x.tflite", "--name", "x"],
        cwd=here,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: x.tflite is a TensorFlow Lite model")
    assert done.stderr.count("\n") == 1
    assert list((here / "models").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--output", "boxes"], id="no output"),
        pytest.param(["--output", "masks=x"], id="no such role"),
        pytest.param(["--kind", "segmentation"], id="no such kind"),
        pytest.param(["--scaling", "0..2"], id="no such scaling"),
        pytest.param(["--labels", "missing.txt"], id="no such file"),
        pytest.param(["--first-id", "-1"], id="id below zero"),
    ],
)
def test_a_wrong_option_is_named(here, arguments):
    """The exit code is 2, before TensorFlow is imported."""
    result = call("import", "source", "--name", "x", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_every_scaling_can_be_asked_for():
    """The names on the command line are those of the table."""
    assert f"[{'|'.join(SCALINGS)}]" in call("import", "--help").stdout


def test_labels_become_a_label_map(here):
    """The command sums the label map up in a line."""
    (here / "labels.txt").write_text("ant\nbee")
    result = call("labels", "labels.txt", "x.label_map.pbtxt")
    assert result.output == "wrote x.label_map.pbtxt: 2 classes, ids 1 to 2\n"
    again = call("labels", "labels.txt", "x.label_map.pbtxt")
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: x.label_map.pbtxt is there already")
    forced = call(
        *("labels", "labels.txt", "x.label_map.pbtxt", "--force", "--first-id", 5)
    )
    assert forced.output.endswith("ids 5 to 6\n")


@pytest.mark.process
def test_the_command_line_knows_import_without_tensorflow():
    """Its help costs no import of TensorFlow."""
    code = "import sys; from modelserver.tools.cli import main; print('tensorflow' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert out.stdout.strip() == "False"
