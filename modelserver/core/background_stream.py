"""A text stream whose reader may stop: nobody who writes to it waits."""

from __future__ import annotations

import atexit
import contextlib
import io
import sys
import threading
from collections import deque
from typing import TextIO

# So many characters are kept for a reader that is slow or stopped.
_MOST_CHARS = 1 << 20
# Lines of this time are written together.
_PAUSE_S = 0.025
# The thread looks so often for more before it waits to be woken: to wake it for each
# line takes the interpreter's lock from who writes, in the middle of its work.
_LOOKS = 40
_CLOSE_S = 1.0


class BackgroundStream(io.TextIOBase):
    """Writes to another stream in a thread of its own, and drops what has no room.

    A terminal that was stopped with Ctrl-S, a pager or a full pipe hold whoever writes
    to them; a loop that serves everybody must not be held. Once there is room again, a
    line says how many characters were dropped. What is left at the end of the process
    has a second to be written. Thread-safe.

    Args:
        stream: written to by the thread, and flushed after each write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._texts: deque[str] = deque()
        self._chars = self._lost = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        # Whether the thread waits for that; with the lock held.
        self._asleep = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        atexit.register(self.end)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        """The other stream's."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the other stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take a text to be written soon, or drop it if too much waits."""
        if self._closing.is_set():  # other ends of the process write, too
            self._put(text)
            return len(text)
        with self._lock:
            if self._chars + len(text) > _MOST_CHARS:
                self._lost += len(text)
                return len(text)
            self._texts.append(text)
            self._chars += len(text)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="background-stream", daemon=True
                )
                self._thread.start()
            wake, self._asleep = self._asleep, False
        if wake:
            self._some.set()
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written comes soon."""

    def end(self) -> None:
        """Wait until all is written, a second at most."""
        self._closing.set()
        self._some.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        looks = 0
        while not (self._closing.is_set() and not self._texts):
            self._closing.wait(_PAUSE_S)
            looks = 0 if self._write_some() else looks + 1
            if looks >= _LOOKS:
                self._sleep()

    def _sleep(self) -> None:
        """Wait for a text, or the end."""
        with self._lock:
            if self._texts or self._lost:
                return
            self._some.clear()
            self._asleep = True
        if not self._closing.is_set():
            self._some.wait()

    def _write_some(self) -> bool:
        """Write what there is; return whether there was anything."""
        with self._lock:
            text, lost = "".join(self._texts), self._lost
            self._texts.clear()
            self._lost = 0
        if lost:
            self._put(f"{text}({lost} characters were dropped here)\n")
        elif text:
            self._put(text)
        with self._lock:
            self._chars -= len(text)
        return bool(text or lost)

    def _put(self, text: str) -> None:
        # Closed, gone, or on a full disk: the text is lost and nothing else.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def replace_standard_streams() -> None:
    """Have nobody who writes to stdout or stderr wait for its reader from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # It is None where its descriptor was closed at the start.
        if stream is not None and not isinstance(stream, BackgroundStream):
            setattr(sys, name, BackgroundStream(stream))
