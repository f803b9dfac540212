"""The same work without a server: decode and run, in the caller's own thread.

It is the limit that a server can come close to: the server's own settings, decoder and
session, but no HTTP, no queue, no process of its own, and no answer put together.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from modelserver.bench import Round, Sample
from modelserver.discovery import discover
from modelserver.models import Loader, Model
from modelserver.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from modelserver.discovery import ModelFiles
    from modelserver.signatures import Kind


def find(folder: Path, kind: Kind, name: str | None = None) -> ModelFiles:
    """Return the files of a model, the first where no name is given.

    Raises:
        SystemExit: there is none.
    """
    models = discover(folder, kind).models
    for files in models:
        if name in (None, files.name):
            return files
    raise SystemExit(f"There is no {kind} model {name or ''} in {folder}.")


class InProcess:
    """A model in this process. ``evaluate`` is thread-safe, for ``slots`` threads."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # Past the queue and the pool of threads, which are the server's, not the limit.
        self._session = model._runner._session  # type: ignore[attr-defined]  # noqa: SLF001
        self.slots = model.facts.slots

    @classmethod
    def load(cls, files: ModelFiles) -> InProcess:
        """Load a model with the settings of the environment, as a server does."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        settings = Settings.from_environ({**os.environ, "ISOLATION": "inline"})
        return cls(Loader(settings)(files))

    def evaluate(self, data: bytes) -> None:
        """Decode a photo and run the graph on it."""
        frame = self._model.prepare(data).frame
        try:
            self._session.run([frame.pixels])
        finally:
            frame.release()

    def run(self, data: bytes, threads: int, seconds: float) -> Round:
        """Evaluate a photo over and over in some threads, for some seconds."""
        samples: list[list[Sample]] = [[] for _ in range(threads)]
        start = time.perf_counter()

        def work(mine: list[Sample]) -> None:
            while (begun := time.perf_counter()) - start < seconds:
                self.evaluate(data)
                ended = time.perf_counter()
                mine.append(Sample(200, ended - start, (ended - begun) * 1000))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, samples))  # raises what a thread raised
        counted = (s for mine in samples for s in mine if s.ended_s <= seconds)
        return Round(threads, seconds, tuple(counted))

    def close(self) -> None:
        """Close the model."""
        self._model.close()
