"""The registry with more models in the folder than may be in memory."""

import pytest

from modelserver.core.errors import GraphError, ModelFailed, ModelNotReady
from modelserver.engine.catalogue import State
from support.fake_models import (
    SECONDS,
    FakeFiles,
    World,
    entry,
    get,
    registry_of,
    state,
    states,
)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def registry(world):
    with registry_of(world, max_models=2, stay_s=10) as registry:
        yield registry


@pytest.fixture
def three(registry):
    """Add three models, of which the first two are in memory."""
    for name in ("a", "b", "c"):
        registry.add(FakeFiles(name))
    for name in ("a", "b"):
        assert registry.wait(state(name, State.READY), SECONDS)


def ask(registry, name):
    """Ask for a model that is not in memory."""
    with pytest.raises(ModelNotReady, match="is being loaded"):
        get(registry, name)


def test_the_first_by_name_are_loaded_at_the_start(registry, world, three):
    """The others wait for a request, and the server is ready without them."""
    assert states(registry) == {
        "a": State.READY,
        "b": State.READY,
        "c": State.UNLOADED,
    }
    assert registry.ready
    assert sorted(world.models) == ["a", "b"]


def test_a_request_has_a_model_loaded_in_place_of_the_least_used(
    registry, world, three
):
    """The client is told when to come back, and is answered then."""
    world.now += 10
    get(registry, "a")
    world.now += 1
    entry(registry, "b").load_s = 4.0
    with pytest.raises(ModelNotReady) as refused:
        get(registry, "c")
    assert refused.value.retry_after_s == 4.0
    assert registry.wait(state("c", State.READY), SECONDS)
    assert states(registry)["b"] is State.UNLOADED
    assert world.closed == ["b"]
    ask(registry, "b")
    world.now += 10
    assert registry.wait(state("b", State.READY), SECONDS)
    assert states(registry)["a"] is State.UNLOADED


def test_a_model_in_use_is_not_unloaded_while_another_is_idle(registry, world, three):
    """It stays even if its last request is longer ago."""
    with registry.lease("a"):
        world.now += 10
        get(registry, "b")
        ask(registry, "c")
        assert registry.wait(state("b", State.UNLOADED), SECONDS)
        assert states(registry)["a"] is State.READY


def test_a_model_in_use_finishes_its_requests(registry, world, three):
    """If all are in use, the least recently used one drains."""
    with registry.lease("a"):
        with registry.lease("b"):
            world.now += 10
            ask(registry, "c")
            assert registry.wait(state("a", State.DRAINING), SECONDS)
            with pytest.raises(ModelNotReady, match="draining"):
                get(registry, "a")
        assert world.closed == []
        assert states(registry)["b"] is State.READY
    assert registry.wait(state("c", State.READY), SECONDS)
    assert world.closed == ["a"]


def test_a_model_stays_in_memory_for_a_while(registry, world, three):
    """Else two models that are asked for in turn would do nothing but load."""
    world.now += 9
    ask(registry, "c")
    ask(registry, "c")
    assert registry.wait(lambda r: not entry(r, "c").busy, SECONDS)
    assert states(registry)["c"] is State.UNLOADED
    world.now += 1
    assert registry.wait(state("c", State.READY), SECONDS)


def test_models_are_loaded_in_the_order_of_their_requests(registry, world, three):
    """No model waits for ever."""
    registry.add(FakeFiles("d"))
    ask(registry, "d")
    world.now += 5
    ask(registry, "c")
    assert registry.wait(lambda r: not entry(r, "c").busy, SECONDS)
    assert states(registry)["c"] is State.UNLOADED
    world.gate.clear()
    world.now += 5
    assert registry.wait(state("d", State.LOADING), SECONDS)
    world.gate.set()
    assert registry.wait(state("d", State.READY), SECONDS)
    assert registry.wait(state("c", State.READY), SECONDS)


def test_a_model_that_cannot_be_loaded_takes_no_room(registry, world):
    """The room is left to the models that are asked for."""
    world.errors[FakeFiles("a")] = GraphError("bad")
    world.gate.clear()
    for name in ("a", "b", "c"):
        registry.add(FakeFiles(name))
    world.gate.set()
    assert registry.wait(state("a", State.FAILED), SECONDS)
    ask(registry, "c")
    assert registry.wait(state("c", State.READY), SECONDS)
    with pytest.raises(ModelFailed):
        get(registry, "a")
    registry.put(FakeFiles("a", 2))
    assert registry.wait(state("a", State.UNLOADED), SECONDS)
    assert world.closed == []


