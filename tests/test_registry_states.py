"""The registry as a state machine: whatever happens, in whatever order."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from fake_models import SECONDS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from modelserver.errors import GraphError, RequestError
from modelserver.registry import Registry, Stage

LOADS, MOST, DRAIN_S, STAY_S = 2, 2, 30.0, 10.0
NAMES = st.sampled_from("abc")


@dataclass(frozen=True)
class Content:
    """What lies on the disk under a name."""

    number: int
    good: bool


@dataclass(frozen=True)
class DiskFiles:
    """A model's files; what is in them is what the disk holds just now."""

    name: str
    disk: dict = field(compare=False, repr=False)
    kind: str = "detection"

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
        self.go = threading.Event()


class RegistryMachine(RuleBasedStateMachine):
    """Puts, breaks, touches, removes, crashes, holds and waits; see the invariants.

    The registry's threads are real. After each step the machine waits until each of
    them either waits for something to do, or is in a load that the machine ends later.
    """

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.numbers = 0
        self.disk = {}
        self.told = {}
        self.loads = []
        self.all = []
        self.leases = []
        self.newest = {}
        self.registry = Registry(
            self.load,
            loads=LOADS,
            most=MOST,
            clock=lambda: self.now,
            look_s=SECONDS,
            drain_s=DRAIN_S,
            stay_s=STAY_S,
        )
        self.lock = self.registry._lock

    def load(self, files):
        load = Load(files.name, self.disk.get(files.name))
        with self.lock:
            self.loads.append(load)
            self.lock.notify_all()
        assert load.go.wait(SECONDS)
        with self.lock:
            self.loads.remove(load)
        if load.content is None or not load.content.good:
            raise GraphError("bad")
        model = Served(files.name, load.content, self)
        with self.lock:
            model.torn = self.disk.get(files.name) != load.content
            self.all.append(model)
        return model

    def settle(self):
        """Wake every thread, and wait until none can go on by itself."""
        with self.lock:
            for entry in self.registry:
                entry.busy = True
            self.lock.notify_all()
            assert self.lock.wait_for(self.settled, SECONDS)
            for entry in self.registry:
                for version in entry.retiring:
                    if version.loaded.retired_at is None:
                        version.loaded.retired_at = self.now

    def settled(self):
        loading = {load.name for load in self.loads if not load.go.is_set()}
        return all(not e.busy or e.name in loading for e in self.registry)

    def told_of(self, name, good):
        """Somebody writes a new version, and it is noticed."""
        self.write(name, good)
        self.tell(name)

    @initialize(good=st.lists(st.booleans(), min_size=3, max_size=3))
    def start(self, good):
        """Three models lie there when the server starts; the loads end."""
        for name, one in zip("abc", good, strict=True):
            self.told_of(name, one)
        while self.loads:
            self.loads[0].go.set()
            self.settle()

    @rule(name=NAMES, good=st.sampled_from([True, True, False]))
    def change(self, name, good):
        """A new version comes, all in one."""
        self.told_of(name, good)

    def entry(self, name):
        return next((e for e in self.registry if e.name == name), None)

    @rule(name=NAMES, good=st.booleans())
    def write(self, name, good):
        """Somebody writes a new version; nobody has noticed yet."""
        self.numbers += 1
        self.disk[name] = Content(self.numbers, good)

    @rule(name=NAMES)
    def tell(self, name):
        """The folder is looked at, and the files lie still."""
        if name in self.disk:
            files = DiskFiles(name, self.disk)
            self.told[name] = self.disk[name]
            self.registry.put(files, files.stamp)
            self.settle()

    @rule(name=NAMES)
    def remove(self, name):
        """The files are gone, and that was noticed."""
        self.disk.pop(name, None)
        self.told.pop(name, None)
        self.registry.remove(name)
        self.settle()

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def end_a_load(self, data):
        """One of the loads under way ends, well or not."""
        load = data.draw(st.sampled_from(self.loads))
        load.go.set()
        self.settle()

    @rule(name=NAMES)
    def crash(self, name):
        """The process of a model dies."""
        entry = self.entry(name)
        alive = entry is not None and entry.version and not entry.version.ended
        if alive:
            entry.loaded.ended.set_result("SIGKILL")
            self.settle()

    @rule(name=NAMES)
    def ask(self, name):
        """A request comes and stays."""
        lease = self.registry.lease(name)
        try:
            model = lease.__enter__()
        except RequestError:
            self.settle()
            return
        assert model.closes == 0
        assert model.content.good
        assert model.content.number >= self.newest.get(name, 0), "it went back"
        self.newest[name] = model.content.number
        self.leases.append((lease, model))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def leave(self, data):
        """A request has its answer."""
        position = data.draw(st.integers(0, len(self.leases) - 1))
        lease, _ = self.leases.pop(position)
        lease.__exit__(None, None, None)
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 10.0, 35.0, 60.0]))
    def wait(self, seconds):
        """Time passes."""
        self.now += seconds
        self.settle()

    @invariant()
    def nothing_is_closed_twice_or_lost(self):
        """What is loaded serves, drains, or was closed once."""
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
    def what_is_in_use_is_open(self):
        """Unless it died, or its time to drain has passed."""
        with self.lock:
            for _, model in self.leases:
                if model.closes and model.ended.result() != "SIGKILL":
                    assert model.retired_at is not None, "it did not drain"
                    assert model.closed_at - model.retired_at >= DRAIN_S

    @invariant()
    def nothing_is_loaded_twice_at_once(self):
        """One load a name, and so many in all."""
        with self.lock:
            names = [load.name for load in self.loads]
            assert len(names) == len(set(names))
            assert len(names) <= LOADS

    @invariant()
    def memory_is_bounded(self):
        """So many models, and of each at most the old version and the new one."""
        with self.lock:
            alive = [model.name for model in self.all if not model.closes]
            loading = {load.name for load in self.loads}
            assert all(alive.count(name) + (name in loading) <= 2 for name in "abc")
            assert len(set(alive) | loading) <= MOST

    @invariant()
    def what_changed_while_it_was_read_never_serves(self):
        """It may be half of each."""
        with self.lock:
            assert not any(e.loaded.torn for e in self.registry if e.loaded)

    @invariant()
    def what_was_told_last_is_what_serves(self):
        """Once nothing is under way; a bad version leaves the one before."""
        with self.lock:
            for name, content in self.told.items():
                entry = self.entry(name)
                if entry.busy or entry.offer or entry.retiring:
                    continue
                if entry.stage is Stage.READY and self.disk[name] == content:
                    served = entry.loaded.content
                    assert served == content or not content.good or entry.loaded.ended
                    assert bool(entry.reload_error) == (served != content)
                elif entry.stage is Stage.FAILED and entry.retry_at is None:
                    assert entry.reason == "bad"

    def teardown(self):
        """Everything that was ever loaded is closed once."""
        self.registry._closing.set()
        with self.lock:
            self.lock.notify_all()
            loads = list(self.loads)
        for load in loads:
            load.go.set()
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
