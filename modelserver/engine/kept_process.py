"""What processes have in common that gunicorn's arbiter keeps beside its workers."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import resource
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

from modelserver.core import background_stream, logs
from modelserver.core.errors import StartError
from modelserver.core.process_limits import end_with_parent
from modelserver.core.settings import Settings
from modelserver.tasks import by_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelserver.tasks import Task

# Each photo that is on its way takes a descriptor, and each connection one.
_FILES = 65536
# struct ucred of sys/socket.h: process, user, group.
_CREDENTIALS = struct.Struct("3i")


def read_words(
    program: str, descriptors: Iterable[str], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Read a command line: inherited descriptors, then words for tasks.

    Args:
        program: the module that is run.
        descriptors: what each of them is called; the first arguments are their numbers.
        arguments: this process's own if not given; as ``served_tasks.describe`` words
            the tasks.
    """
    parser = argparse.ArgumentParser(prog=program)
    for name in descriptors:
        parser.add_argument(name, type=int, help="an inherited descriptor")
    parser.add_argument("kinds", nargs="+", help="of tasks, in the app's order")
    parser.add_argument(
        "--import", action="append", default=[], dest="modules", metavar="MODULE"
    )
    return parser.parse_args(arguments)


def tasks_of(given: argparse.Namespace, process: str) -> list[Task[Any]]:
    """Return the tasks that a command line names.

    Args:
        process: named in the error.

    Raises:
        StartError: one is unknown.
    """
    for module in given.modules:
        importlib.import_module(module)
    try:
        return [by_kind(kind) for kind in given.kinds]
    except ValueError as error:
        raise StartError(f"The {process} cannot start: {error}.") from error


def prepare(tasks: Iterable[Task[Any]]) -> Settings:
    """Read the settings, and log as they say, without waiting for any reader.

    Raises:
        StartError: a setting is wrong.
    """
    settings = Settings.from_environ(port=next(iter(tasks)).endpoint.port)
    background_stream.replace_standard_streams()
    logs.configure(settings.log_format)
    return settings


def end_with_starter(made: socket.socket) -> None:
    """Have the kernel end this process with the one that made a socket.

    Raises:
        SystemExit: it is gone.
    """
    end_with_parent()
    starter, _, _ = _CREDENTIALS.unpack(
        made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if os.getppid() != starter:  # too late
        raise SystemExit(0)


def raise_limit_of_files() -> None:
    """Take as many descriptors as there may be; nothing here uses ``select``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def say(error: StartError) -> None:
    """Write why this process cannot start, in one line on stderr."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr closed
        sys.stderr.write(f"modelserver: {logs.escape(str(error))}\n")
        sys.stderr.flush()
