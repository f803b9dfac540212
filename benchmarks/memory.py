"""What a server holds in memory after some requests, and after a hundred times as many.

    python -m benchmarks.memory [MODEL_FOLDER PHOTO...] [--mixed] [--most 10000]
    python -m benchmarks.memory --largest --clients 32 --first 1 --most 300

Without a folder a graph that does next to nothing is served, with a photo made by code.
With more than one photo, or ``--mixed``, photos of several sizes come in turn; with
``--largest`` a JPEG, a progressive one and a PNG of the most pixels that are taken, of
which many find no room (503). Twenty times a second it is looked for the most memory in
use. Ends early when ``--limit`` seconds are over, and says after how many requests.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.support import graphs, results
from benchmarks.support.inprocess import find
from benchmarks.support.processes import front_and_runners, memory_mb
from modelserver import bench

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_S = 0.05
# MAX_IMAGE_PIXELS.
LARGEST = (5000, 5000)
# Width and height; the largest is decoded in full, as the graph has no size of its own.
MIXED = ((320, 240), (640, 480), (1024, 636), (1920, 1080), (3000, 2000))


def sample(arbiter: int) -> dict[str, Any]:
    """Return what the front and the runners hold now, in MB."""
    front, runners = front_and_runners(arbiter)
    parts = [memory_mb(pid) for pid in (front, *runners)]
    return {
        "front": parts[0],
        "runners": {kind: sum(p[kind] for p in parts[1:]) for kind in ("rss", "pss")},
        "all": {kind: sum(p[kind] for p in parts) for kind in ("rss", "pss")},
    }


@contextmanager
def highest(arbiter: int) -> Iterator[dict[str, float]]:
    """Give the most that is held at a time, PSS in MB; complete after the ``with``."""
    found = {"front": 0.0, "runners": 0.0, "all": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            now = sample(arbiter)
            found.update(
                {who: max(most, now[who]["pss"]) for who, most in found.items()}
            )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def measure(
    server: bench.Started, target: bench.Target, given: argparse.Namespace
) -> dict[str, Any]:
    """Send the first requests, look, send the others, look again."""
    few = min(given.clients, given.first)
    first = bench.run(target, few, given.limit, requests=given.first)
    before = sample(server.pid)
    rest = given.most - len(first.samples)
    left = max(1.0, given.limit - first.seconds)
    with highest(server.pid) as peak:
        more = bench.run(target, given.clients, left, requests=rest)
    after = sample(server.pid)
    return {
        "requests": [len(first.samples), len(first.samples) + len(more.samples)],
        "errors": bench.summarise([first, more]).errors,
        "before_mb": before,
        "after_mb": after,
        "peak_pss_mb": peak,
        "rss_ratio": after["all"]["rss"] / before["all"]["rss"],
        "pss_ratio": after["all"]["pss"] / before["all"]["pss"],
    }


def photos(given: argparse.Namespace) -> list[bytes]:
    """Return the photos to send in turn."""
    if given.largest:
        return list(largest())
    if given.mixed:
        # The same bytes a pixel for all.
        return [graphs.photo(size, size[0] * size[1] // 6) for size in MIXED]
    return [bench.read_photo(photo) for photo in given.photos] or [graphs.photo()]


def largest() -> Iterator[bytes]:
    """Give files of as many pixels as are taken, that decoders read in their ways."""
    jpeg = graphs.photo(LARGEST, LARGEST[0] * LARGEST[1] // 6)
    yield jpeg
    with Image.open(io.BytesIO(jpeg)) as picture:
        progressive, png = io.BytesIO(), io.BytesIO()
        picture.save(progressive, "JPEG", progressive=True)
        yield progressive.getvalue()
        # A PNG of a photo's grain would be over MAX_UPLOAD_MB.
        picture.quantize(16).save(png, "PNG")
        yield png.getvalue()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("photos", type=Path, nargs="*", default=[])
    parser.add_argument("--model", help="a detector; the folder's first by default")
    parser.add_argument("--mixed", action="store_true", help="photos of many sizes")
    parser.add_argument("--largest", action="store_true", help="the largest photos")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=300, help="seconds")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            graphs.write_do_nothing(folder)
        name = find(folder, "detection", given.model).name
        server = stack.enter_context(bench.started(folder.resolve()))
        target = bench.Target.of(server.url, "/detect", name, photos(given))
        bench.check(target)
        results.say(f"memory of {name}: {given.most} requests")
        measured = measure(server, target, given)
    results.say(f"memory: {measured['rss_ratio']:.3f} of what it was (RSS)")
    result = {"model": name, "clients": given.clients, "mixed": given.mixed}
    results.write(result | measured, given.out)


if __name__ == "__main__":
    main()
