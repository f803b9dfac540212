"""Many requests of each kind, one kind after the other: does any process grow?

    python -m benchmarks.leaks [MODEL_FOLDER PHOTO] [--cheap 10000] [--dear 500]

A real server gets so many requests of each kind: those that take under 20 ms are cheap.
Twenty times in each kind the memory, descriptors and threads of doors, engine, decoders
(with their template) and runners are noted; what counts is how the last half went, by
the line of least squares through its notes. Writes JSON; the exit code is 1 if a
process grew.
"""

from __future__ import annotations

import io
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.support import inputs, open_loop, results
from benchmarks.support.open_loop import Request, get, post

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from benchmarks.support.servers import Server

MAX_GROWTH_MB = 3.0
"""Of a kind of process, in the last half of a kind of requests."""
MAX_GROWTH = 4.0
"""The same in descriptors or threads, of which a connection has some."""

_CHEAP_S = 0.02
_AT_A_TIME, _NOTES, _DEADLINE_S = 8, 20, 60.0
_LOOKS, _LOOK_S = 3, 0.05
_HEADERS = b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_PAGES = (
    "/",
    "/docs",
    "/openapi.json",
    "/problems/not-an-image",
    "/models",
    "/metrics",
)


def kinds(port: int, model: str, photo: bytes) -> dict[str, Request]:
    """Return a request of each kind: photos, other forms, pages, and refusals."""
    image, half = Image.open(io.BytesIO(photo)), photo[: len(photo) // 2]
    found = {
        f"photo {kind}": post(port, model, _file(image, kind)) for kind in _FORMATS
    }
    found["photo progressive"] = post(
        port, model, _file(image, "JPEG", progressive=True)
    )
    found["photo of inks"] = post(port, model, _file(image.convert("CMYK"), "JPEG"))
    turned = Image.Exif()
    turned[0x0112] = 6
    found["photo turned"] = post(port, model, _file(image, "JPEG", exif=turned))
    body = b"POST /detect?modelname=" + model.encode() + b" HTTP/1.1" + _HEADERS
    found["photo alone"] = body + b"Content-Length: %d\r\n\r\n" % len(photo) + photo
    picture = b"Accept: image/png\r\nContent-Type: multipart"
    found["picture"] = found["photo PNG"].replace(
        b"Content-Type: multipart", picture, 1
    )
    found |= {f"page {path}": get(path) for path in _PAGES}
    found |= {
        "no such model": post(port, "no-such-model", photo),
        "half a photo, ended": post(port, model, half + b"\xff\xd9"),
    }
    for number, bad in enumerate(inputs.bad_photos(port, model, photo)):
        found[f"no photo {number}"] = bad.data
    whole = {name: Request("answered", data) for name, data in found.items()}
    for number, junk in enumerate(inputs.garbage(port)):
        whole[f"garbage {number}"] = junk
    whole["hung up in the head"] = Request("aborted", found["photo PNG"], cut=100)
    middle = len(found["photo PNG"]) // 2
    whole["hung up in the body"] = Request("aborted", found["photo PNG"], cut=middle)
    return whole


def _file(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def held(server: Server) -> dict[str, float]:
    """Return what each kind of process holds: memory in MB, descriptors, threads."""
    found = {}
    groups = {
        "doors": server.doors(),
        "engine": server.engines(),
        "decoders": server.decoders(),
        "runners": server.runners(),
    }
    for name, pids in groups.items():
        found[f"{name} MB"] = sum(map(own_mb, pids))
        for what, folder in (("descriptors", "fd"), ("threads", "task")):
            found[f"{name} {what}"] = float(sum(_count(pid, folder) for pid in pids))
    return found


def own_mb(pid: int) -> float:
    """Return a process's anonymous memory, and its share of memfds; 0 at its end.

    Not what it shares of programs and libraries with others, which come and go.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.findall(r"^(?:Anonymous|Pss_Shmem): +(\d+)", text, re.MULTILINE)
    return sum(map(int, found)) / 1024


def settled(server: Server) -> dict[str, float]:
    """Return the least that is held in a moment, in which connections are closed."""
    every = []
    for _ in range(_LOOKS):
        every.append(held(server))
        time.sleep(_LOOK_S)
    return {name: min(one[name] for one in every) for name in every[0]}


def _count(pid: int, folder: str) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/{folder}").iterdir()))
    except OSError:
        return 0


def send(server: Server, request: Request, count: int) -> dict[str, Any]:
    """Send so many of a kind, and return how each number went in the last half."""
    notes: list[tuple[int, dict[str, float]]] = []
    statuses: set[str] = set()
    done = 0
    while done < count:
        part = min(_AT_A_TIME, count - done)
        sent = open_loop.at_once(server.port, [request] * part, _DEADLINE_S)
        statuses |= {one.status for one in sent}
        done += part
        if done * _NOTES // count > len(notes) or done == count:
            notes.append((done, settled(server)))
    return {
        "requests": count,
        "statuses": sorted(statuses),
        "grew": growth(notes[len(notes) // 2 :]),
    }


def growth(notes: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return by how much each number grew from the first of some notes to the last."""
    at = [float(number) for number, _ in notes]
    if len(set(at)) < 2:  # noqa: PLR2004 - a line needs two points
        return dict.fromkeys(notes[0][1], 0.0)
    return {
        name: round(
            statistics.linear_regression(at, [held[name] for _, held in notes]).slope
            * (at[-1] - at[0]),
            2,
        )
        for name in notes[0][1]
    }


def run(
    server: Server, model: str, photo: bytes, given: argparse.Namespace
) -> dict[str, Any]:
    """Send all kinds in turn."""
    every = kinds(server.port, model, photo)
    begun, before = time.monotonic(), held(server)
    found = {}
    for name, request in every.items():
        start = time.monotonic()
        first = open_loop.at_once(server.port, [request] * _AT_A_TIME, _DEADLINE_S)
        cheap = (time.monotonic() - start) / len(first) < _CHEAP_S
        found[name] = send(server, request, given.cheap if cheap else given.dear)
        results.say(f"leaks: {name}: {found[name]}")
    return {
        "seconds": round(time.monotonic() - begun),
        "kinds": found,
        "before": before,
        "after": held(server),
        "harm": server.harm(),
    }


def broken(result: dict[str, Any]) -> list[str]:
    """Return all that must not be, in words."""
    found = list(result["harm"])
    for kind, one in result["kinds"].items():
        if wrong := {"500", open_loop.TIMEOUT} & set(one["statuses"]):
            found.append(f"{kind}: {sorted(wrong)}")
        for name, grew in one["grew"].items():
            if grew > (MAX_GROWTH_MB if name.endswith("MB") else MAX_GROWTH):
                found.append(f"{kind}: {name} grew by {grew}")
    return found


def main() -> None:
    """Send, and write."""
    parser = results.options(__doc__)
    parser.add_argument("--cheap", type=int, default=10_000, help="of each cheap kind")
    parser.add_argument("--dear", type=int, default=500, help="of each other kind")
    results.judge(parser.parse_args(), run, broken)


if __name__ == "__main__":
    main()
