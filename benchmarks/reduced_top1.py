"""Does decoding large JPEGs at a reduced size change what a classifier answers?

    python benchmarks/reduced_top1.py PHOTOS MODEL_FOLDER

Gives each JPEG in PHOTOS to each classifier in MODEL_FOLDER by the server's own way,
decoded in full and as by default, and prints how many answers are the same and each
that is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from modelserver import classification, discovery
from modelserver.models import Loader, Model
from modelserver.settings import Settings

if TYPE_CHECKING:
    from modelserver.classification import Classification


def top(model: Model, file: bytes) -> Classification:
    """Return a photo's best class."""
    done = model.submit(model.prepare(file).frame).result()
    signature = model.facts.signature
    return classification.classes_of(
        signature, done.result.outputs, model.labels, model.offset
    )[0]


def main() -> None:
    """Ask every classifier about every photo, both ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("models", type=Path)
    given = parser.parse_args()
    same = asked = 0
    for files in discovery.discover(given.models, "classification").models:
        full, reduced = (
            Loader(Settings.from_environ({"ISOLATION": "inline", "FULL_DECODE": way}))(
                files
            )
            for way in ("true", "false")
        )
        for photo in sorted(given.photos.glob("*.jpg")):
            before, after = (
                top(model, photo.read_bytes()) for model in (full, reduced)
            )
            asked += 1
            same += before.class_id == after.class_id
            if before.class_id != after.class_id:
                print(f"{files.name}, {photo.name}: {before} became {after}")
        full.close()
        reduced.close()
    print(f"{same} of {asked} answers are the same")


if __name__ == "__main__":
    main()
