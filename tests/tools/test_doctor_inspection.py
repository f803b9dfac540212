"""Telling what one graph is."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import tensorflow as tf
from click.testing import CliRunner

from modelserver.core.errors import GraphError, ModelError
from modelserver.tasks import by_graph
from modelserver.tools.cli import main
from modelserver.tools.doctor.inspection import inspect, sidecar_of
from modelserver.tools.doctor.reports import GraphReport
from support import tiny_graphs
from support.graph_runs import refused_op
from support.tiny_graphs.building import building, file_of, v1

ROOT = Path(__file__).parents[2]


def put(folder, name, data):
    """Write a graph and give its path."""
    return tiny_graphs.write(folder / name, data)


def test_a_detector_is_told(tmp_path):
    """The report has a detector's facts, ops, inputs and outputs."""
    path = put(tmp_path, "x.frozen.pb", tiny_graphs.echo_detector())
    report = inspect(path)
    data = path.read_bytes()
    assert report.kind == "detection"
    assert report.bytes == len(data)
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    assert report.placeholders == ("image_tensor uint8 [?, ?, ?, 3]",)
    assert report.outputs["boxes"] == "detection_boxes:0 float32 [?, 3, 4]"
    assert report.signature.dtype == "uint8"
    assert sum(report.ops.values()) == report.nodes
    assert list(report.ops.values()) == sorted(report.ops.values(), reverse=True)
    assert report.error == ""


def test_a_classifiers_guesses_name_what_overrides_them(tmp_path):
    """Scaling is guessed, and the report has the sidecar's keys that override the guess."""
    path = put(tmp_path, "x.pb", tiny_graphs.logits_classifier())
    guesses = {one.guess: one.override for one in inspect(path).guesses}
    (scaling,) = (guess for guess in guesses if "is fed with (" in guess)
    assert "mean" in guesses[scaling]
    assert any('"output"' in override for override in guesses.values())
    (tmp_path / "x.json").write_text('{"mean": 3, "scale": 2}')
    report = inspect(path)
    assert report.signature.mean == (3.0,)
    assert scaling not in [one.guess for one in report.guesses]


def test_parameters_are_the_floats_of_constants(tmp_path):
    """Scalars and whole numbers are no parameters; those of functions count."""

    @tf.function
    def twice(x):
        return x * tf.ones([3, 4]) + tf.constant([[1.0, 2.0, 3.0, 4.0]])

    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], "input")
        matrix = tf.constant([[1.0, 2.0, 3.0]] * 3)
        scores = tf.reduce_mean(image, [1, 2]) @ matrix * 2.0
        tf.nn.softmax(scores, name="scores")
        twice(tf.constant([[1.0], [1.0], [1.0]]))
    report = inspect(put(tmp_path, "x.pb", file_of(graph)))
    assert report.functions >= 1
    assert report.parameters >= 9 + 3 + 4


def test_a_refused_op_is_counted_and_the_graph_not_imported(tmp_path, monkeypatch):
    """The graph is not given to TensorFlow."""
    path = put(tmp_path, "x.pb", refused_op())
    monkeypatch.setattr("modelserver.runner.graphs.import_graph", None)
    report = inspect(path)
    assert [(one.op, one.nodes) for one in report.refused] == [("WriteFile", 2)]
    assert "WriteFile" in report.error
    assert report.signature is None


def test_what_cannot_be_served_is_told_with_the_reason(tmp_path):
    """The report has its ops and placeholders, too, which help to find the cause."""
    report = inspect(put(tmp_path, "x.frozen.pb", tiny_graphs.raw_heads()))
    assert "a detector without post-processing" in report.error
    assert report.ops
    assert report.placeholders


def test_a_sidecar_that_is_wrong_is_the_reason(tmp_path):
    """The sentence is the sidecar's."""
    path = put(tmp_path, "x.pb", tiny_graphs.classifier())
    (tmp_path / "x.json").write_text('{"meen": 3}')
    assert "meen: not a key here" in inspect(path).error


