"""The registry as a state machine: any events in any order."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from modelserver.core.errors import GraphError, RequestError
from modelserver.engine.catalogue import Registry, State
from support.fake_models import SECONDS

LOADS, MOST, DRAIN_S, STAY_S = 2, 2, 30.0, 10.0
# More rounds than any step needs until no thread can go on.
ROUNDS = 50
NAMES = st.sampled_from("abc")


@dataclass(frozen=True)
class Content:
    """The content of the files on the disk under a name."""

    number: int
    good: bool


@dataclass(frozen=True)
class DiskFiles:
    """A model's files; their content is that of the disk just now."""

    name: str
    disk: dict = field(compare=False, repr=False)
    kind: str = "detection"

    @property
    def key(self):
        return self.kind, self.name

    @property
    def stamp(self):
        return self.disk.get(self.name)

    def digest(self):
        return str(self.disk.get(self.name))

    def identity(self, digest):
        return digest


class Served:
    """A loaded model that knows whether it was closed, and how often."""

    def __init__(self, name, content, world):
        self.name, self.content = name, content
        self.ended = Future()
        self.closes = 0
        self.retired_at = self.closed_at = None
        self.world = world

    def close(self):
        self.closes += 1
        self.closed_at = self.world.now
        if not self.ended.done():
            self.ended.set_result("closed")


class Load:
    """A load under way, which the machine ends."""

    def __init__(self, name, content):
        self.name, self.content = name, content
        self.go = False


