"""A server started by itself and watched from outside. Linux only."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent.parent

_POLL_S = 0.05
_END_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
# Would start another server than the one that is to be measured.
_LEFT_OUT = ("API_TOKEN", "GUNICORN_", "LISTEN_")
# Mounts a small disk that only the server sees, then becomes the server.
_ON_A_SMALL_DISK = (
    'mount -t tmpfs -o size="$1" tmpfs "$UPLOAD_FOLDER"; shift; exec "$@"'
)


@dataclass
class Server:
    """A running server.

    Attributes:
        uploads: its upload folder, as seen from here.
        small_disk: whether that is a disk of its own that can be filled.
        ready_s: seconds from its start until the first load of each model was over.
    """

    process: subprocess.Popen[bytes]
    home: Path
    uploads: Path
    small_disk: bool
    ready_s: float = math.inf

    @property
    def log(self) -> str:
        """Everything that it has logged, as JSON lines."""
        return (self.home / "stderr").read_text(errors="replace")

    @property
    def port(self) -> int:
        """Where it listens; 0 until it does."""
        listening = self.log.partition("Listening at: ")[2].split()
        return int(listening[0].rpartition(":")[2].strip('",')) if listening else 0

    @property
    def url(self) -> str:
        """Where it listens, on loopback."""
        return f"http://127.0.0.1:{self.port}"

    def doors(self) -> set[int]:
        """Process ids of the workers, which speak HTTP."""
        return set(children(self.process.pid)) - self.engines()

    def engines(self) -> set[int]:
        """Process id of the engine; none while it is away."""
        return self._of_kind("modelserver.engine.process")

    def runners(self) -> set[int]:
        """Process ids of the models' processes; none while there is no engine."""
        return self._of_kind("modelserver.runner.child")

    def decoders(self) -> set[int]:
        """Process ids of the decoders and their template."""
        return self._of_kind("modelserver.decoder.process")

    def _of_kind(self, module: str) -> set[int]:
        """Return the processes below the first that run a module."""
        with contextlib.suppress(OSError, ValueError):
            found = descendants(self.process.pid)
            return {pid for pid in found if module in command(pid)}
        return set()

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the answer of ``/models``, by name; empty while nobody answers."""
        try:
            told = httpx.get(f"{self.url}/models", timeout=30).json()["models"]
        except (httpx.HTTPError, ValueError, KeyError):
            return {}
        return {one["name"]: one for one in told}

    def settled(self) -> bool:
        """Tell whether every model's first load is over, or the server has ended.

        One that failed for a card's sake is tried again, so it is LOADING still; it has
        a reason then.
        """
        told = self.models().values()
        over = [one["state"] != "LOADING" or bool(one["reason"]) for one in told]
        return self.process.poll() is not None or bool(over and all(over))

    def processor_s(self) -> dict[str, float]:
        """Return the seconds of processors that each kind of process has had."""
        return {
            kind: sum(map(processor_s, pids)) for kind, pids in self._kinds().items()
        }

    def _kinds(self) -> dict[str, set[int]]:
        return {
            "doors": self.doors(),
            "engine": self.engines(),
            "runners": self.runners(),
            "decoders": self.decoders(),
        }

    def facts(self) -> dict[str, float]:
        """Return the counts that a leak makes grow.

        Memory of each kind of process and of all; descriptors and threads of doors and
        engine.
        """
        kinds = self._kinds()
        held = {kind: list(map(memory_mb, pids)) for kind, pids in kinds.items()}
        every = [one for some in held.values() for one in some]
        ours = kinds["doors"] | kinds["engine"]
        return {
            **{f"{k}_pss_mb": sum(one["Pss"] for one in held[k]) for k in kinds},
            "rss_mb": sum(one["Rss"] for one in every),
            "pss_mb": sum(one["Pss"] for one in every),
            "descriptors": sum(_count(pid, "fd") for pid in ours),
            "threads": sum(_count(pid, "task") for pid in ours),
            "runners": len(kinds["runners"]),
        }

    def harm(self, ignored: Callable[[str], object] = lambda _: False) -> list[str]:
        """Return files left behind and errors logged, in words.

        Args:
            ignored: tells the lines of the log that are as they should be.
        """
        folders = (self.uploads, self.home / "tmp")
        files = [path.name for folder in folders for path in folder.rglob("*")]
        bad = [
            line
            for line in self.log.splitlines()
            if "Traceback" in line or '"level":"error"' in line.replace('": "', '":"')
        ]
        return [f"left behind: {name}" for name in files] + [
            f"in the log: {line[:200]}" for line in bad if not ignored(line)
        ]


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def descendants(pid: int) -> list[int]:
    """Return the process ids of a process's children, and of theirs."""
    found = children(pid)
    return found + [each for child in found for each in descendants(child)]


