"""Log lines on stderr, reports on stdout.

Modules log through the standard library (``logging.getLogger(__name__)``, facts in
``extra``); the format is set here, once, by the owner of the process: the app, a
runner's child or gunicorn. Importing this module changes nothing.

Text from clients and model files can neither end a line nor steer a terminal: control
characters are escaped as in Python's literals, and values are cut.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import threading
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Literal

    EventDict = MutableMapping[str, Any]

MAX_FIELD_CHARS = 200
MAX_EVENT_CHARS = 2_000  # our own sentences, which may name every model
MAX_TRACEBACK_CHARS = 20_000

# C0, DEL, C1, the two Unicode line ends, and the marks that reorder text on a screen.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Attributes that other handlers' formatters leave on a record; no fact may have these
# names.
_FORMATTED = {"message", "asctime"}
BARE: Mapping[str, bool] = MappingProxyType({"bare": True})
"""``extra`` of a line that on a terminal stands without time, level and logger."""

ASIDE: Mapping[str, bool] = MappingProxyType({"aside": True})
"""``extra`` of a line that says nothing to a person: level debug, on no terminal."""

# Back to the line's beginning, and away with what stands there.
_OVER = "\r\x1b[K"
# Of a terminal that does not tell.
_COLUMNS = 80
_HANDLER = "modelserver"
_report_lock = threading.Lock()
# Read-only, so that a context that was copied for another thread keeps what it had.
_NOTHING: Mapping[str, str] = MappingProxyType({})
_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=_NOTHING)


def configure(
    log_format: Literal["auto", "text", "json"], stream: TextIO | None = None
) -> None:
    """Send every log line of this process to stderr, in one format.

    Called once by the owner of a process; calling again replaces the last call's
    settings. Handlers of others, a test runner's for example, stay.

    Args:
        log_format: ``text`` for people, ``json`` for one object a line, ``auto`` for
            JSON, but on a terminal for text without the lines of ``ASIDE``.
        stream: instead of stderr.
    """
    stream = stream or sys.stderr
    terminal = _is_terminal(stream)
    handler = _Handler(stream)
    handler.live = terminal and log_format == "auto"
    handler.set_name(_HANDLER)
    handler.setFormatter(_formatter(log_format, terminal=terminal, live=handler.live))
    if handler.live:
        handler.addFilter(_is_for_people)
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _is_terminal(stream: TextIO | None) -> bool:
    with contextlib.suppress(AttributeError, ValueError):  # none, or closed
        return bool(stream and stream.isatty())
    return False


def _is_for_people(record: logging.LogRecord) -> bool:
    return not getattr(record, "aside", False)


def is_live() -> bool:
    """Return whether a person reads the log on a terminal, as it comes."""
    return _live() is not None


def _live() -> _Handler | None:
    handlers = logging.getLogger().handlers
    return next((h for h in handlers if isinstance(h, _Handler) and h.live), None)


def show(text: str) -> None:
    """Show a text on the terminal until the next text, log line or report.

    Nothing where the log is read otherwise. Safe to call from any thread.

    Args:
        text: one line; empty for none.
    """
    handler = _live()
    if handler is not None:
        handler.show(text)


def adopt(logger: logging.Logger) -> None:
    """Let a logger that brought handlers of its own write through ``configure``'s."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True


def bind(**facts: str) -> None:
    """Add these facts to every line that this thread logs from now on.

    An empty value removes its fact.

    A thread that serves one request after the other calls ``unbind`` between them. A
    line's own facts override these.
    """
    _context.set(MappingProxyType({**_context.get(), **facts}))


def unbind() -> None:
    """Have lines of this thread carry no facts any more."""
    _context.set(_NOTHING)


def get_fact(name: str) -> str:
    """Return a fact that was bound in this thread; empty if it was not."""
    return _context.get().get(name, "")


def report(line: str) -> None:
    """Write one line to stdout at once: an evaluation's time, a detection.

    Safe to call from any thread. A stdout that is closed, full or gone loses the line
    and nothing else: serving goes on.
    """
    stream = sys.stdout
    if stream is None:  # started with stdout closed
        return
    text = escape(line) + "\n"
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # A label that the terminal's encoding lacks must not cost the line.
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    live = _live()
    if live is not None and live.shown and _is_terminal(stream):
        text = _OVER + text
    with _report_lock, contextlib.suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


def escape(text: str) -> str:
    """Write out the characters that could end a line or steer a terminal."""
    return _UNSAFE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:  # a class of Python 3.10 takes no brackets
    _StreamHandler = logging.StreamHandler


def _columns(stream: TextIO) -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    return _COLUMNS


class _Handler(_StreamHandler):
    """Keeps a log that cannot be written from stopping the thread that logs.

    Attributes:
        live: a person reads it on a terminal.
        shown: a text stands there that the next line replaces.
    """

    live = False
    shown = False

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        self.acquire()
        try:
            if text or self.shown:
                self.shown = bool(text)
                room = max(_columns(self.stream) - 1, 1)
                self.stream.write(_OVER + _cut(escape(text), room))
                self.stream.flush()
        except (OSError, ValueError):
            self.shown = False
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # The base class reports to stderr, which may be the very stream that failed.
        with contextlib.suppress(OSError, ValueError):
            super().handleError(record)


def _formatter(
    log_format: str, *, terminal: bool, live: bool = False
) -> logging.Formatter:
    # It takes a tenth of a second, and most importers of this module only report.
    import structlog  # noqa: PLC0415 - see above

    text = terminal if log_format == "auto" else log_format == "text"
    last = (
        structlog.dev.ConsoleRenderer(
            colors=terminal,
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
        )
        if text
        else structlog.processors.JSONRenderer()
    )
    stamp = "%H:%M:%S" if text else "iso"
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.ExtraAdder(),
            _add_bound,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt=stamp, utc=not text),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _safe,
            _Renderer(last, live=live),
        ],
    )


class _Renderer:
    """Heeds the marks of ``BARE`` and ``ASIDE``, and writes over a text on a terminal.

    Args:
        render: the format's own.
        live: a person reads it on a terminal.
    """

    def __init__(self, render: Any, *, live: bool) -> None:
        self._render = render
        self._live = live

    def __call__(self, logger: object, method: str, event: EventDict) -> Any:
        """Return the line."""
        if event.pop("aside", False):
            event["level"] = "debug"
        bare = event.pop("bare", False)
        if not self._live:
            return self._render(logger, method, event)
        text = event["event"] if bare else self._render(logger, method, event)
        return f"{_OVER}{text}"


def _add_bound(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the bound facts in the thread that logs: handlers write at once."""
    for name, value in _context.get().items():
        if value:
            event.setdefault(name, value)
    return event


def _safe(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape and cut every value; keep a traceback's lines, moved in from the edge."""
    safe: EventDict = {}
    for key, value in event.items():
        if key in _FORMATTED:
            continue
        if key == "exception":
            lines = str(value)[:MAX_TRACEBACK_CHARS].splitlines()
            safe[key] = "\n".join("    " + escape(line) for line in lines)
        elif _is_plain(value):
            safe[key] = value
        else:
            limit = MAX_EVENT_CHARS if key == "event" else MAX_FIELD_CHARS
            safe[key] = _cut(escape(str(value).strip()), limit)
    return safe


def _is_plain(value: object) -> bool:
    # NaN and the infinities are no JSON: they become strings like everything else.
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
