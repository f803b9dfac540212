"""How soon a started server answers, and what its front holds in memory.

    python -m benchmarks.startup MODEL_FOLDER PHOTO [--rounds 5] [--requests 100]

Starts ``python app.py`` on a free port again and again and prints the medians: seconds
until ``/livez`` and until ``/readyz`` answer 200, and after some requests the resident
memory of the process that holds the listening socket and serves, of the arbiter, and of
the runner; whether TensorFlow is mapped into the front. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.support import results
from benchmarks.support.processes import front_and_runners, memory_mb
from modelserver.bench.starting import free_port

ROOT = Path(__file__).parent.parent
SECONDS = 120


def wait_for(url: str) -> None:
    """Ask a URL until it answers 200."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(0.01)
    raise SystemExit(f"{url} did not answer 200 within {SECONDS} s")


def one_round(folder: Path, photo: bytes, requests: int) -> dict[str, float]:
    """Start a server, measure it, end it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as uploads:
        environ = dict(
            os.environ,
            PORT=str(port),
            MODEL_FOLDER=str(folder),
            UPLOAD_FOLDER=uploads,
        )
        started = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(f"{url}/livez")
            live = time.monotonic() - started
            wait_for(f"{url}/readyz")
            ready = time.monotonic() - started
            name = httpx.get(f"{url}/models").json()["models"][0]["name"]
            for _ in range(requests):
                answer = httpx.post(
                    f"{url}/detect",
                    data={"modelname": name},
                    files={"file": ("photo.jpg", photo)},
                    timeout=SECONDS,
                )
                answer.raise_for_status()
            worker, (runner,) = front_and_runners(server.pid)
            maps = Path(f"/proc/{worker}/maps").read_text()
            return {
                "/livez, s": live,
                "/readyz, s": ready,
                "front, MB": memory_mb(worker)["rss"],
                "arbiter, MB": memory_mb(server.pid)["rss"],
                "runner, MB": memory_mb(runner)["rss"],
                "TensorFlow in the front": float("tensorflow" in maps),
            }
        finally:
            server.terminate()
            server.wait(SECONDS)


def main() -> None:
    """Measure some rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with one detector")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    photo = given.photo.read_bytes()
    rounds = [
        one_round(given.folder.resolve(), photo, given.requests)
        for _ in range(given.rounds)
    ]
    medians = {
        name: statistics.median(one[name] for one in rounds) for name in rounds[0]
    }
    for name, value in medians.items():
        results.say(f"{name:24} {value:8.2f}   of {given.rounds}")
    results.write({"rounds": given.rounds, "medians": medians}, given.out)


if __name__ == "__main__":
    main()