def test_a_file_that_is_no_graph_is_an_error(tmp_path):
    """There is no report on such a file."""
    with pytest.raises(GraphError, match="PNG image"):
        inspect(put(tmp_path, "x.pb", tiny_graphs.png()))


@pytest.mark.parametrize("fault", tiny_graphs.FAULTS)
def test_every_fault_is_told(tmp_path, fault):
    """Each faulty model gives an error or a report."""
    path = put(tmp_path, "x.frozen.pb", getattr(tiny_graphs, fault)())
    with suppress(ModelError):
        assert inspect(path).error


@pytest.mark.parametrize("made", ["suppression", "raw"])
def test_a_detectors_classes_are_seen_where_they_can_be(tmp_path, made):
    """The classes are counted in the scores that are suppressed, or that the exporter left."""
    with building() as graph:
        image = v1.placeholder(tf.uint8, [1, None, None, 3], "image_tensor")
        mean = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2])
        scores = tf.reshape(mean, [1, 3, 1]) * tf.ones([1, 3, 7])
        if made == "raw":
            tf.identity(scores, "raw_detection_scores")
            tiny_graphs.name_outputs(image)
        else:
            boxes = tf.zeros([1, 3, 1, 4])
            found = tf.image.combined_non_max_suppression(boxes, scores, 5, 5)
            names = ("boxes", "scores", "classes")
            for name, part in zip(names, found[:3], strict=True):
                tf.identity(part, f"detection_{name}")
    assert inspect(put(tmp_path, "x.frozen.pb", file_of(graph))).classes == 7


def test_the_name_tells_the_task_and_the_sidecar():
    """The name has the same meaning as for the server's own discovery."""
    assert by_graph("x.frozen.pb").kind == "detection"
    assert by_graph("x.pb").kind == "classification"
    assert sidecar_of(Path("nowhere/x.pb")) is None


def call(*arguments):
    """Call the command line."""
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_the_command_prints_a_table(tmp_path):
    """The table is for people, and the exit code is 0 for a graph that can be served."""
    path = put(tmp_path, "x.pb", tiny_graphs.logits_classifier())
    result = call(path)
    assert result.exit_code == 0, result.output
    for said in ("classification", "placeholder", "sha256", "guessed", "MatMul"):
        assert said in result.output


def test_the_command_prints_json(tmp_path):
    """The JSON is the same report, for programs."""
    path = put(tmp_path, "x.frozen.pb", tiny_graphs.echo_detector())
    result = call(path, "--json")
    assert msgspec.json.decode(result.output, type=GraphReport) == inspect(path)


def test_what_cannot_be_served_exits_with_1(tmp_path):
    """The exit code is 1 with the table and with JSON, so CI sees it."""
    told = call(put(tmp_path, "x.pb", refused_op()))
    assert told.exit_code == 1
    assert "WriteFile" in told.output
    asked = call(put(tmp_path, "y.pb", tiny_graphs.classifier()), "--kind", "detection")
    assert asked.exit_code == 1
    assert "the graph is a classifier" in asked.output
    missing = call(tmp_path / "no.pb")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: no.pb cannot be read")


@pytest.mark.real
def test_a_process_of_its_own_prints_the_report_and_no_more(tmp_path):
    """TensorFlow's own output does not get between the report's lines."""
    path = put(tmp_path, "x.frozen.pb", tiny_graphs.echo_detector())
    done = subprocess.run(
        [sys.executable, "-m", "modelserver", "inspect", str(path), "--json"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["file"] == "x.frozen.pb"
    assert done.stderr == ""


def test_what_an_exports_files_tell_is_told_as_the_server_reads_it(tmp_path):
    """The record of an import is evidence beside the graph."""
    path = put(tmp_path, "m.pb", tiny_graphs.logits_classifier())
    (tmp_path / "m.import.json").write_text('{"tool": "T", "resize": "crop"}')
    assert inspect(path).signature.resize == "crop"
