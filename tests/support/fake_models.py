"""Stand-ins for a registry's files, loader and clock."""

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

from modelserver.engine.catalogue import Registry

SECONDS = 20


@dataclass(frozen=True)
class FakeFiles:
    """Stands for a model's files; another version has another content.

    Attributes:
        touched: another one stands for the same content, written again.
    """

    name: str
    version: int = 1
    kind: str = "detection"
    touched: int = 0

    @property
    def key(self):
        return self.kind, self.name

    @property
    def stamp(self):
        return self.version, self.touched

    def raw(self):
        return replace(self, kind="raw")

    def digest(self):
        return f"digest of {self.name} {self.version}"

    def identity(self, digest):
        return digest


class ChangingFiles(FakeFiles):
    """Files that change at each look."""

    @property
    def stamp(self):
        return object()


class FakeModel:
    """Stands for a loaded model; a test ends it."""

    def __init__(self, files, closed):
        self.files = files
        self.ended = Future()
        self._closed = closed
        self.closes = 0
        self.error = None

    def die(self, how="SIGKILL"):
        self.ended.set_result(how)

    def close(self):
        self.closes += 1
        self._closed.append(self.files.name)
        if not self.ended.done():
            self.ended.set_result("closed")
        if self.error:
            raise self.error


class World:
    """A loader whose next answer a test chooses, and a clock.

    Attributes:
        errors: what loading some files raises.
        models: the last loaded model of each name.
        all: every model ever loaded.
        closed: names of the closed ones, in order.
        loads: versions that were loaded, in order.
        gate: loads wait while it is not set.
        loading: how many loads are under way; ``most`` is the most there were.
    """

    def __init__(self):
        self.now = 0.0
        self.errors = {}
        self.models = {}
        self.all = []
        self.closed = []
        self.loads = []
        self.gate = threading.Event()
        self.gate.set()
        self.loading = 0
        self.most = 0
        self.lock = threading.Condition()

    def wait(self, loading=1):
        """Wait until so many loads are under way."""
        with self.lock:
            assert self.lock.wait_for(lambda: self.loading == loading, SECONDS)

    def load(self, files):
        with self.lock:
            self.loads.append(files.version)
            self.loading += 1
            self.most = max(self.most, self.loading)
            self.lock.notify_all()
        self.gate.wait(SECONDS)
        with self.lock:
            self.loading -= 1
        if files in self.errors:
            raise self.errors[files]
        model = self.models[files.name] = FakeModel(files, self.closed)
        self.all.append(model)
        return model


@contextmanager
def registry_of(world, **how):
    """Give a registry of a world's models; each is closed once in the end."""
    registry = Registry(
        world.load,
        loads=2,
        clock=lambda: world.now,
        poll_s=0.001,
        drain_s=30,
        **how,
    )
    yield registry
    world.gate.set()
    registry.close()
    assert all(model.closes == 1 for model in world.all)


def state(name, wanted):
    """A condition for ``Registry.wait``."""
    return lambda registry: states(registry).get(name) is wanted


def states(registry):
    """Each model's state."""
    return {e.files.name: e.state for e in registry}


def entry(registry, name):
    return next(e for e in registry if e.files.name == name)


def get(registry, name, kind=None):
    """Return the model that serves under a name."""
    with registry.lease(name, kind) as version:
        return version.loaded


def idle(registry):
    """A condition: no model's thread has anything to do."""
    return not any(e.busy for e in registry)
