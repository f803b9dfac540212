"""A server under proof: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.support.processes import children, front_and_runners
from modelserver.bench.starting import APPS, free_port
from modelserver.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from modelserver.signatures import Kind

ROOT = Path(__file__).parent.parent.parent
_POLL_S = 0.05
_END_S = 60.0


class Server:
    """A started server.

    Attributes:
        url: where it listens.
        ready_s: seconds from its start until the first load of each model was over.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, said: Path) -> None:
        self._process = process
        self._said = said
        self.url = url
        self.ready_s = 0.0

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._said.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        return self._process.poll()

    def models(self) -> dict[str, dict[str, Any]]:
        """Return what ``/models`` says, by name; empty while nobody answers."""
        try:
            told = httpx.get(f"{self.url}/models", timeout=10).json()["models"]
        except (httpx.HTTPError, ValueError, KeyError):
            return {}
        return {one["name"]: one for one in told}

    def runners(self) -> set[int]:
        """Process ids of the models' processes."""
        with contextlib.suppress(OSError, ValueError):
            return set(front_and_runners(self._process.pid)[1])
        return set()

    def settled(self) -> bool:
        """Whether every model's first load is over, or the server has ended.

        One that failed for the card's sake is tried again, so it is LOADING still; it
        has a reason then.
        """
        told = self.models().values()
        over = [one["state"] != "LOADING" or bool(one["reason"]) for one in told]
        return self.code is not None or bool(over and all(over))

    def wait(self, condition: Callable[[], bool], seconds: float) -> float:
        """Wait for a condition; returns the seconds it took, or ``inf``."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if condition():
                return time.monotonic() - started
            time.sleep(_POLL_S)
        return float("inf")

    def client(self) -> Client:
        """Give a client that does not try again: a refusal is to be seen."""
        return Client(self.url, retries=0, timeout=120.0)

    def end(self) -> None:
        """End it, and whatever it leaves. Idempotent."""
        left = children_of(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)


def children_of(pid: int) -> list[int]:
    """Return a process's children, none once it is gone."""
    with contextlib.suppress(OSError):
        return children(pid)
    return []


@contextlib.contextmanager
def started(
    folder: Path,
    kind: Kind = "detection",
    *,
    environ: Mapping[str, str] | None = None,
    wait_s: float = 600.0,
) -> Iterator[Server]:
    """Start a server on a free port, wait until its models are loaded, and end it.

    One that ends by itself, or loads for longer, is given as it is: the step looks.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as place:
        said, pics = Path(place, "said"), Path(place, "pics")
        pics.mkdir()
        given = {
            **os.environ,
            "LOG_FORMAT": "json",
            **(environ or {}),
            "UPLOAD_FOLDER": str(pics),
            "MODEL_FOLDER": str(folder),
            "HOST": "127.0.0.1",
            "PORT": str(port := free_port()),
        }
        given.pop("API_TOKEN", None)
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / APPS[kind])],
                env=given,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        server = Server(process, f"http://127.0.0.1:{port}", said)
        try:
            server.ready_s = server.wait(server.settled, wait_s)
            yield server
        finally:
            server.end()


def warnings(log: str) -> list[str]:
    """Return a JSON log's warnings and errors, as lines."""
    return [
        line
        for line in log.splitlines()
        if re.search(r'"level": ?"(warn|err|crit)', line)
    ]
