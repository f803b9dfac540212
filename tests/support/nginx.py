"""The shipped nginx, started in a folder of its own and on free ports."""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.support.servers import ROOT, wait
from modelserver.tools import bench

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONF = ROOT / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""Where nginx is; ``None`` where it is not."""

_START_S = 20.0


@dataclass
class Proxy:
    """A running nginx.

    Attributes:
        folder: with its configuration, its logs and the bodies that it puts on disk.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Its error log and its access log."""
        files = (self.folder / "error.log", self.folder / "access.log")
        return "".join(file.read_text() for file in files if file.exists())

    def connect(self, source: str = "127.0.0.1", seconds: float = 60) -> socket.socket:
        """Connect from some address of loopback."""
        return socket.create_connection(
            ("127.0.0.1", self.port), seconds, source_address=(source, 0)
        )


def conf(
    folder: Path,
    port: int,
    detection: int,
    classification: int,
    changes: Mapping[str, str] | None = None,
) -> str:
    """Return the shipped file with other ports, paths and user.

    Args:
        folder: for logs, the process's id and bodies.
        port: where nginx listens, on loopback.
        detection, classification: ports of the two apps.
        changes: more of the file's words, and those to stand there instead.

    Raises:
        ValueError: one of the words does not stand in the file once.
    """
    text = CONF.read_text()
    every = {
        "user www-data;": f"user {pwd.getpwuid(os.getuid()).pw_name};",
        "listen 80;": f"listen 127.0.0.1:{port};",
        "listen [::]:80;": "",
        "server 127.0.0.1:5000;": f"server 127.0.0.1:{detection};",
        "server 127.0.0.1:5432;": f"server 127.0.0.1:{classification};",
        "/run/nginx.pid": f"{folder}/nginx.pid",
        **(changes or {}),
    }
    for old, new in every.items():
        if text.count(old) != 1:
            raise ValueError(f"{old!r} does not stand in {CONF} once")
        text = text.replace(old, new)
    for logs in ("/var/log/nginx", "/var/lib/nginx"):
        text = text.replace(logs, str(folder))
    return text


@contextlib.contextmanager
def nginx(
    folder: Path,
    detection: int,
    classification: int = 1,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Start the shipped nginx before servers on some ports; stop it afterwards.

    Raises:
        SystemExit: it is not installed, or does not start.
    """
    if NGINX is None:
        raise SystemExit("nginx is not installed.")
    port = bench.free_port()
    file = folder / "nginx.conf"
    file.write_text(conf(folder, port, detection, classification, changes))
    command = [NGINX, "-p", str(folder), "-c", str(file), "-g", "daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    proxy = Proxy(folder, port)
    try:
        if wait(lambda: bench.is_listening(proxy.url), _START_S) == math.inf:
            raise SystemExit(f"nginx does not start: {proxy.log}")
        yield proxy
    finally:
        process.terminate()
        process.wait()
