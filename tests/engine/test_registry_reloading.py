"""The registry: new versions next to old ones, leases, and removed models."""

import threading

import pytest

from modelserver.core.errors import (
    GraphError,
    ModelCrashed,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
)
from modelserver.engine.catalogue import State
from support.fake_models import (
    SECONDS,
    ChangingFiles,
    FakeFiles,
    World,
    entry,
    get,
    idle,
    registry_of,
    state,
    states,
)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def registry(world):
    with registry_of(world) as registry:
        yield registry


@pytest.fixture
def old(registry):
    """Give version 1 of the model ``m``, which serves."""
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.READY), SECONDS)
    return get(registry, "m")


def version(number):
    """Make a condition: this version serves."""
    return lambda registry: get(registry, "m").files.version == number


def error(words):
    """Make a condition: a reload has failed with these words."""
    return lambda registry: words in entry(registry, "m").reload_error


def test_a_new_version_takes_over_from_the_old_which_serves_meanwhile(
    registry, world, old
):
    """The old version is closed then."""
    world.gate.clear()
    registry.put(FakeFiles("m", 2))
    world.wait()
    assert get(registry, "m") is old
    assert registry.ready
    world.gate.set()
    assert registry.wait(version(2), SECONDS)
    assert registry.wait(lambda _: world.closed == ["m"], SECONDS)
    assert old.closes == 1
    assert entry(registry, "m").digest == "digest of m 2"


def test_a_request_finishes_on_the_version_that_it_began_with(registry, world, old):
    """The old version is closed once its last user has left, not before."""
    with registry.lease("m") as mine:
        with registry.lease("m"):
            registry.put(FakeFiles("m", 2))
            assert registry.wait(version(2), SECONDS)
        assert registry.wait(idle, SECONDS)
        assert mine.loaded is old
        assert old.closes == 0
    assert registry.wait(lambda _: old.closes == 1, SECONDS)


def test_a_request_that_never_ends_holds_an_old_version_for_a_while_only(
    registry, world, old
):
    """After the drain time the old version is closed all the same."""
    with registry.lease("m"):
        registry.put(FakeFiles("m", 2))
        assert registry.wait(version(2), SECONDS)
        registry.put(FakeFiles("m", 3))
        assert registry.wait(idle, SECONDS)
        assert world.loads == [1, 2], "a third version in memory"
        world.now += 30
        assert registry.wait(version(3), SECONDS)
        assert old.closes == 1


def test_a_bad_version_leaves_the_old_one_serving_and_says_why(registry, world, old):
    """The error stays until other files come."""
    world.errors[FakeFiles("m", 2)] = GraphError("There is no image input.")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("There is no image input."), SECONDS)
    assert get(registry, "m") is old
    assert entry(registry, "m").digest == "digest of m 1"
    registry.put(FakeFiles("m", 3))
    assert registry.wait(version(3), SECONDS)
    assert entry(registry, "m").reload_error == ""


def test_a_bad_version_is_not_tried_again_when_its_file_is_only_touched(
    registry, world, old
):
    """A bad version is recognised by its content."""
    world.errors[FakeFiles("m", 2)] = GraphError("bad")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("bad"), SECONDS)
    registry.put(FakeFiles("m", 2, touched=1))
    assert registry.wait(idle, SECONDS)
    assert world.loads == [1, 2]
    assert entry(registry, "m").reload_error == "bad"


def test_the_old_files_put_back_end_the_error_without_a_load(registry, world, old):
    """Files that serve already are not loaded again."""
    world.errors[FakeFiles("m", 2)] = GraphError("bad")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("bad"), SECONDS)
    registry.put(FakeFiles("m", 1, touched=1))
    assert registry.wait(lambda r: not entry(r, "m").reload_error, SECONDS)
    assert world.loads == [1, 2]
    assert get(registry, "m") is old


def test_a_bug_in_a_reload_tells_nothing_inside(registry, world, old):
    """The old version serves on."""
    world.errors[FakeFiles("m", 2)] = RuntimeError("secret")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("internal error"), SECONDS)
    assert get(registry, "m") is old


def test_a_reload_that_was_hindered_is_tried_again(registry, world, old):
    """A killed process is not the new graph's fault."""
    files = FakeFiles("m", 2)
    world.errors[files] = ModelCrashed("SIGKILL", from_outside=True)
    registry.put(files)
    assert registry.wait(error("SIGKILL"), SECONDS)
    del world.errors[files]
    world.now += 10
    assert registry.wait(version(2), SECONDS)


