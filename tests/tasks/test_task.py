"""The registry of tasks, and what a task does that says nothing of its own."""

import msgspec
import pytest

from modelserver import tasks
from modelserver.core.contract import Endpoint
from modelserver.tasks import CLASSIFICATION, DETECTION
from modelserver.tasks.detection import DetectionTask
from modelserver.tasks.options import Options
from modelserver.tasks.task import WHOLE, Task


class Count(msgspec.Struct):
    """How many there are."""

    count: int


class CountTask(Task):
    """A task that overrides nothing that it need not."""

    kind = "count"
    endpoint = Endpoint("/count", 5999)
    graph_ending, labels_ending = ".count.pb", ".count.pbtxt"
    outputs = {"value": "count"}  # noqa: RUF012 - as the base class has it
    answer_type = Count

    def parse(self, outputs, metadata, window, options, settings):
        raise NotImplementedError

    def everything(self, outputs, metadata, window=WHOLE):
        raise NotImplementedError

    def answer(self, found, size, options):
        return Count(found)

    def scores(self, found):
        return [("many", found / 10)]


@pytest.mark.parametrize("what", ["kind", "endpoint", "graph_ending"])
def test_two_tasks_never_have_the_same_name_route_or_files(what):
    """Registering the second one is refused, and the sentence says what it has."""
    task = type("Copy", (CountTask,), {what: getattr(DETECTION, what)})()
    with pytest.raises(ValueError, match=f"has the {what} of 'detection'"):
        tasks.register(task)
    assert task not in tasks.TASKS.values()


def test_registering_a_task_again_changes_nothing():
    """A module may be imported under two names."""
    tasks.register(DETECTION)
    assert list(tasks.TASKS) == ["detection", "classification"]
    assert tasks.by_kind("detection") is DETECTION


def test_a_kind_that_nobody_has_is_named_with_those_that_there_are():
    """It is a mistake of whoever wrote the name."""
    with pytest.raises(ValueError, match=r"no task 'pose'.*detection, classification"):
        tasks.by_kind("pose")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("x.frozen.pb", DETECTION),
        ("frozen_inference_graph.pb", DETECTION),
        ("x.pb", CLASSIFICATION),
        ("anything", CLASSIFICATION),
    ],
)
def test_the_longest_ending_tells_a_graphs_task(name, task):
    """A name that ends as no graph does is taken for a classifier's."""
    assert tasks.by_graph(name) is task


def test_the_longest_ending_tells_a_label_maps_task():
    """A detector's label map ends as a classifier's does, too."""
    assert tasks.by_labels("x.label_map.pbtxt") is DETECTION
    assert tasks.by_labels("x.pbtxt") is CLASSIFICATION


def test_a_plain_task_draws_and_prints_its_scores():
    """Over the whole photo, as a class is."""
    task = CountTask()
    (mark,) = task.marks(7)
    assert (mark.label, mark.words, mark.box) == ("many", "many 0.70", WHOLE)
    assert task.lines(7) == ["many 0.7"]


def test_a_plain_task_compares_its_golden_image_with_the_answer():
    """Any other answer is told with both."""
    task = CountTask()
    assert task.difference(b'{"count": 7}', 7, 0.8) == ""
    assert "count=7" in task.difference(b'{"count": 8}', 7, 0.8)
    with pytest.raises(msgspec.MsgspecError):
        task.difference(b'{"count": "x"}', 7, 0.8)


def test_a_plain_task_finds_its_files_in_a_folder_by_their_endings():
    """None where the manifest of an export says another task."""
    task = CountTask()
    assert task.graph_files(None) == (("*.count.pb",),)
    assert task.graph_files("detection") == ()
    assert task.label_files("x.pb", None, None)[0] == ("{name}.count.pbtxt",)


def test_the_default_answer_of_a_detector_is_what_it_found():
    """Nothing is copied for boxes in 0..1."""
    found = []
    assert DetectionTask().answer(found, (4, 3), Options()) is found
