"""The registry: loads, failures, deaths, recoveries and closing."""

import gc
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from modelserver.core.errors import (
    AmbiguousModel,
    DeviceFailed,
    GraphError,
    LabelMapError,
    ModelCrashed,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
)
from modelserver.engine.catalogue import Registry, State
from support.fake_models import SECONDS, FakeFiles, World, entry, get, state


@pytest.fixture
def world():
    return World()


@pytest.fixture
def registry(world):
    registry = Registry(
        world.load,
        hint=lambda: "Put models into the folder.",
        loads=2,
        clock=lambda: world.now,
        poll_s=0.001,
    )
    yield registry
    world.gate.set()
    registry.close()


def test_a_model_serves_once_it_is_loaded(registry, world):
    """Until then requests are refused because it is loading."""
    world.gate.clear()
    registry.add(FakeFiles("a"))
    assert not registry.ready
    with pytest.raises(ModelNotReady, match="'a' is loading"):
        get(registry, "a")
    world.gate.set()
    assert registry.wait(lambda r: r.ready, SECONDS)
    assert get(registry, "a") is world.models["a"]
    assert entry(registry, "a").digest == "digest of a 1"


def test_an_unknown_name_is_answered_with_the_names_there_are(registry):
    """If there are no models, the answer says what to do."""
    with pytest.raises(ModelNotFound, match="Put models into the folder"):
        get(registry, "x")
    for name in ("b", "a"):
        registry.add(FakeFiles(name))
    with pytest.raises(ModelNotFound, match=r"'x'. The models here are: a, b"):
        get(registry, "x")


def test_two_models_of_one_name_are_refused(registry):
    """A second model of the same kind and name is refused."""
    registry.add(FakeFiles("a"))
    with pytest.raises(ValueError, match="already"):
        registry.add(FakeFiles("a"))


def test_a_bad_model_is_failed_with_its_reason_and_the_others_serve(registry, world):
    """Readiness does not wait for a model that cannot be loaded."""
    bad = FakeFiles("bad")
    world.errors[bad] = GraphError("There is no image input.")
    registry.add(bad)
    registry.add(FakeFiles("good"))
    assert registry.wait(lambda r: r.ready, SECONDS)
    assert registry.wait(state("bad", State.FAILED), SECONDS)
    assert entry(registry, "bad").reason == "There is no image input."
    with pytest.raises(ModelFailed, match="GET /models"):
        get(registry, "bad")
    assert get(registry, "good")


def test_a_bug_in_loading_fails_that_model_and_tells_nothing_inside(registry, world):
    """The error's text goes to the log only."""
    bad = FakeFiles("bad")
    world.errors[bad] = RuntimeError("secret")
    registry.add(bad)
    assert registry.wait(state("bad", State.FAILED), SECONDS)
    assert "secret" not in entry(registry, "bad").reason


def test_a_failed_model_is_loaded_again_once_its_files_change(registry, world):
    """It is not loaded before: a crash in warm-up waits for a new file."""
    bad = FakeFiles("m")
    world.errors[bad] = ModelCrashed("SIGSEGV while loading")
    registry.add(bad)
    assert registry.wait(state("m", State.FAILED), SECONDS)
    world.now += 10_000
    registry.put(replace(bad, version=2))
    assert registry.wait(state("m", State.READY), SECONDS)
    assert world.loads == [1, 2]


def test_a_model_that_dies_comes_back_after_a_second(registry, world):
    """Meanwhile its requests get 503 with the time to wait."""
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.READY), SECONDS)
    first = get(registry, "m")
    first.die()
    assert registry.wait(state("m", State.LOADING), SECONDS)
    with pytest.raises(ModelNotReady, match="restarting") as refused:
        get(registry, "m")
    assert refused.value.retry_after_s == 1.0
    assert not entry(registry, "m").first
    assert "SIGKILL" in entry(registry, "m").reason
    world.now += 1
    assert registry.wait(state("m", State.READY), SECONDS)
    assert get(registry, "m") is not first
    assert world.closed == ["m"]


def test_three_deaths_in_a_minute_open_the_circuit(registry, world):
    """The model is FAILED with the signal's name and tried again after a minute."""
    registry.add(FakeFiles("m"))
    for wait_s in (1, 2):
        assert registry.wait(state("m", State.READY), SECONDS)
        get(registry, "m").die()
        assert registry.wait(state("m", State.LOADING), SECONDS)
        world.now += wait_s
    assert registry.wait(state("m", State.READY), SECONDS)
    get(registry, "m").die("SIGSEGV")
    assert registry.wait(state("m", State.FAILED), SECONDS)
    assert "SIGSEGV" in entry(registry, "m").reason
    with pytest.raises(ModelFailed) as refused:
        get(registry, "m")
    assert refused.value.retry_after_s == 60.0
    world.now += 60
    assert registry.wait(state("m", State.READY), SECONDS)