def test_a_reload_that_is_hindered_again_and_again_is_tried_less_and_less(
    registry, world, old
):
    """Each try holds a second version in memory; other files begin anew."""
    files = FakeFiles("m", 2)
    world.errors[files] = ModelCrashed("SIGKILL", from_outside=True)
    registry.put(files)
    for tries, wait_s in enumerate((10, 20, 40, 80, 160, 320, 600, 600), 1):
        hindered = lambda r, n=tries: entry(r, "m").reloads_failed == n  # noqa: E731
        assert registry.wait(hindered, SECONDS)
        assert entry(registry, "m").pending_at - world.now == wait_s
        world.now += wait_s
    registry.put(FakeFiles("m", 3))
    assert registry.wait(version(3), SECONDS)
    assert entry(registry, "m").hindered == 0


def test_a_new_version_that_is_dead_already_does_not_take_over(registry, world, old):
    """The old version serves on."""
    load = registry._supervisor._loader

    def stillborn(files):
        model = load(files)
        if files.version == 2:
            model.die()
        return model

    registry._supervisor._loader = stillborn
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("as soon as it was loaded"), SECONDS)
    assert get(registry, "m") is old
    assert world.closed == ["m"]


def test_a_model_that_is_held_serves_on_and_says_why(registry, world, old):
    """Files that failed before are tried again once they can be read."""
    world.errors[FakeFiles("m", 2)] = GraphError("bad")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("bad"), SECONDS)
    registry.hold("m", "'m.pb' cannot be read.")
    registry.hold("unknown", "'unknown.pb' cannot be read.")
    assert entry(registry, "m").reload_error == "'m.pb' cannot be read."
    assert get(registry, "m") is old
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("bad"), SECONDS)
    registry.put(FakeFiles("m", 1))
    assert registry.wait(error(""), SECONDS)
    assert registry.wait(idle, SECONDS)
    assert entry(registry, "m").reload_error == ""


def test_an_old_version_that_dies_after_a_bad_reload_is_failed_at_once(
    registry, world, old
):
    """Its files are gone, and those that lie there are known to be bad."""
    world.errors[FakeFiles("m", 2)] = GraphError("bad")
    registry.put(FakeFiles("m", 2))
    assert registry.wait(error("bad"), SECONDS)
    entry(registry, "m").files = FakeFiles("m", 2)
    old.die()
    assert registry.wait(lambda r: entry(r, "m").restarts == 1, SECONDS)
    world.now += 1
    assert registry.wait(state("m", State.FAILED), SECONDS)
    assert entry(registry, "m").reason == "bad"
    assert world.loads == [1, 2]


def test_files_that_change_while_they_are_loaded_are_not_served(
    registry, world, old, monkeypatch
):
    """They may be half of each version; the next stable scan brings them again."""
    files = ChangingFiles("m", 2)
    monkeypatch.setattr(
        "modelserver.engine.catalogue.supervisor.read", reading_of(files)
    )
    registry.put(files, "stamp")
    assert registry.wait(lambda _: len(world.all) == 2, SECONDS)
    assert registry.wait(idle, SECONDS)
    assert get(registry, "m") is old
    assert world.all[1].closes == 1
    assert entry(registry, "m").reload_error == ""


def reading_of(files):
    """Return a ``read`` for files whose stamp is ``"stamp"`` then."""
    from modelserver.engine.catalogue.entries import Snapshot

    return lambda _files: Snapshot(files, "stamp", "digest", "identity")


def test_files_that_changed_since_they_lay_still_are_not_loaded(registry, world, old):
    """Another copy is under way then."""
    registry.put(FakeFiles("m", 2), "another stamp")
    assert registry.wait(idle, SECONDS)
    assert world.loads == [1]


def test_a_first_load_whose_files_change_is_tried_again(registry, world, caplog):
    """There is no old version to serve."""
    registry.add(ChangingFiles("m"))
    assert registry.wait(lambda r: entry(r, "m").retry_at == 1.0, SECONDS)
    assert "changed while it was loaded" in entry(registry, "m").reason
    assert world.closed == ["m"]


