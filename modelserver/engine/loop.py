"""The one thread of the engine in which all that does not block is done.

It is asyncio's event loop without coroutines: sockets are watched, functions called.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_JOIN_S = 5.0


class Loop:
    """Calls functions in one thread.

    ``call``, ``soon``, ``inside`` and ``stop`` are thread-safe. The rest is for the
    loop's own thread, or for any before it runs. A function that raises is logged, and
    the loop goes on.

    Args:
        name: of its own thread, if it gets one.
    """

    def __init__(self, name: str = "engine") -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_error)
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._stopped = threading.Lock()

    @property
    def inside(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.get_ident() == self._ident

    def start(self) -> None:
        """Run in a thread of its own from now on. Idempotent."""
        if self._thread is None:
            begun = threading.Event()
            self._loop.call_soon(begun.set)
            self._thread = threading.Thread(
                target=self.run, name=self._name, daemon=True
            )
            self._thread.start()
            begun.wait()

    def run(self) -> None:
        """Run in this thread until :meth:`stop`, then close; blocks."""
        self._ident = threading.get_ident()
        try:
            self._loop.run_forever()
        finally:
            with self._stopped:
                self._loop.close()

    def stop(self) -> None:
        """End the loop, and its own thread if it has one. Idempotent."""
        if self._ident is None:
            self._loop.close()
            return
        self.call(self._loop.stop)
        thread, self._thread = self._thread, None
        if thread is not None and not self.inside:
            thread.join(_JOIN_S)

    def call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call a function soon, in the loop's thread; never if the loop has ended."""
        with self._stopped:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(callback, *arguments)

    def soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call a function at once in the loop's thread, else have it called there."""
        if self.inside:
            callback(*arguments)
        else:
            self.call(callback, *arguments)

    def after(
        self, seconds: float, callback: Callable[..., object], *arguments: Any
    ) -> asyncio.TimerHandle:
        """Call a function after some seconds, unless the handle is cancelled."""
        return self._loop.call_later(seconds, callback, *arguments)

    def watch(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call a function whenever there is something to read from a descriptor."""
        self._loop.add_reader(descriptor, callback)

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no more, before it is closed. Idempotent."""
        if not self._loop.is_closed():
            with contextlib.suppress(ValueError):  # of a closed socket
                self._loop.remove_reader(descriptor)

    def watch_room(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call a function whenever there is room to write to a descriptor."""
        self._loop.add_writer(descriptor, callback)

    def unwatch_room(self, descriptor: int) -> None:
        """Watch a descriptor's room no more. Idempotent."""
        if not self._loop.is_closed():
            with contextlib.suppress(ValueError):
                self._loop.remove_writer(descriptor)


def _log_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error(
        "The engine's loop: %s", context["message"], exc_info=context.get("exception")
    )
