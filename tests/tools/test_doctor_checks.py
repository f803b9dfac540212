"""Checking the models of a folder."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from modelserver.tools.cli import main
from modelserver.tools.doctor import FolderReport, check_folder
from modelserver.tools.doctor.reports import Photo
from support import foreign_models, tiny_graphs
from support.app_client import make_settings, photo

LABELS = 'item { id: %d name: "%s" }\n'
RED = photo((255, 0, 0))


def put(folder, name, make, ids=(1, 2, 3), **beside):
    """Write a model: its graph, its labels, and what lies beside it by ending."""
    detector = make.__name__.endswith("detector")
    ends = (".frozen.pb", ".label_map.pbtxt") if detector else (".pb", ".pbtxt")
    tiny_graphs.write(folder / f"{name}{ends[0]}", make())
    if ids:
        text = "".join(LABELS % (number, f"class {number}") for number in ids)
        (folder / f"{name}{ends[1]}").write_text(text)
    for end, content in beside.items():
        path = folder / f"{name}.{end.replace('_', '.')}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def check(folder, photo=None, sample=None, **environ):
    """Check a folder, sessions in this process unless a test asks otherwise."""
    environ = {"MODEL_FOLDER": folder, "ISOLATION": "inline"} | environ
    steps = []
    report = check_folder(
        make_settings(**environ),
        photo,
        sample,
        progress=lambda *step: steps.append(step),
    )
    assert steps[-1][0] == steps[-1][1] or not report.models
    return report


def codes(report, *levels):
    """The codes of findings of these levels, all by default."""
    return [one.code for one in report.findings if not levels or one.level in levels]


def test_a_sound_folder_is_sound(folder):
    """Models of both kinds, each run on a photo, and no error."""
    put(folder, "boxes", tiny_graphs.echo_detector, ids=range(1, 28))
    put(folder, "classes", tiny_graphs.classifier, ids=range(1, 4))
    report = check(folder, Photo("red.png", RED))
    assert report.ok
    assert codes(report, "error") == []
    boxes, classes = report.models
    assert (boxes.name, boxes.kind, boxes.serves) == ("boxes", "detection", True)
    assert boxes.timing.photo == "red.png"
    assert boxes.timing.answers[0][0] == "class 27"
    assert boxes.labels == 27
    assert classes.timing.run_ms > 0
    assert len(classes.timing.answers) <= 5


def test_noise_will_do(folder):
    """Without a photo the models run on a sample, and without a sample on noise."""
    put(folder, "boxes", tiny_graphs.echo_detector)
    sampled = check(folder, sample=Photo("sample.png", RED))
    assert sampled.models[0].timing.photo == "sample.png"
    assert check(folder).models[0].timing.photo == "noise"


FAULTY = {
    "graph-refused": {"make": tiny_graphs.raw_heads},
    "labels-unreadable": {"make": tiny_graphs.classifier, "pbtxt": "<html>"},
    "sidecar": {"make": tiny_graphs.classifier, "json": '{"meen": 1}'},
}


@pytest.mark.parametrize(("code", "case"), FAULTY.items(), ids=FAULTY)
def test_what_cannot_be_loaded_is_an_error_with_a_fix(folder, code, case):
    """The others are checked all the same."""
    put(folder, "faulty", **case)
    put(folder, "sound", tiny_graphs.classifier)
    report = check(folder)
    (error,) = (one for one in report.findings if one.level == "error")
    assert report.findings[0] == error
    assert (error.code, error.model) == (code, "faulty")
    assert error.message
    assert error.fix
    assert [one.serves for one in report.models] == [False, True]
    assert not report.ok


def test_a_refused_op_is_an_error(folder):
    """A model with a refused op is never run."""
    from support.graph_runs import refused_op

    put(folder, "writes", refused_op)
    assert codes(check(folder), "error") == ["op-refused"]


def test_a_golden_image_that_differs_is_an_error(folder):
    """One that is right is no finding, and its photo is the one that is timed."""
    expected = json.dumps({"class": "class 1"})
    beside = {"test_png": RED, "expected_json": expected}
    put(folder, "right", tiny_graphs.classifier, **beside)
    beside["expected_json"] = json.dumps({"class": "cat"})
    put(folder, "wrong", tiny_graphs.classifier, **beside)
    report = check(folder)
    errors = [(one.code, one.model) for one in report.findings if one.level == "error"]
    assert errors == [("golden-failed", "wrong")]
    assert [one.serves for one in report.models] == [True, False]
    assert report.models[0].timing.photo == "right.test.png"
    assert "golden-none" not in codes(report)


def test_a_photo_that_is_none_is_said(folder):
    """The model is not to blame, but it was not run."""
    put(folder, "boxes", tiny_graphs.echo_detector)
    report = check(folder, Photo("x.txt", b"no photo"))
    (error,) = (one for one in report.findings if one.level == "error")
    assert error.code == "run-failed"
    assert "x.txt" in error.message


def test_models_of_other_formats_are_named(folder):
    """The finding has the command that imports them."""
    foreign_models.old_detector(folder / "saved")
    (folder / "net.keras").write_bytes(b"x")
    put(folder, "boxes", tiny_graphs.echo_detector)
    found = [one for one in check(folder).findings if one.code == "not-frozen"]
    assert [one.message.split()[0] for one in found] == ["net.keras", "saved"]
    assert (
        found[1].fix == f"python -m modelserver import {folder / 'saved'} --name saved"
    )


def test_a_saved_model_under_a_graphs_name_is_told_from_a_graph(folder):
    """The fix is to import it."""
    put(folder, "x", tiny_graphs.saved_model, ids=())
    (error,) = (one for one in check(folder).findings if one.level == "error")
    assert "import makes a frozen graph" in error.fix


def test_what_discovery_warns_of_is_a_finding(folder):
    """A file that is not used is named once, though each kind is looked for."""
    put(folder, "boxes", tiny_graphs.echo_detector, lonely_test_jpg=RED)
    (folder / "alone.label_map.pbtxt").write_text("x")
    report = check(folder)
    said = [one.message for one in report.findings if one.code == "folder"]
    assert len([line for line in said if "alone" in line]) == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_models_is_an_error(folder, there):
    """A folder that does not exist is an error, too."""
    report = check(folder if there else folder / "no")
    assert codes(report) == ["no-models"]
    assert not report.ok


@pytest.mark.real
def test_a_model_that_crashes_is_a_finding_and_no_more(folder):
    """Each model has a process of its own."""
    put(folder, "crashes", tiny_graphs.crashes_always, ids=())
    (folder / "crashes.pb").rename(folder / "crashes.frozen.pb")
    put(folder, "sound", tiny_graphs.echo_detector)
    from hashlib import sha256

    digest = sha256((folder / "crashes.frozen.pb").read_bytes()).hexdigest()
    report = check(folder, ISOLATION="process", TRUSTED_MODELS=digest)
    assert codes(report, "error") == ["crashed"]
    assert [one.serves for one in report.models] == [False, True]


def call(folder, *arguments):
    """Call the command line; results are kept beside the folder."""
    environ = {"ISOLATION": "inline", "MODEL_FOLDER": str(folder)}
    environ["XDG_CACHE_HOME"] = str(folder.parent / "cache")
    return CliRunner().invoke(main, ["check", *map(str, arguments)], env=environ)


def test_exit_codes_are_for_ci(folder, tmp_path):
    """The exit code is 0 unless a finding keeps a model from serving; warnings count if asked."""
    put(folder, "boxes", tiny_graphs.echo_detector, ids=())
    shot = tmp_path / "red.png"
    shot.write_bytes(RED)
    result = call(folder, "--photo", shot)
    assert result.exit_code == 0, result.output
    assert "labels-none" in result.output
    assert "red.png" in result.output
    assert call(folder, folder, "--strict").exit_code == 1
    assert call(folder, tmp_path / "no").exit_code == 1


def test_a_label_steers_no_terminal(folder):
    """What a folder's files hold is printed as text, whatever it is."""
    put(folder, "boxes", tiny_graphs.echo_detector, ids=())
    text = "".join(LABELS % (number, r"\033[31mred") for number in range(1, 28))
    (folder / "boxes.label_map.pbtxt").write_text(text)
    result = call(folder)
    assert "\x1b" not in result.output
    assert r"\x1b[31mred" in result.output


def test_json_is_the_report(folder):
    """The report is the whole output."""
    put(folder, "boxes", tiny_graphs.echo_detector)
    result = call(folder, "--json")
    report = msgspec.json.decode(result.output, type=FolderReport)
    assert report.ok
    assert report.models[0].name == "boxes"


def test_a_setting_that_is_wrong_is_one_sentence(folder):
    """The server's own settings hold."""
    result = CliRunner().invoke(main, ["check"], env={"MIN_CONFIDENCE": "7"})
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: MIN_CONFIDENCE")