def test_a_dead_version_is_replaced_by_the_new_one_that_is_loading(
    registry, world, old
):
    """No restart is waited for, and the dead version is leased to nobody."""
    world.gate.clear()
    registry.put(FakeFiles("m", 2))
    world.wait()
    old.die()
    with pytest.raises(ModelNotReady, match="restarting"):
        get(registry, "m")
    world.gate.set()
    assert registry.wait(version_is(2), SECONDS)
    assert registry.wait(lambda _: old.closes == 1, SECONDS)


def version_is(number):
    """Make a condition as ``version``, while nothing may serve."""
    return lambda r: (
        state("m", State.READY)(r) and entry(r, "m").files.version == number
    )


def test_a_model_that_is_new_is_added_and_does_not_make_the_server_unready(
    registry, world, old
):
    """Only the models that were there at the start count for readiness."""
    world.gate.clear()
    registry.put(FakeFiles("new"))
    assert states(registry)["new"] is State.LOADING
    assert registry.ready
    world.gate.set()
    assert registry.wait(state("new", State.READY), SECONDS)


def test_a_removed_model_drains_and_is_forgotten(registry, world, old):
    """New requests are refused, then not found; those under way finish."""
    with registry.lease("m"):
        registry.remove("m")
        registry.remove("m")
        with pytest.raises(ModelNotReady, match="draining"):
            get(registry, "m")
        assert registry.wait(idle, SECONDS)
        assert old.closes == 0
    assert registry.wait(lambda r: "m" not in states(r), SECONDS)
    with pytest.raises(ModelNotFound):
        get(registry, "m")
    assert old.closes == 1
    registry.remove("m")
    registry.add(FakeFiles("m", 2))
    assert registry.wait(state("m", State.READY), SECONDS)


def test_a_model_removed_while_it_loads_never_serves(registry, world):
    """Its loaded version is closed."""
    world.gate.clear()
    registry.add(FakeFiles("m"))
    world.wait()
    registry.remove("m")
    world.gate.set()
    assert registry.wait(lambda r: "m" not in states(r), SECONDS)
    assert world.closed == ["m"]


def test_files_that_come_back_while_the_model_drains_are_loaded(registry, world, old):
    """Files that return are not lost."""
    with registry.lease("m"):
        registry.remove("m")
        registry.put(FakeFiles("m", 2))
        assert registry.wait(idle, SECONDS)
        assert world.loads == [1]
    assert registry.wait(version_is(2), SECONDS)
    assert get(registry, "m") is not old


def test_a_failed_model_that_is_removed_is_forgotten(registry, world):
    """A FAILED model has nothing to drain."""
    world.errors[FakeFiles("m")] = GraphError("bad")
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.FAILED), SECONDS)
    with pytest.raises(ModelFailed):
        get(registry, "m")
    registry.remove("m")
    assert registry.wait(lambda r: not states(r), SECONDS)


def test_a_death_that_closing_or_removing_has_dealt_with_counts_for_nothing(
    registry, world, old
):
    """The code that took the version closes it."""
    mine = entry(registry, "m")
    gone = mine.version
    registry.put(FakeFiles("m", 2))
    assert registry.wait(version(2), SECONDS)
    registry._supervisor._revive(mine, gone)
    assert mine.restarts == 0
    assert get(registry, "m").files.version == 2


def test_files_that_come_back_at_the_last_moment_are_loaded(registry, world):
    """They come when the model was about to be forgotten."""
    world.errors[FakeFiles("m")] = GraphError("bad")
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.FAILED), SECONDS)
    registry._supervisor._forget(entry(registry, "m"))
    assert states(registry) == {"m": State.UNLOADED}
    registry.put(FakeFiles("m", 2))
    assert registry.wait(version_is(2), SECONDS)


def test_a_closed_registry_takes_nothing_more(registry, world, old):
    """New files are ignored after closing."""
    registry.close()
    registry.put(FakeFiles("m", 2))
    registry.put(FakeFiles("n"))
    registry.remove("m")
    assert states(registry) == {"m": State.CLOSED}


def test_leases_and_many_reloads_side_by_side(registry, world, old):
    """No model is ever closed while it is in use."""
    stop = threading.Event()
    broken = []

    def use():
        while not stop.wait(0.0005):
            with registry.lease("m") as version:
                if version.loaded.closes:
                    broken.append(version)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 22):
        registry.put(FakeFiles("m", number))
        assert registry.wait(version(number), SECONDS)
    stop.set()
    for thread in threads:
        thread.join(SECONDS)
    assert broken == []
    assert registry.wait(lambda _: len(world.closed) == 20, SECONDS)
