"""Run the engine's process: ``python -m modelserver.engine.process``.

gunicorn's arbiter starts it with three inherited descriptors: the listening socket for
doors, the page on which they see refusals, and a socket to the arbiter; then come the
kinds of the tasks that it serves, and a module for each one from outside. The settings
are the environment's.

It ignores SIGINT, SIGTERM and others, which a terminal or a service manager sends to a
whole group: it goes once the arbiter has closed its end of their socket and the last
door has gone. If the arbiter is killed, the kernel kills it, too. SIGHUP, or the
arbiter's word, has it look at the model folder.

It reads no bytes of a client: neither image libraries nor a web framework are in here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

from modelserver.core.errors import START_FAILED, StartError
from modelserver.core.messages.control import READY, RESCAN
from modelserver.core.metrics import ProcessMetrics
from modelserver.core.process_limits import ignore_signals
from modelserver.engine.doors import Doors
from modelserver.engine.engine import Engine
from modelserver.engine.kept_process import (
    end_with_starter,
    prepare,
    raise_limit_of_files,
    read_words,
    say,
    tasks_of,
)
from modelserver.engine.refusal_page import RefusalPage

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_MESSAGE_BYTES = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve models to doors until the arbiter and the last door have gone.

    Raises:
        SystemExit: with code 3 and a sentence on stderr if it cannot start.
    """
    given = read_words(
        "modelserver.engine.process", ("listener", "page", "control"), arguments
    )
    ignore_signals()
    listener = socket.socket(fileno=given.listener)
    end_with_starter(listener)
    raise_limit_of_files()
    control = socket.socket(fileno=given.control)
    try:
        engine, doors = _start(given, listener)
    except StartError as error:
        say(error)
        raise SystemExit(START_FAILED) from None
    signal.signal(signal.SIGHUP, lambda _signal, _frame: engine.rescan())
    # Objects made by now stay: the collector need not look at them again and again.
    gc.freeze()
    with control:
        _obey(control, engine)
    empty = threading.Event()
    engine.loop.call(doors.when_empty, empty.set)
    empty.wait()
    engine.close()


def _start(given: argparse.Namespace, listener: socket.socket) -> tuple[Engine, Doors]:
    """Start the engine, then take doors.

    Raises:
        StartError: see ``Engine.start``; a setting is wrong; or a task is unknown.
    """
    tasks = tasks_of(given, "engine")
    engine = Engine(tasks, prepare(tasks))
    return engine, serve_doors(engine, listener, given.page)


def serve_doors(engine: Engine, listener: socket.socket, page: int) -> Doors:
    """Start an engine, and take doors.

    Args:
        listener: owned from here on.
        page: descriptor of the page of refusals.

    Raises:
        StartError: see ``Engine.start``.
    """
    refusals = RefusalPage(engine, page)
    engine.start()
    doors = Doors(engine.loop, listener, engine.door, refusals.note_change)
    engine.processes = lambda: [
        ProcessMetrics.of("engine", [os.getpid()]),
        ProcessMetrics.of("door", doors.pids),
    ]
    engine.loop.call(refusals.open)
    engine.loop.call(doors.open)
    return doors


def _obey(control: socket.socket, engine: Engine) -> None:
    """Tell the arbiter that doors are taken, and do what it says until it has gone."""
    with contextlib.suppress(OSError):
        control.send(READY)
        while message := control.recv(_MESSAGE_BYTES):
            if message == RESCAN:
                engine.rescan()


if __name__ == "__main__":
    main()
