"""The plan of a proof: its machine, its thoroughness, and all that steps share."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageEnhance, ImageOps

from benchmarks.support import servers
from modelserver.engine.runners.cards import memory, survey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from modelserver.core.signatures import Kind
    from modelserver.engine.discovery import ModelFiles

WORKER = "benchmarks.gpu_proof.worker"
ONLY_CARD = "only a card can show it"
MIB = 1 << 20
# Settings of servers that never refuse for want of patience.
PATIENT = {"MAX_QUEUE_WAIT_S": "60", "QUEUE_LENGTH": "256", "REQUEST_TIMEOUT_S": "120"}
# The environment of somebody who proves a card may have REQUIRE_GPU.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "REQUIRE_GPU": "false"}
_WORKER_S = 900.0
# Five sizes, as phones, cameras and screenshots send them side by side.
SIZES = ((640, 480), (480, 640), (800, 600), (512, 512), (1024, 576))
_QUALITY = 90
_MOST_CUT = 0.2
_LOADED_S = 600.0


@dataclass(frozen=True)
class Plan:
    """The plan of a proof.

    Attributes:
        gpu: on a card; otherwise the same steps on the CPU, as far as they go.
        samples: folder of photos to make the others of.
        detector, classifier: the models' files.
        photos: how many are compared.
        sizes: numbers of images in a run.
        clients: numbers of clients of the load.
        seconds, rounds: of the load.
        place: a folder for what is made meanwhile.
    """

    gpu: bool
    samples: Path
    detector: ModelFiles
    classifier: ModelFiles
    place: Path
    photos: int = 50
    sizes: tuple[int, ...] = (32, 16, 8, 4, 2, 1)
    clients: tuple[int, ...] = (1, 8, 32, 64)
    seconds: float = 3.0
    rounds: int = 3

    @property
    def environ(self) -> dict[str, str]:
        """Settings of each server: on a card or refused, and never out of patience."""
        cache = {"CUDA_CACHE_PATH": str(self.place / "cache")}
        where = {"REQUIRE_GPU": "true", **cache} if self.gpu else ON_CPU
        return {**where, **PATIENT}

    @property
    def device(self) -> str:
        """How the name of the device begins."""
        return "GPU" if self.gpu else "CPU"

    def folder(self, name: str, *models: tuple[str, ModelFiles]) -> Path:
        """Make a model folder with copies of some models, under new names."""
        made = self.place / name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for prefix, files in models:
            for path in files.paths:
                end = path.name.removeprefix(files.name)
                shutil.copy(path, made / f"{prefix}{end}")
        return made

    def files(self, count: int, size: tuple[int, int] | None = None) -> list[bytes]:
        """Make photos of the samples; see ``make_photos``."""
        return make_photos(self.samples, count, size)

    def held(self) -> int | None:
        """Return the MiB that everybody holds on the cards; ``None`` if untold."""
        told = memory(survey().cards).values() if self.gpu else ()
        parts = [one.total - one.free for one in told if one is not None]
        return sum(parts) // MIB if parts and len(parts) == len(told) else None

    def work(self, *words: str, **environ: str) -> dict[str, Any]:
        """Have the worker do something in a process of its own.

        Raises:
            RuntimeError: it failed; with the last that it said.
        """
        given = {"TF_CPP_MIN_LOG_LEVEL": "0", **self.environ, **environ}
        done = subprocess.run(
            [sys.executable, "-m", WORKER, *words],
            cwd=servers.ROOT,
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=_WORKER_S,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if line.strip()]
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}: {said[-1:]}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**told, "said": said[-20:]}

    @cached_property
    def tuned(self) -> dict[str, Any]:
        """The detector's times as a server would run it, measured once."""
        return self.times()

    def times(self, *words: str, **environ: str) -> dict[str, Any]:
        """Have the worker time the detector's runs."""
        sizes = ",".join(map(str, self.sizes))
        graph = str(self.detector.graph)
        return self.work("times", "detection", graph, sizes, *words, **environ)

    def started(
        self,
        folder: Path,
        kind: Kind = "detection",
        environ: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[servers.Server]:
        """Start a server; one that does not get ready is given as it is."""
        app = "app.py" if kind == "detection" else "app_classify.py"
        given = {**self.environ, **(environ or {})}
        return servers.started(
            folder, app=app, environ=given, wait_s=_LOADED_S, demand=False
        )


def make_photos(
    folder: Path, count: int, size: tuple[int, int] | None = None
) -> list[bytes]:
    """Make JPEG files of the photos in a folder: parts, mirrored, darker, brighter.

    Args:
        folder: of the samples.
        count: how many to make; the same ones each time.
        size: width and height of all of them; five sizes in turn otherwise.

    Raises:
        SystemExit: there is no photo in the folder.
    """
    originals = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.*"))]
    if not originals:
        raise SystemExit(
            f"There is no photo in {folder}; python -m modelserver models install "
            "--samples lays some down."
        )
    choose, made = random.Random(1), []  # noqa: S311 - the same each time
    for number in range(count):
        photo = originals[number % len(originals)]
        cut = choose.uniform(0, _MOST_CUT)
        width, height = (round(side * (1 - cut)) for side in photo.size)
        left = choose.randint(0, photo.width - width)
        top = choose.randint(0, photo.height - height)
        part = photo.crop((left, top, left + width, top + height))
        part = ImageEnhance.Brightness(part).enhance(choose.uniform(0.7, 1.3))
        part = ImageOps.mirror(part) if number % 2 else part
        buffer = io.BytesIO()
        size_of = size or SIZES[number % len(SIZES)]
        part.resize(size_of).save(buffer, "JPEG", quality=_QUALITY)
        made.append(buffer.getvalue())
    return made
