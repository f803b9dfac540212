"""A server to be ill-treated: started by itself, watched from outside. Linux only."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support.processes import children, front_and_runners, memory_mb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent.parent

_SETTLED_S = 180.0
_POLL_S = 0.05
_END_S = 60.0
# Mounts a small disk that only the server sees, then becomes the server.
_ON_A_SMALL_DISK = (
    'mount -t tmpfs -o size="$1" tmpfs "$UPLOAD_FOLDER"; shift; exec "$@"'
)


@dataclass
class Watched:
    """A running server.

    Attributes:
        uploads: its upload folder, as seen from here.
        small_disk: whether that is a disk of its own that can be filled.
    """

    process: subprocess.Popen[bytes]
    port: int
    uploads: Path
    temporary: Path
    stderr: Path
    small_disk: bool

    @property
    def front(self) -> int:
        """Process id of the worker."""
        return front_and_runners(self.process.pid)[0]

    def runners(self) -> set[int]:
        """Process ids of the models' processes."""
        return set(children(self.front))

    def get(self, path: str) -> tuple[int, Any]:
        """GET a path; give the status and the JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def facts(self) -> dict[str, Any]:
        """Return what grows where something leaks: of the front, and memory of all."""
        front, runners = front_and_runners(self.process.pid)
        proc = Path(f"/proc/{front}")
        return {
            "front_rss_mb": memory_mb(front)["rss"],
            "rss_mb": sum(_rss_mb(pid) for pid in (front, *runners)),
            "descriptors": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
            "runners": len(runners),
        }

    def leftovers(self) -> list[str]:
        """Return what lies in the upload and the temporary folder."""
        folders = (self.uploads, self.temporary)
        return [str(path.name) for folder in folders for path in folder.rglob("*")]

    def errors(self) -> list[str]:
        """Return the log's lines of errors and of tracebacks."""
        lines = self.stderr.read_text(errors="replace").splitlines()
        return [line for line in lines if _bad(line)]


def harm(result: dict[str, Any]) -> list[str]:
    """Return what a driver's result says of files left behind and errors logged."""
    found = [f"left behind: {name}" for name in result["leftovers"]]
    return found + [f"in the log: {line[:200]}" for line in result["errors"]]


def _bad(line: str) -> bool:
    return "Traceback" in line or '"level":"error"' in line.replace('": "', '":"')


def _rss_mb(pid: int) -> float:
    """Return a process's memory; nothing where it has just ended."""
    try:
        return memory_mb(pid).get("rss", 0.0)
    except OSError:
        return 0.0


def can_mount() -> bool:
    """Tell whether a disk can be mounted that only one process sees."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        mount = [*_unshared(), "mount", "-t", "tmpfs", "tmpfs", name]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def _unshared() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


@contextlib.contextmanager
def watched(
    folder: Path,
    *,
    app: str = "app.py",
    disk: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Watched]:
    """Start a server on a free port and end it afterwards.

    Args:
        folder: with its models.
        disk: size of a small disk for its uploads, such as ``64m``; it has none where
            none can be mounted.

    Yields:
        The server, once no model loads any more.

    Raises:
        SystemExit: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="modelserver-watched-") as name:
        home = Path(name)
        uploads, temporary = home / "uploads", home / "tmp"
        uploads.mkdir()
        temporary.mkdir()
        small = disk is not None and can_mount()
        command = [sys.executable, str(ROOT / app)]
        if small:
            shell = ["sh", "-ec", _ON_A_SMALL_DISK, "sh", str(disk)]
            command = [*_unshared(), *shell, *command]
        given = {
            **os.environ,
            "MODEL_FOLDER": str(folder),
            "UPLOAD_FOLDER": str(uploads),
            "TMPDIR": str(temporary),
            "PORT": "0",
            "LOG_FORMAT": "json",
            **(environ or {}),
        }
        stderr = home / "stderr"
        with stderr.open("wb") as said:
            process = subprocess.Popen(
                command, env=given, stdout=subprocess.DEVNULL, stderr=said
            )
        if small:
            uploads = Path(f"/proc/{process.pid}/root{uploads}")
        server = Watched(process, 0, uploads, temporary, stderr, small)
        try:
            _settle(server)
            yield server
        finally:
            _end(process)


def _settle(server: Watched) -> None:
    """Wait until it listens and no model loads."""

    def settled() -> bool:
        if server.process.poll() is not None:
            raise SystemExit(server.stderr.read_text(errors="replace")[-2000:])
        said = server.stderr.read_text(errors="replace").partition("Listening at: ")[2]
        if not said:
            return False
        server.port = int(said.split()[0].rpartition(":")[2].strip('",'))
        return "LOADING" not in server.get("/readyz")[1]["models"].values()

    if not wait(settled, _SETTLED_S):
        raise SystemExit("The server's models do not get ready.")


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; tell whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return True
        time.sleep(_POLL_S)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
