"""A server of one's own, for the time of a measurement."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.tools.bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from modelserver.core.signatures import Kind

_TASKS: dict[Kind, str] = {"detection": "detect", "classification": "classify"}
_POLL_S = 0.02
_ASK_S = 5.0
_END_S = 60.0
# Would start another server than the one that is to be measured.
_LEFT_OUT = ("GUNICORN_CMD_ARGS", "GUNICORN_FD", "LISTEN_FDS", "LISTEN_PID")


@dataclass(frozen=True)
class Started:
    """A started server.

    Attributes:
        url: where it listens, on loopback.
        pid: of gunicorn's arbiter; the front is its child, the runners the front's.
    """

    url: str
    pid: int


def listening(url: str) -> bool:
    """Tell whether anybody takes connections at a URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _ASK_S).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def started(
    folder: Path,
    kind: Kind = "detection",
    *,
    environ: Mapping[str, str] | None = None,
    wait_s: float = 180.0,
) -> Iterator[Started]:
    """Start a server on a free port of loopback and end it afterwards.

    Args:
        folder: with its models.
        environ: more settings, on top of this process's environment.
        wait_s: how long its models may load.

    Yields:
        The server, once no model of it loads any more; one may have failed.

    Raises:
        BenchError: it does not start; says what it said.
    """
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="modelserver-bench-") as uploads,
        tempfile.TemporaryFile() as said,
    ):
        given = {k: v for k, v in os.environ.items() if k not in _LEFT_OUT}
        given |= {"UPLOAD_FOLDER": uploads, **(environ or {})}
        given |= {"HOST": "127.0.0.1", "PORT": str(port), "MODEL_FOLDER": str(folder)}
        process = subprocess.Popen(
            [sys.executable, "-m", "modelserver", "serve", _TASKS[kind]],
            env=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            if not _settled(process, port, wait_s):
                said.seek(0)
                raise BenchError(
                    f"The server does not start: {_last_line(said.read())}"
                )
            yield Started(f"http://127.0.0.1:{port}", process.pid)
        finally:
            _end(process)


def _settled(process: subprocess.Popen[bytes], port: int, wait_s: float) -> bool:
    """Wait until no model loads; false when the process ends or it takes too long."""
    end = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < end:
        states = _states(port)
        if states is not None and "LOADING" not in states.values():
            return True
        time.sleep(_POLL_S)
    return False


def _states(port: int) -> dict[str, Any] | None:
    """Ask each model's state; ``None`` while the server does not tell."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        connection.request("GET", "/readyz")
        models = json.loads(connection.getresponse().read())["models"]
        return dict(models)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(said: bytes) -> str:
    lines = [
        line for line in said.decode(errors="replace").splitlines() if line.strip()
    ]
    return lines[-1] if lines else "it did not get ready in time, and said nothing."


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