def test_a_change_of_an_unloaded_models_files_waits_for_a_request(
    registry, world, three
):
    """The new files are loaded by the next request."""
    registry.put(FakeFiles("c", 2))
    assert registry.wait(lambda r: not entry(r, "c").busy, SECONDS)
    assert states(registry)["c"] is State.UNLOADED
    world.now += 10
    ask(registry, "c")
    assert registry.wait(state("c", State.READY), SECONDS)
    assert get(registry, "c").files.version == 2


def test_a_model_that_is_new_takes_free_room_only(registry, world, three):
    """A file that is copied there unloads no other model."""
    registry.put(FakeFiles("d"))
    assert states(registry)["d"] is State.UNLOADED
    registry.remove("a")
    assert registry.wait(lambda r: "a" not in states(r), SECONDS)
    registry.put(FakeFiles("e"))
    assert registry.wait(state("e", State.READY), SECONDS)


def test_an_open_circuit_gives_its_room_away(registry, world, three):
    """The model is tried again once its time has come, if there is room."""
    for wait_s in (1, 2, 0):
        assert registry.wait(state("a", State.READY), SECONDS)
        get(registry, "a").die()
        assert registry.wait(lambda r: not state("a", State.READY)(r), SECONDS)
        world.now += wait_s
    assert registry.wait(state("a", State.FAILED), SECONDS)
    ask(registry, "c")
    assert registry.wait(state("c", State.READY), SECONDS)
    world.now += 60
    assert registry.wait(state("a", State.UNLOADED), SECONDS)


def dismiss(registry, name):
    """Unload a model, and wait until it is away."""
    registry.unload(name)
    assert registry.wait(state(name, State.UNLOADED), SECONDS)


def test_a_model_that_somebody_unloaded_is_not_brought_back_by_requests(
    registry, world, three
):
    """It has left memory, and its place is for another; a word brings it back."""
    dismiss(registry, "a")
    assert world.closed == ["a"]
    for _ in range(2):
        with pytest.raises(ModelNotReady, match="is unloaded"):
            get(registry, "a")
    ask(registry, "c")
    assert registry.wait(state("c", State.READY), SECONDS)
    assert states(registry)["b"] is State.READY
    dismiss(registry, "c")
    registry.load("a")
    assert registry.wait(state("a", State.READY), SECONDS)


def test_changed_files_bring_an_unloaded_model_back(registry, world, three):
    """As they bring back one that failed."""
    dismiss(registry, "a")
    registry.put(FakeFiles("a", version=2))
    assert registry.wait(state("a", State.READY), SECONDS)
    get(registry, "a")


def test_a_model_in_use_is_unloaded_once_its_requests_have_ended(
    registry, world, three
):
    """Nobody is cut off."""
    with registry.lease("a"):
        registry.unload("a")
        assert states(registry)["a"] is State.DRAINING
        assert world.closed == []
        registry.load("a")
        assert states(registry)["a"] is State.DRAINING
    assert registry.wait(state("a", State.READY), SECONDS)
    assert world.closed == ["a"]


def test_a_model_may_be_unloaded_again_while_it_leaves(registry, world, three):
    """The last word counts: who asked for it meanwhile does not get it back."""
    with registry.lease("a"):
        registry.unload("a")
        registry.load("a")
        registry.unload("a")
        assert states(registry)["a"] is State.DRAINING
    assert registry.wait(state("a", State.UNLOADED), SECONDS)
    with pytest.raises(ModelNotReady, match="is unloaded"):
        get(registry, "a")


def test_a_model_that_is_loading_cannot_be_unloaded(registry, world):
    """It is said to be loading, and goes on."""
    world.gate.clear()
    registry.add(FakeFiles("a"))
    assert registry.wait(lambda _: world.loading == 1, SECONDS)
    with pytest.raises(ModelNotReady, match="loading"):
        registry.unload("a")
    world.gate.set()
    assert registry.wait(state("a", State.READY), SECONDS)


def test_a_model_that_failed_is_tried_again_at_a_word(registry, world):
    """Also with the same files, which otherwise wait until they change."""
    world.errors[FakeFiles("a")] = GraphError("no")
    registry.add(FakeFiles("a"))
    assert registry.wait(state("a", State.FAILED), SECONDS)
    registry.unload("a")
    assert states(registry)["a"] is State.FAILED
    world.errors.clear()
    registry.load("a")
    assert registry.wait(state("a", State.READY), SECONDS)
