"""The lines that a model's process prints, as lines of the engine's log.

TensorFlow, CUDA and a graph's own print ops write freely to stdout and stderr. Both are
a pipe that a thread of the engine always empties, so that nobody waits for it; lines
are cut and counted, so that a chatty graph fills no disk.

TensorFlow prints why it does not use a card, while the process's own messages come by
another way: here the two come together.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import cuda, logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from modelserver.core.messages import Facts

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
# Of a line; logs cut a field at 200 characters.
_LINE_BYTES = 1000
# A load of TensorFlow prints some ten lines. At these figures a process writes some
# 30 MB into the log in a day, at most.
_LINES, _WINDOW_S = 60, 60.0
_LAST = 3
# What TensorFlow 2.21 prints at each start and nobody needs: by its exact words, and of
# its level I alone, in both of the forms that its lines begin with.
_NOISE = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written"
    r" to STDERR"
    r"|(?:I\d{4} [\d:.]+ +\d+ |\d{4}-\d\d-\d\d [\d:.]+: I )[\w./]+:\d+\] (?:"
    r"oneDNN custom operations are on\. You may see slightly different numerical"
    r" results due to floating-point round-off errors from different computation"
    r" orders\. To turn them off, set the environment variable"
    r" `TF_ENABLE_ONEDNN_OPTS=0`\."
    r"|This TensorFlow binary is optimized to use available CPU instructions in"
    r" performance-critical operations\."
    r"|MLIR V1 optimization pass is not enabled"
    r")"
    r"|To enable the following instructions: [\w. ]+, in other operations, rebuild"
    r" TensorFlow with the appropriate compiler flags\."
)
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
# The finding of a model that does not run on its card (``core.findings``).
_GPU_UNUSED = "gpu-unused"
# Of TensorFlow's words, as far as a sentence is still read.
_WORDS_CHARS = 400


class Output:
    """Logs one process's lines, at most 60 a minute. Thread-safe.

    Args:
        name: the model's, a field of each line.
        clock: seconds, monotonic.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._rest = b""
        self._cutting = False
        self._last: deque[str] = deque(maxlen=_LAST)
        self._about_cards: dict[str, None] = {}
        self._window = clock()
        self._logged = 0
        self._dropped = 0

    @property
    def last(self) -> str:
        """The last lines that were printed, for the log only."""
        with self._lock:
            return " | ".join(self._last)

    @property
    def about_cards(self) -> tuple[str, ...]:
        """Warnings about cards: TensorFlow's reasons for using none."""
        with self._lock:
            return tuple(self._about_cards)

    def start(self, descriptor: int) -> None:
        """Read a pipe in a thread until nobody can write to it; close it then.

        Raises:
            RuntimeError: there can be no more threads; the pipe is closed.
        """
        thread = threading.Thread(
            target=self._read,
            args=(descriptor,),
            name=f"output-{self._name}",
            daemon=True,
        )
        try:
            thread.start()
        except BaseException:
            os.close(descriptor)
            raise
        self._thread = thread

    def join(self, timeout_s: float) -> None:
        """Wait until everything printed has been read."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _read(self, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=0) as pipe:
            while chunk := pipe.read(_CHUNK_BYTES):
                self.feed(chunk)
        self.feed(b"\n")

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they come and log the lines that they complete."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        for line in complete:
            if self._cutting:
                self._cutting = False
            elif line.strip():
                self._log_printed(line)
        if len(rest) > _LINE_BYTES:
            if not self._cutting:
                self._log_printed(rest)
            # The rest of this line is dropped, however long it is.
            self._cutting, rest = True, b""
        self._rest = rest

    def _log_printed(self, line: bytes) -> None:
        text = line[:_LINE_BYTES].decode("utf-8", "replace")
        with self._lock:
            self._last.append(text[:200])
            warned = cuda.about_cards(text)
            if warned and len(self._about_cards) < _LAST:
                self._about_cards[warned] = None
        if self._has_room():
            fields: dict[str, object] = {"model": self._name, "line": text}
            if _NOISE.fullmatch(text.strip()):
                fields |= logs.ASIDE
            log.info("a model's process printed", extra=fields)

    def say(self, level: int, text: str) -> None:
        """Log a line that the process sent for the log, unless it sends too many."""
        if self._has_room():
            level = max(known for known in _LEVELS if known <= max(level, _LEVELS[0]))
            log.log(level, "%s", text, extra={"model": self._name})

    def _has_room(self) -> bool:
        """Count a line; return whether there is room for it in this minute."""
        with self._lock:
            now, dropped = self._clock(), 0
            if now - self._window >= _WINDOW_S:
                dropped, self._dropped = self._dropped, 0
                self._window, self._logged = now, 0
            self._logged += 1
            room = self._logged <= _LINES
            self._dropped += not room
        if dropped:
            fields = {"model": self._name, "lines": dropped}
            log.warning("a model's process printed too much", extra=fields)
        return room


def add_words(reason: str, words: Iterable[str]) -> str:
    """Add the words that TensorFlow printed to a reason, unless it has them already."""
    kept: list[str] = []
    for line in sorted(words, key=len):
        if not any(_core(line) in known for known in (reason, *kept)):
            kept.append(line)
    added = " | ".join(kept)[:_WORDS_CHARS]
    return f"{reason} TensorFlow's words: {added}" if added else reason


def _core(line: str) -> str:
    """Return an error without its kind, which each level puts before it again."""
    return line.rpartition(": INTERNAL: ")[2].removeprefix("INTERNAL: ")


def explain_fallback(facts: Facts, words: Sequence[str]) -> Facts:
    """Add TensorFlow's words to the reason why a model runs on the CPU, if it does."""
    if not facts.device_reason or not words:
        return facts
    reason = add_words(facts.device_reason, words)
    findings = tuple(
        msgspec.structs.replace(finding, message=reason)
        if finding.code == _GPU_UNUSED
        else finding
        for finding in facts.findings
    )
    return msgspec.structs.replace(facts, device_reason=reason, findings=findings)