class RegistryMachine(RuleBasedStateMachine):
    """Puts, breaks, touches, removes, crashes, holds and waits; see the invariants.

    The registry's threads are real, but they take turns, in an order that is drawn:
    else two models would race for the room in memory, and the same
    steps would not lead to the same state twice. A step ends once each thread waits
    for something to do, or is in a load that the machine ends later. The draws
    never depend on the registry.
    """

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.numbers = 0
        self.disk = {}
        self.latest = {}
        self.loads = []
        self.all = []
        self.leases = []
        self.newest = {}
        self.registry = Registry(
            self.load,
            loads=LOADS,
            max_models=MOST,
            clock=lambda: self.now,
            poll_s=SECONDS,
            drain_s=DRAIN_S,
            stay_s=STAY_S,
        )
        self.lock = self.registry._lock
        self.closing = self.registry._closing
        self.order = "abc"
        self.turn = None
        self.looked = self.acted = False
        self.due = self.registry._supervisor.due
        self.registry._supervisor.due = self.due_in_turn

    def due_in_turn(self, entry):
        """Return a thread's next task once it has its turn; the lock is held."""
        self.lock.wait_for(lambda: self.turn == entry.name or self.closing.is_set())
        if self.closing.is_set():
            return lambda: None  # so that it sees that it is to end
        task = self.due(entry)
        self.looked = task is None
        self.acted |= task is not None
        self.lock.notify_all()
        return task

    def load(self, files):
        load = Load(files.name, self.disk.get(files.name))
        with self.lock:
            self.loads.append(load)
            self.lock.notify_all()
            self.lock.wait_for(
                lambda: (load.go and self.turn == load.name) or self.closing.is_set()
            )
            self.loads.remove(load)
            self.acted = True
        if load.content is None or not load.content.good:
            raise GraphError("bad")
        model = Served(files.name, load.content, self)
        with self.lock:
            model.torn = self.disk.get(files.name) != load.content
            self.all.append(model)
        return model

    def settle(self):
        """Give each thread its turn, until none can go on by itself."""
        with self.lock:
            for _ in range(ROUNDS):
                self.acted = False
                for name in self.order:
                    self.give_turn(name)
                if not self.acted and self.is_settled():
                    break
            else:
                raise AssertionError("it never settles")
            for entry in self.registry:
                for version in entry.retiring:
                    if version.loaded.retired_at is None:
                        version.loaded.retired_at = self.now

    def give_turn(self, name):
        """Have one thread do all that is due, with the lock held."""
        entry = self.entry(name)
        if entry is None or name in self.held():
            return
        self.turn, self.looked = name, False
        self.lock.notify_all()
        assert self.lock.wait_for(
            lambda: self.looked or entry.gone or name in self.held(), SECONDS
        )
        self.turn = None

    def held(self):
        return {load.name for load in self.loads if not load.go}

    def is_settled(self):
        return all(not e.busy or e.name in self.held() for e in self.registry)

    def bring(self, name, good):
        """Write a new version and put it into the registry."""
        self.write(name, good)
        self.tell(name)

    @initialize(
        good=st.lists(st.booleans(), min_size=3, max_size=3),
        order=st.permutations("abc"),
    )
    def start(self, good, order):
        """Start with three models, whose loads end."""
        self.order = order
        for name, one in zip("abc", good, strict=True):
            self.bring(name, one)
        while self.loads:
            self.loads[0].go = True
            self.settle()

    @rule(name=NAMES, good=st.sampled_from([True, True, False]))
    def change(self, name, good):
        """Bring a new version, all at once."""
        self.bring(name, good)

    def entry(self, name):
        return next((e for e in self.registry if e.name == name), None)

    @rule(name=NAMES, good=st.booleans())
    def write(self, name, good):
        """Write a new version that the registry does not know yet."""
        self.numbers += 1
        self.disk[name] = Content(self.numbers, good)

    @rule(name=NAMES)
    def tell(self, name):
        """Put the files into the registry, as they lie still."""
        if name in self.disk:
            files = DiskFiles(name, self.disk)
            self.latest[name] = self.disk[name]
            self.registry.put(files, files.stamp)
            self.settle()

    @rule(name=NAMES)
    def remove(self, name):
        """Remove the files, and the model from the registry."""
        self.disk.pop(name, None)
        self.latest.pop(name, None)
        self.registry.remove(name)
        self.settle()

    @rule(which=st.integers(0, LOADS - 1))
    def end_a_load(self, which):
        """End one of the loads under way, well or not."""
        if self.loads:
            self.loads[which % len(self.loads)].go = True
            self.settle()

    @rule(name=NAMES)
    def crash(self, name):
        """Let the process of a model die."""
        entry = self.entry(name)
        alive = entry is not None and entry.version and not entry.version.ended
        if alive:
            entry.loaded.ended.set_result("SIGKILL")
            self.settle()

    @rule(name=NAMES)
    def ask(self, name):
        """Begin a request, which stays."""
        lease = self.registry.lease(name)
        try:
            model = lease.__enter__().loaded
        except RequestError:
            self.settle()
            return
        assert model.closes == 0
        assert model.content.good
        assert model.content.number >= self.newest.get(name, 0), "it went back"
        self.newest[name] = model.content.number
        self.leases.append((lease, model))

    @rule(which=st.integers(0, 5))
    def leave(self, which):
        """End a request."""
        if self.leases:
            lease, _ = self.leases.pop(which % len(self.leases))
            lease.__exit__(None, None, None)
            self.settle()

    @rule(seconds=st.sampled_from([1.0, 10.0, 35.0, 60.0]))
    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.settle()

    @invariant()
    def nothing_is_closed_twice_or_lost(self):
        """Each loaded model serves, drains, or was closed once."""
        with self.lock:
            kept = {
                id(version.loaded)
                for entry in self.registry
                for version in (*entry.retiring, entry.version)
                if version is not None
            }
            for model in self.all:
                assert model.closes + (id(model) in kept) == 1

    @invariant()
    def models_in_use_are_open(self):
        """A model in use is open, unless it died or its drain time has passed."""
        with self.lock:
            for _, model in self.leases:
                if model.closes and model.ended.result() != "SIGKILL":
                    assert model.retired_at is not None, "it did not drain"
                    assert model.closed_at - model.retired_at >= DRAIN_S

    @invariant()
    def nothing_is_loaded_twice_at_once(self):
        """Each name has one load at most, and all together keep the limit."""
        with self.lock:
            names = [load.name for load in self.loads]
            assert len(names) == len(set(names))
            assert len(names) <= LOADS

    @invariant()
    def memory_is_bounded(self):
        """Few models are in memory, each with an old and a new version at most."""
        with self.lock:
            alive = [model.name for model in self.all if not model.closes]
            loading = {load.name for load in self.loads}
            assert all(alive.count(name) + (name in loading) <= 2 for name in "abc")
            assert len(set(alive) | loading) <= MOST

    @invariant()
    def files_that_changed_while_they_were_read_never_serve(self):
        """Such files may be half of each version."""
        with self.lock:
            assert not any(e.loaded.torn for e in self.registry if e.loaded)

    @invariant()
    def the_latest_good_version_serves(self):
        """Once nothing is under way, a bad version leaves the one before."""
        with self.lock:
            for name, content in self.latest.items():
                entry = self.entry(name)
                if entry.busy or entry.pending or entry.retiring:
                    continue
                if entry.state is State.READY and self.disk[name] == content:
                    served = entry.loaded.content
                    assert served == content or not content.good or entry.loaded.ended
                    assert bool(entry.reload_error) == (served != content)
                elif entry.state is State.FAILED and entry.retry_at is None:
                    assert entry.reason == "bad"

    def teardown(self):
        """Check that every loaded model is closed once."""
        with self.lock:
            self.closing.set()
            self.lock.notify_all()
        threads = [entry.thread for entry in self.registry]
        self.registry.close()
        for lease, _ in self.leases:
            lease.__exit__(None, None, None)
        for thread in threads:
            thread.join(SECONDS)
        assert [model.closes for model in self.all] == [1] * len(self.all)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
