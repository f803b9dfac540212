"""Run the door for gRPC: ``python -m modelserver.web.grpc_door.process``.

gunicorn's arbiter starts it with three inherited descriptors: what leads to the
engine's socket, the page on which doors see refusals, and a socket to the arbiter; then
come the kinds of the app's tasks, and a module for each one from outside. The settings
are the environment's.

It ignores SIGINT and SIGTERM, as the engine does: it takes no new calls and goes once
the arbiter has closed its end of their socket. If the arbiter is killed, the kernel
kills it, too. An engine that dies is another matter: its calls are refused, and the
next engine is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

from modelserver.core import logs
from modelserver.core.errors import START_FAILED, StartError
from modelserver.core.messages.control import READY
from modelserver.core.process_limits import give_freed_memory_back, ignore_signals
from modelserver.engine.kept_process import (
    end_with_starter,
    prepare,
    raise_limit_of_files,
    read_words,
    say,
    tasks_of,
)
from modelserver.web.backend import Backend
from modelserver.web.grpc_door.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.settings import Settings

log = logging.getLogger(__name__)

# How often the arbiter is told that this lives.
_BEAT_S = 1.0
# What requests in flight have at the end, besides their own time.
_MORE_S = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer gRPC until the arbiter has closed its end of the socket.

    Raises:
        SystemExit: with code 3 and a sentence on stderr if it cannot start.
    """
    given = read_words(
        "modelserver.web.grpc_door.process", ("engine", "page", "control"), arguments
    )
    ignore_signals()
    # gRPC's library writes to stderr by itself otherwise.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with socket.socket(fileno=given.control) as control:
        end_with_starter(control)
        raise_limit_of_files()
        give_freed_memory_back()
        try:
            tasks = tasks_of(given, "door for gRPC")
            settings = prepare(tasks)
            backend = Backend(tasks, settings)
            backend.join(f"/proc/self/fd/{given.engine}", given.page)
            with contextlib.closing(backend):
                backend.start()
                asyncio.run(serve(backend, settings, control))
        except StartError as error:
            say(error)
            raise SystemExit(START_FAILED) from None


async def serve(backend: Backend, settings: Settings, control: socket.socket) -> None:
    """Answer calls until the other end of a socket is closed.

    Args:
        backend: started.
        control: told each second that this lives.

    Raises:
        StartError: the port cannot be listened on.
    """
    server = Server(backend)
    port = await server.start(settings.host, settings.grpc_port)
    log.info("gRPC at %s, port %d", settings.host, port, extra=logs.BARE)
    control.setblocking(False)  # noqa: FBT003 - has no other way
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(control, over.set)
    try:
        while not over.is_set():
            with contextlib.suppress(OSError):
                control.send(READY)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), _BEAT_S)
    finally:
        loop.remove_reader(control)
        await server.stop(settings.request_timeout_s + _MORE_S)


if __name__ == "__main__":
    main()