def test_an_open_circuit_closes_at_once_when_the_file_changes(registry, world):
    """A new file is loaded without waiting for the circuit."""
    files = FakeFiles("m")
    registry.add(files)
    for wait_s in (1, 2, 0):
        assert registry.wait(state("m", State.READY), SECONDS)
        get(registry, "m").die()
        assert registry.wait(lambda r: not state("m", State.READY)(r), SECONDS)
        world.now += wait_s
    assert registry.wait(state("m", State.FAILED), SECONDS)
    registry.put(replace(files, version=2))
    assert registry.wait(state("m", State.READY), SECONDS)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModelCrashed("not ready in time"), "not ready in time"),
        (GraphError("more than 500 MiB"), "more than 500 MiB"),
        (RuntimeError("can't start new thread"), "internal error"),
    ],
)
def test_files_that_served_before_are_tried_again_after_any_error(
    error, words, registry, world
):
    """The very same files served before, so they are not at fault."""
    files = FakeFiles("m")
    registry.add(files)
    assert registry.wait(state("m", State.READY), SECONDS)
    world.errors[files] = error
    get(registry, "m").die()
    assert registry.wait(state("m", State.LOADING), SECONDS)
    world.now += 1
    assert registry.wait(lambda r: words in entry(r, "m").reason, SECONDS)
    del world.errors[files]
    world.now += 2
    assert registry.wait(state("m", State.READY), SECONDS)


@pytest.mark.parametrize(
    "error",
    [
        ModelCrashed("SIGKILL", from_outside=True),
        OSError("too many open files"),
        DeviceFailed("GPU 0 failed: its memory is full."),
    ],
    ids=["killed", "no descriptors", "a full card"],
)
def test_a_first_load_that_was_hindered_is_tried_again(error, registry, world):
    """A killed process or a full machine is not the graph's fault."""
    files = FakeFiles("m")
    world.errors[files] = error
    registry.add(files)
    assert registry.wait(lambda r: entry(r, "m").retry_at == 1.0, SECONDS)
    assert not entry(registry, "m").first
    del world.errors[files]
    world.now += 1
    assert registry.wait(state("m", State.READY), SECONDS)


def unreadable(cause):
    """Make a model's error whose cause is the system's."""
    error = LabelMapError(Path("m.pbtxt"), None, "it cannot be read")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (OSError(24, "Too many open files"), True),
        (FileNotFoundError(2, "No such file"), False),
        (ValueError("no label map"), False),
    ],
)
def test_a_file_that_could_not_be_read_is_read_again(cause, passes, registry, world):
    """One that is gone, or is no file, waits for the next scan of the folder."""
    files = FakeFiles("m")
    world.errors[files] = unreadable(cause)
    registry.add(files)
    wanted = State.LOADING if passes else State.FAILED
    assert registry.wait(lambda r: entry(r, "m").reason, SECONDS)
    assert entry(registry, "m").state is wanted
    assert (entry(registry, "m").retry_at is not None) == passes


def test_a_model_that_no_thread_can_look_after_is_not_there(
    registry, world, monkeypatch
):
    """It can be put into the registry again later."""

    def none(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", none)
        with pytest.raises(RuntimeError):
            registry.put(FakeFiles("m"))
    assert list(registry) == []
    registry.put(FakeFiles("m"))
    assert registry.wait(state("m", State.READY), SECONDS)


def test_the_wait_for_a_model_includes_its_load(registry, world):
    """Clients are told to come back when it serves, not when its load begins."""

    def slowly(files):
        world.now += 7
        return world.load(files)

    registry._supervisor._loader = slowly
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.READY), SECONDS)
    get(registry, "m").die()
    assert registry.wait(state("m", State.LOADING), SECONDS)
    with pytest.raises(ModelNotReady) as refused:
        get(registry, "m")
    assert refused.value.retry_after_s == 8.0


def wait_told(registry, name):
    """Return the seconds after which a client is told to come back."""
    with pytest.raises(ModelNotReady) as refused:
        get(registry, name)
    return refused.value.retry_after_s


