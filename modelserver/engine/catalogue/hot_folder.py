"""The model folder while it is served: new, changed and removed models.

One thread scans the folder for all models. A change is acted upon only after two scans
in a row have found the same: a copy that is still being written is left alone.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.engine.catalogue.registry import Registry
    from modelserver.engine.discovery import Discovery, Key, ModelFiles

log = logging.getLogger(__name__)

# Seconds until the next scan while the last two differ.
_AGAIN_S = 0.5
_JOIN_S = 2.0
# In place of a stamp: the files as they lie now are not to be used.
_UNUSABLE = object()


class HotFolder:
    """Watches a folder. Thread-safe; the code that starts it closes it.

    Args:
        scan: finds the models that lie in the folder now; never raises.
        registry: is given the models that lie still, and told of those that are gone.
        every_s: seconds between two scans; 0 for those only that are asked for.
        again_s: seconds between two scans after one that was asked for.

    Attributes:
        hint: a sentence about a folder without models; else empty.
    """

    def __init__(
        self,
        scan: Callable[[], Discovery],
        registry: Registry[Any],
        *,
        every_s: float,
        again_s: float = _AGAIN_S,
    ) -> None:
        self._scan = scan
        self._registry = registry
        self._every_s = every_s
        self._again_s = again_s
        # Stamps by kind and name: of the last scan, and as last given to the registry.
        self._found: dict[Key, object] = {}
        self._given: dict[Key, object] = {}
        self._warnings: frozenset[str] = frozenset()
        self.hint = ""
        # A SimpleQueue, as a signal's handler may put into it at any moment.
        self._orders: queue.SimpleQueue[Literal["scan", "end"]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def scan_first(self) -> tuple[ModelFiles, ...]:
        """Scan for the first time; return the models instead of giving them away."""
        found = self._scan_logged()
        self._given = dict(self._found)
        return found.models

    def start(self) -> None:
        """Start the thread that scans, once, after :meth:`scan_first`."""
        self._thread = threading.Thread(
            target=self._watch, name="hot-folder", daemon=True
        )
        self._thread.start()

    def rescan(self) -> None:
        """Ask for a scan at once, from any thread or from a signal's handler."""
        self._orders.put("scan")

    def close(self) -> None:
        """End the thread. Idempotent; a scan that hangs is not waited for."""
        self._orders.put("end")
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _watch(self) -> None:
        """Scan again and again; the thread's whole life."""
        asked = False
        while True:
            # Once asked for, scans go on until all lies still: nobody may ask again.
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
        """Scan once and give the changes away; return whether some do not lie still."""
        before = dict(self._found)
        found = self._scan_logged()
        if not found.readable:
            return False
        restless = False
        self._hold(found)
        for files in found.models:
            stamp = self._found[files.key]
            if stamp in (self._given.get(files.key), _UNUSABLE):
                continue
            if stamp != before.get(files.key):
                restless = True
                continue
            self._registry.put(files, stamp)
            self._given[files.key] = stamp
        for key in self._given.keys() - self._found.keys():
            if key in before:
                restless = True
                continue
            del self._given[key]
            kind, name = key
            log.info("%s: its graph is gone", name)
            self._registry.remove(name, kind)
        return restless

    def _hold(self, found: Discovery) -> None:
        """Have known models serve on while their files cannot be used.

        A model that is new is served without the file, as the log says.
        """
        for key in found.held.keys() & self._given.keys():
            self._found[key] = self._given[key] = _UNUSABLE
            kind, name = key
            self._registry.hold(name, found.held[key], kind)

    def _scan_logged(self) -> Discovery:
        """Scan, keep the stamps, and log the warnings that are new."""
        found = self._scan()
        if found.readable:
            self._found = {f.key: f.stamp for f in found.models}
        for sentence in found.sentences:
            if sentence not in self._warnings:
                log.warning("%s", sentence)
        self._warnings = frozenset(found.sentences)
        self.hint = found.hint
        return found
