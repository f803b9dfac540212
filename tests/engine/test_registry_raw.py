"""The registry and graphs of other tasks, which clients ask with tensors."""

import pytest

from modelserver.core.errors import GraphError, ModelFailed, ModelNotReady, OtherTask
from modelserver.core.messages import Tensors, TensorSpec
from modelserver.engine.catalogue import State
from support.fake_models import (
    SECONDS,
    FakeFiles,
    World,
    entry,
    get,
    idle,
    registry_of,
    state,
    states,
)

SPEC = TensorSpec("image", "<f4", (-1, 8, 8, 3))
TENSORS = Tensors((SPEC,), (SPEC,))
POSE = FakeFiles("pose")


@pytest.fixture
def world():
    world = World()
    world.errors[POSE] = OtherTask("it finds keypoints", TENSORS)
    return world


@pytest.fixture
def registry(world):
    with registry_of(world, max_models=2, stay_s=10) as registry:
        yield registry


@pytest.fixture
def pose(registry):
    """Add a graph of another task, and return its entry."""
    registry.add(POSE)
    assert registry.wait(state("pose", State.FAILED), SECONDS)
    return entry(registry, "pose")


def loaded_raw(registry, pose):
    """Ask for it with tensors until it is in memory; return its version."""
    with pytest.raises(ModelNotReady, match="is being loaded"):
        registry.take("pose", raw=True)
    assert registry.wait(lambda one: one.asked(pose).state is State.READY, SECONDS)
    title, version = registry.take("pose", raw=True)
    assert title == "pose"
    return version


def test_it_is_failed_for_its_task_and_loaded_when_tensors_ask_for_it(
    registry, world, pose
):
    """Photos are refused before and after; nothing else of it is to be seen."""
    assert pose.raw
    assert pose.reason == "it finds keypoints"
    assert world.models == {}
    version = loaded_raw(registry, pose)
    assert version.loaded is world.models["pose"]
    assert version.loaded.files.kind == "raw"
    assert (pose.loaded, pose.in_memory) == (None, version.loaded)
    with pytest.raises(ModelFailed):
        get(registry, "pose")
    assert states(registry) == {"pose": State.FAILED}
    assert len(registry) == 1
    assert not registry.ready
    registry.give_back(version)


def test_other_failures_are_never_raw(registry, world):
    """A graph that has a fault is not offered."""
    world.errors[FakeFiles("a")] = GraphError("cut off")
    registry.add(FakeFiles("a"))
    assert registry.wait(state("a", State.FAILED), SECONDS)
    assert not entry(registry, "a").raw
    with pytest.raises(ModelFailed):
        registry.take("a", raw=True)


def test_models_that_serve_are_asked_with_tensors_as_ever(registry, world):
    """They need no other entry."""
    registry.add(FakeFiles("a"))
    assert registry.wait(state("a", State.READY), SECONDS)
    _, version = registry.take("a", raw=True)
    assert version.loaded is world.models["a"]
    registry.give_back(version)


def test_it_counts_among_the_models_in_memory(registry, world, pose):
    """It takes the room of the least used, and gives its own to another."""
    for name in ("a", "b"):
        registry.add(FakeFiles(name))
        assert registry.wait(state(name, State.READY), SECONDS)
    world.now += 10
    get(registry, "b")
    version = loaded_raw(registry, pose)
    registry.give_back(version)
    assert states(registry)["a"] is State.UNLOADED
    world.now += 10
    get(registry, "b")
    with pytest.raises(ModelNotReady):
        get(registry, "a")
    assert registry.wait(state("a", State.READY), SECONDS)
    assert registry.asked(pose).state is State.UNLOADED
    assert states(registry)["pose"] is State.FAILED


def test_load_and_unload_are_of_what_tensors_ask(registry, world, pose):
    """The graph is not tried for its task again, and stays away once unloaded."""
    registry.load("pose")
    raw = registry.asked(pose)
    assert registry.wait(lambda _: raw.state is State.READY, SECONDS)
    registry.unload("pose")
    assert registry.wait(lambda _: raw.state is State.UNLOADED, SECONDS)
    with pytest.raises(ModelNotReady, match="unloaded"):
        registry.take("pose", raw=True)
    assert states(registry) == {"pose": State.FAILED}
    assert len(world.loads) == 2


def test_one_that_dies_comes_back_as_any_model_does(registry, world, pose):
    """After a wait; its task's own state is left alone."""
    version = loaded_raw(registry, pose)
    registry.give_back(version)
    version.loaded.die()
    raw = registry.asked(pose)
    assert registry.wait(lambda _: raw.retry_at is not None, SECONDS)
    world.now += 1
    assert registry.wait(lambda _: raw.state is State.READY, SECONDS)
    assert raw.loaded is not version.loaded
    assert states(registry) == {"pose": State.FAILED}


def test_files_that_serve_take_its_place(registry, world, pose):
    """What was loaded raw goes, once its requests have ended."""
    version = loaded_raw(registry, pose)
    registry.put(FakeFiles("pose", version=2))
    assert registry.wait(state("pose", State.READY), SECONDS)
    assert not pose.raw
    assert version.loaded.closes == 0
    registry.give_back(version)
    assert registry.wait(lambda _: version.loaded.closes == 1, SECONDS)
    _, serving = registry.take("pose", raw=True)
    assert serving.loaded.files.version == 2
    assert pose.in_memory is serving.loaded
    registry.give_back(serving)


def test_the_same_files_again_change_nothing(registry, world, pose):
    """Written once more, they are neither tried nor unloaded."""
    version = loaded_raw(registry, pose)
    registry.give_back(version)
    registry.put(FakeFiles("pose", touched=1))
    assert registry.wait(idle, SECONDS)
    assert pose.raw
    assert registry.asked(pose).loaded is version.loaded


def test_files_with_a_fault_end_it(registry, world, pose):
    """Then nothing of it is offered any more."""
    version = loaded_raw(registry, pose)
    registry.give_back(version)
    broken = FakeFiles("pose", version=3)
    world.errors[broken] = GraphError("cut off")
    registry.put(broken)
    assert registry.wait(lambda _: pose.reason == "cut off", SECONDS)
    assert not pose.raw
    assert registry.wait(lambda _: version.loaded.closes == 1, SECONDS)
    with pytest.raises(ModelFailed):
        registry.take("pose", raw=True)


def test_a_model_that_is_removed_takes_it_along(registry, world, pose):
    """Both are gone, and closed."""
    version = loaded_raw(registry, pose)
    registry.give_back(version)
    registry.remove("pose")
    assert registry.wait(lambda one: not len(one), SECONDS)
    assert registry.wait(lambda _: version.loaded.closes == 1, SECONDS)


def test_a_graph_that_cannot_be_loaded_raw_says_so_to_those_who_ask(
    registry, world, pose
):
    """Its reason for photos stays."""
    world.errors[POSE.raw()] = GraphError("The graph cannot be run on zeros")
    with pytest.raises(ModelNotReady):
        registry.take("pose", raw=True)
    raw = registry.asked(pose)
    assert registry.wait(lambda _: raw.state is State.FAILED, SECONDS)
    with pytest.raises(ModelFailed):
        registry.take("pose", raw=True)
    assert (raw.reason, pose.reason) == (
        "The graph cannot be run on zeros",
        "it finds keypoints",
    )


def test_a_closed_registry_makes_no_more_of_them(registry, pose):
    """Closing ends all that there is."""
    registry.close()
    assert registry.asked(pose) is pose