def test_the_wait_for_a_first_load_is_what_is_left_of_it(registry, world):
    """By a guess at first, by measured loads later, and by the place in line."""
    world.gate.clear()
    for name in ("a", "b", "c", "d", "e"):
        registry.add(FakeFiles(name))
        if name in "ab":  # two load at once
            began = lambda r, key=name: entry(r, key).began is not None  # noqa: E731
            assert registry.wait(began, SECONDS)
    assert [wait_told(registry, name) for name in "abcde"] == [5, 5, 10, 10, 15]
    world.now += 3
    assert [wait_told(registry, name) for name in "abcde"] == [2, 2, 7, 7, 12]
    world.now += 60
    assert wait_told(registry, "a") == 1
    world.gate.set()
    assert registry.wait(lambda r: r.ready, SECONDS)
    world.gate.clear()
    entry(registry, "a").load_s = 9.0
    for name in "bcde":
        entry(registry, name).load_s = 2.0
    registry.add(FakeFiles("f"))
    assert registry.wait(lambda r: entry(r, "f").began is not None, SECONDS)
    assert wait_told(registry, "f") == 9


def test_no_more_models_load_at_once_than_allowed(registry, world):
    """With a limit of two, a third load waits."""
    world.gate.clear()
    for number in range(5):
        registry.add(FakeFiles(f"m{number}"))
    world.gate.set()
    assert registry.wait(lambda r: all(e.state is State.READY for e in r), SECONDS)
    assert 1 <= world.most <= 2


def test_closing_goes_backwards_and_survives_a_failing_close(registry, world):
    """Every model is closed, the last added first."""
    for name in ("a", "b", "c"):
        registry.add(FakeFiles(name))
        assert registry.wait(state(name, State.READY), SECONDS)
    world.models["b"].error = OSError("stuck")
    registry.close()
    registry.close()
    assert world.closed == ["c", "b", "a"]
    with pytest.raises(ModelNotReady, match="closed"):
        get(registry, "a")
    with pytest.raises(ValueError, match="closed"):
        registry.add(FakeFiles("d"))


def test_a_model_that_gets_ready_while_closing_is_closed_too(world):
    """A load under way cannot be stopped, but its result is not kept."""
    world.gate.clear()
    closed = threading.Event()
    with Registry(world.load, clock=lambda: world.now, poll_s=0.001) as registry:
        registry.add(FakeFiles("m"))
        while not world.loads:
            closed.wait(0.001)
        registry.close()
        world.gate.set()
        entry(registry, "m").thread.join(SECONDS)
    assert world.closed == ["m"]


def test_a_registry_that_was_never_used_closes_quietly(world):
    """A process that only starts others closes an unused registry."""
    with Registry(world.load):
        pass
    assert world.closed == []


def test_a_registry_that_is_dropped_open_warns(world):
    """The code that opens a registry must close it."""
    registry = Registry(world.load)
    registry.add(FakeFiles("m"))
    assert registry.wait(state("m", State.READY), SECONDS)
    with pytest.warns(ResourceWarning, match="dropped open"):
        registry.__del__()
    registry.close()
    gc.collect()


def test_the_stand_ins_are_true_to_discovery():
    """The fake files have the attributes of real ones."""
    from modelserver.engine.discovery import ModelFiles

    files = ModelFiles("m", "detection", Path("m.frozen.pb"), None, None)
    for name in ("name", "kind", "stamp", "digest", "identity"):
        assert hasattr(files, name)
        assert hasattr(FakeFiles("m"), name)


@pytest.fixture
def pair(registry):
    """Give a registry with a detector and a classifier of one name, both READY."""
    registry.add(FakeFiles("only"))
    registry.add(FakeFiles("m", 1, "detection"))
    registry.add(FakeFiles("m", 2, "classification"))
    assert registry.wait(lambda _: registry.ready, SECONDS)
    assert registry.wait(
        lambda _: all(e.state is State.READY for e in registry), SECONDS
    )
    return registry


def test_two_kinds_may_have_a_model_of_one_name(pair):
    """Each is found by its kind; the name alone is refused with what to add."""
    for kind, version in (("detection", 1), ("classification", 2)):
        assert get(pair, "m", kind).files.version == version
        with pair.lease("m", kind) as lease:
            assert lease.loaded.files.version == version
    with pytest.raises(AmbiguousModel, match=r"\?kind=classification or \?kind="):
        get(pair, "m")
    assert get(pair, "only").files.name == "only"
    with pytest.raises(ModelNotFound, match="The models here are: m, only"):
        get(pair, "none")
    with pytest.raises(ModelNotFound, match="The models here are: m\\."):
        get(pair, "only", "classification")


def test_models_of_one_name_have_titles_that_differ(pair):
    """Models with other names have their names as titles."""
    titles = {entry.title for entry in pair}
    assert titles == {"only", "detection/m", "classification/m"}


def test_a_model_of_a_kind_is_removed_alone(pair):
    """The model of the same name and another kind serves on."""
    pair.remove("m", "detection")
    assert pair.wait(lambda _: len(pair) == 2, SECONDS)
    assert get(pair, "m").files.version == 2
