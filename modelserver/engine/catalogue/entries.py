"""What the registry knows about each model, and about each version of it in memory."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from modelserver.engine.catalogue.recovery import Recovery

if TYPE_CHECKING:
    import threading
    from concurrent.futures import Future

    from modelserver.engine.discovery import Key, ModelFiles


class Stage(enum.Enum):
    """A model's life stages."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"
    """Not in memory because of ``MAX_MODELS``; the first request has it loaded."""


class Loaded(Protocol):
    """What a loader returns: a model that serves until it ends or is closed."""

    @property
    def ended(self) -> Future[str]:
        """Resolves with the reason once the model can serve no more."""

    def close(self) -> None:
        """Refuse new work, end what is under way and free everything. Idempotent."""


L = TypeVar("L", bound=Loaded)


class Reading(NamedTuple):
    """A model's files as they were before a load.

    Attributes:
        seen: their ``stamp``.
        digest: of graph, labels and sidecar.
        identity: differs once the content of any file does, golden ones too.
    """

    files: ModelFiles
    seen: object
    digest: str
    identity: object


def read(files: ModelFiles) -> Reading:
    """Stamp and hash a model's files.

    Raises:
        ModelError: one is gone or cannot be read.
    """
    seen = files.stamp
    digest = files.digest()
    return Reading(files, seen, digest, files.identity(digest))


class Offer(NamedTuple):
    """Files that lie still, and their stamp when they were seen to."""

    files: ModelFiles
    seen: object


@dataclass(eq=False)
class Version(Generic[L]):
    """One loaded version of a model.

    Attributes:
        since: when it began to serve, in the clock's seconds.
        users: how many leases there are on it.
        drain_until: when it is closed even if it has users; ``None`` while it serves.
    """

    loaded: L
    reading: Reading
    since: float
    users: int = 0
    drain_until: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it can serve no more."""
        return self.loaded.ended.done()


@dataclass(eq=False)
class Entry(Generic[L]):
    """One model's state. Changed with the registry's lock held only.

    Attributes:
        files: of the version that serves, or that is to be loaded.
        title: its name, or ``KIND/NAME`` once another kind has a model of that name.
        stage: where in its life it is.
        first: whether its first load, at the server's start, is still under way.
        reason: why it is FAILED, or why it is loading again.
        reload_error: why the files that lie there now are not what serves.
        digest: of the version that serves, or that was tried last.
        version: what serves, ``None`` where nothing does.
        retiring: versions that only finish what they have begun.
        offer: files that lie still and are not loaded yet.
        offer_at: an offer is not tried before, in the clock's seconds.
        hindered: how often loading the offer was hindered already.
        rejected: identity of the files that failed last.
        served: stamp of the files that last became READY.
        load_s: seconds that the last load took.
        retry_at: when the next load is due, in the clock's seconds; ``None``: never.
        restarts: how often it was brought back after a death.
        reloads_failed: how often new files did not replace the version that serves.
        resident: whether it has a place among ``MAX_MODELS``.
        asked: whether a request waits for it to be loaded.
        used: when it was last asked for, in the clock's seconds.
        removed: its files are gone.
        gone: it was removed; its thread ends.
        busy: its thread does something, or has not looked at what is new yet.
    """

    files: ModelFiles
    title: str
    stage: Stage = Stage.LOADING
    first: bool = True
    reason: str = ""
    reload_error: str = ""
    digest: str = ""
    version: Version[L] | None = None
    retiring: list[Version[L]] = field(default_factory=list)
    offer: Offer | None = None
    offer_at: float = 0.0
    hindered: int = 0
    rejected: object = None
    served: object = None
    load_s: float = 1.0
    retry_at: float | None = None
    restarts: int = 0
    reloads_failed: int = 0
    recovery: Recovery = field(default_factory=Recovery)
    resident: bool = False
    asked: bool = False
    used: float = 0.0
    removed: bool = False
    gone: bool = False
    busy: bool = True
    thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.files.name

    @property
    def key(self) -> Key:
        """What no other model has: kind and name."""
        return self.files.key

    @property
    def loaded(self) -> L | None:
        """What serves, ``None`` where nothing does."""
        return self.version.loaded if self.version is not None else None

    def retire(self, drain_until: float) -> None:
        """Have the version that serves only finish what it has begun."""
        if self.version is not None:
            self.version.drain_until = drain_until
            self.retiring.append(self.version)
            self.version = None