def command(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _count(pid: int, what: str) -> int:
    return len(list(Path(f"/proc/{pid}/{what}").iterdir()))


def processor_s(pid: int) -> float:
    """Return the seconds that a process has had of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int) -> dict[str, float]:
    """Return ``Rss``, and ``Pss``, which shares out shared pages; 0 at its end."""
    found = {"Rss": 0.0, "Pss": 0.0}
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        lines = re.findall(r"^(Rss|Pss): +(\d+)", text, re.MULTILINE)
        found |= {name: int(kilobytes) / 1024 for name, kilobytes in lines}
    return found


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until a condition holds; return the seconds it took, or ``inf``."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        with contextlib.suppress(OSError, httpx.HTTPError):
            if condition():
                return passed
        time.sleep(_POLL_S)
    return math.inf


@contextlib.contextmanager
def started(
    folder: Path,
    *,
    app: str = "app.py",
    disk: str = "",
    environ: Mapping[str, str] | None = None,
    wait_s: float = 180.0,
    demand: bool = True,
) -> Iterator[Server]:
    """Start a server on a free port of loopback and end it afterwards.

    Args:
        folder: with its models.
        disk: size of a small disk for its uploads, such as ``64m``; it has none if none
            can be mounted.
        demand: whether a server that does not get ready ends the driver; else it is
            given as it is.

    Yields:
        The server, once no model of it loads.

    Raises:
        SystemExit: it does not get ready, and that is demanded.
    """
    with tempfile.TemporaryDirectory(prefix="modelserver-started-") as name:
        home = Path(name)
        uploads, temporary = home / "uploads", home / "tmp"
        uploads.mkdir()
        temporary.mkdir()
        command = [sys.executable, str(ROOT / app)]
        small = bool(disk) and _can_mount()
        if small:
            shell = ["sh", "-ec", _ON_A_SMALL_DISK, "sh", disk]
            command = [*_unshared(), *shell, *command]
        given = {k: v for k, v in os.environ.items() if not k.startswith(_LEFT_OUT)}
        given |= {"LOG_FORMAT": "json", "TMPDIR": str(temporary), **(environ or {})}
        given |= {"MODEL_FOLDER": str(folder), "UPLOAD_FOLDER": str(uploads)}
        given |= {"HOST": "127.0.0.1", "PORT": "0"}
        with (home / "stderr").open("wb") as said:
            nothing = subprocess.DEVNULL
            process = subprocess.Popen(
                command, env=given, stdout=nothing, stderr=said, start_new_session=True
            )
        if small:
            uploads = Path(f"/proc/{process.pid}/root{uploads}")
        server = Server(process, home, uploads, small)
        try:
            server.ready_s = wait(server.settled, wait_s)
            if demand and (process.poll() is not None or server.ready_s == math.inf):
                raise SystemExit(f"The server does not start:\n{server.log[-2000:]}")
            yield server
        finally:
            _end(process)


def _can_mount() -> bool:
    """Tell whether a disk can be mounted that only one process sees."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        mount = [*_unshared(), "mount", "-t", "tmpfs", "tmpfs", name]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def _unshared() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, if need be with all of its group."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
