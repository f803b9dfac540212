"""Does decoding large JPEGs at a reduced size change what a detector finds?

    python benchmarks/reduced_decode.py FOLDER MODEL_FOLDER [--enlarge 3]

FOLDER is as for ``accuracy.py``; MODEL_FOLDER holds one detection model. Each photo is
enlarged, saved as JPEG and given to the server's own way from upload to detections,
once decoded in full and once as by default. Prints the average precision of both and
their difference, and how many photos were decoded at a reduced size.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from accuracy import Boxes, by_class, evaluate, read_known
from PIL import Image
from rich.progress import track

from modelserver import detection, discovery
from modelserver.models import Loader, Model
from modelserver.settings import Settings


def enlarged(path: Path, times: int) -> bytes:
    """Return a photo enlarged and saved as a JPEG again."""
    image = Image.open(path).convert("RGB")
    size = (image.width * times, image.height * times)
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def detect(model: Model, key: int, file: bytes) -> tuple[Boxes, bool]:
    """Return what is found, in pixels of the original photo, and whether reduced."""
    photo = model.prepare(file)
    reduced = photo.frame.pixels.shape[:2] != (photo.height, photo.width)
    done = model.submit(photo.frame).result()
    found = detection.detections_of(
        model.facts.signature, done.result.outputs, model.labels
    )
    scale = np.tile([photo.height, photo.width], 2)
    boxes = np.array([one.box for one in found]).reshape(-1, 4)[:, [1, 0, 3, 2]] * scale
    scores = np.array([one.confidence for one in found])
    classes = np.array([one.class_id for one in found])
    return by_class(key, boxes, scores, classes), reduced


def main() -> None:
    """Measure both ways, photo by photo in turn, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="photos and instances*.json")
    parser.add_argument("models", type=Path, help="one detection model")
    parser.add_argument("--enlarge", type=int, default=3)
    given = parser.parse_args()
    names, known = read_known(next(given.folder.glob("instances*.json")))
    for one in known.values():
        one.boxes[:] *= given.enlarge
    (files,) = discovery.discover(given.models, "detection").models
    ways = {
        way: Loader(
            Settings.from_environ({"ISOLATION": "inline", "FULL_DECODE": str(full)})
        )(files)
        for way, full in (("full", True), ("reduced", False))
    }
    found: dict[str, Boxes] = {way: {} for way in ways}
    count = 0
    for key, name in track(sorted(names.items()), "detecting"):
        file = enlarged(given.folder / name, given.enlarge)
        for way, model in ways.items():
            boxes, reduced = detect(model, key, file)
            found[way] |= boxes
            count += reduced
    for model in ways.values():
        model.close()
    averages = {way: evaluate(boxes, known) for way, boxes in found.items()}
    for way, each in averages.items():
        print(f"{way:8} AP {each.mean():.4f}, AP50 {each[0]:.4f}")
    difference = averages["reduced"].mean() - averages["full"].mean()
    print(f"difference {difference:+.4f}; {count} of {len(names)} photos were reduced")


if __name__ == "__main__":
    main()
