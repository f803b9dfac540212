"""The model folder while it is served: what is new, changed or gone.

One thread looks at the folder for all models. What it sees is acted upon only when two
looks in a row saw the same: a copy that is still being written is left alone.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.signatures import Kind
    from modelserver.engine.discovery import Discovery, Key, ModelFiles

log = logging.getLogger(__name__)

# How long after a look the next one comes while something has not been seen twice.
_AGAIN_S = 0.5
_JOIN_S = 2.0
# In place of a stamp: as it lies now it is not to be used.
_HELD = object()


class Sink(Protocol):
    """Who is told; the registry."""

    def put(self, files: ModelFiles, seen: object) -> None:
        """A model's files are new or have changed, and lie still; ``seen`` is how."""

    def remove(self, name: str, kind: Kind) -> None:
        """A model's files are gone."""

    def hold(self, name: str, reason: str, kind: Kind) -> None:
        """A model's files are there, but cannot be used now."""


class HotFolder:
    """Watches a folder. Thread-safe; whoever starts it closes it.

    Args:
        look: finds the models that lie in the folder now; never raises.
        sink: is told of what lies still.
        every_s: seconds between two looks; 0 for none but those that are asked for.
        again_s: seconds between two looks that were asked for.
    """

    def __init__(
        self,
        look: Callable[[], Discovery],
        sink: Sink,
        *,
        every_s: float,
        again_s: float = _AGAIN_S,
    ) -> None:
        self._look = look
        self._sink = sink
        self._every_s = every_s
        self._again_s = again_s
        # Last seen, and last told to the sink: stamps by kind and name.
        self._seen: dict[Key, object] = {}
        self._told: dict[Key, object] = {}
        self._warnings: frozenset[str] = frozenset()
        # What to say where there is no model: what lies there, and what is missing.
        self.hint = ""
        # A SimpleQueue, because a signal's handler may put into it whatever it has
        # interrupted.
        self._orders: queue.SimpleQueue[Literal["look", "end"]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def first(self) -> tuple[ModelFiles, ...]:
        """Look for the first time: what is there is given back, not told."""
        found = self._find()
        self._told = dict(self._seen)
        return found.models

    def start(self) -> None:
        """Start the thread that looks, once, after :meth:`first`."""
        self._thread = threading.Thread(
            target=self._watch, name="hot-folder", daemon=True
        )
        self._thread.start()

    def rescan(self) -> None:
        """Ask for a look at once, from any thread or from a signal's handler."""
        self._orders.put("look")

    def close(self) -> None:
        """End the thread. Idempotent; a look that hangs is not waited for."""
        self._orders.put("end")
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _watch(self) -> None:
        """Look, again and again; the thread's whole life."""
        asked = False
        while True:
            # Asked for, it stays until all lies still: nobody may ask again.
            wait_s = self._again_s if asked else self._every_s or None
            try:
                order = self._orders.get(timeout=wait_s)
            except queue.Empty:
                pass
            else:
                if order == "end":
                    return
                log.info("looking for new, changed and removed models")
                asked = True
            try:
                restless = self.poll()
            except Exception:  # a thread's edge: models must be found after a bug, too
                log.exception("looking at the model folder failed")
                restless = False
            asked = asked and restless

    def poll(self) -> bool:
        """Look once and tell the sink; returns whether something does not lie still."""
        before = dict(self._seen)
        found = self._find()
        if not found.readable:
            return False
        restless = False
        self._hold(found)
        for files in found.models:
            seen = self._seen[files.key]
            if seen in (self._told.get(files.key), _HELD):
                continue
            if seen != before.get(files.key):
                restless = True
                continue
            self._sink.put(files, seen)
            self._told[files.key] = seen
        for key in self._told.keys() - self._seen.keys():
            if key in before:
                restless = True
                continue
            del self._told[key]
            kind, name = key
            log.info("%s: its graph is gone", name)
            self._sink.remove(name, kind)
        return restless

    def _hold(self, found: Discovery) -> None:
        """Leave a model that was told of alone while its files cannot be used.

        A model that is new is served without the file, as the log says.
        """
        for key in found.held.keys() & self._told.keys():
            self._seen[key] = self._told[key] = _HELD
            kind, name = key
            self._sink.hold(name, found.held[key], kind)

    def _find(self) -> Discovery:
        """Look, note how all lies, and log what was not odd before."""
        found = self._look()
        if found.readable:
            self._seen = {f.key: f.stamp for f in found.models}
        for sentence in found.sentences:
            if sentence not in self._warnings:
                log.warning("%s", sentence)
        self._warnings = frozenset(found.sentences)
        self.hint = found.hint
        return found
