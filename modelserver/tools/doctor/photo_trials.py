"""Runs a model under every scaling there is, to find out which one sees what it should.

Where nothing tells how a model wants its pixels, a photo of known content does. Each
try is a load of the same graph with another sidecar, in a process of its own, as the
server would serve it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.errors import ModelError, RequestError
from modelserver.engine.discovery import discover
from modelserver.engine.loader import Loader
from modelserver.tasks import TASKS, labels
from modelserver.tools.doctor.checks import answers_of
from modelserver.tools.doctor.reports import ModelTries, Try

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tools.doctor.reports import Photo

_COLOURS = 3
_TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CAFFE = (123.68, 116.779, 103.939)
# Name to mean and scale, red first; those of one channel come first.
_CANDIDATES: tuple[tuple[str, Any, Any], ...] = (
    ("0..1", 0.0, 1 / 255),
    ("-1..1", 127.5, 1 / 127.5),
    ("0..255", 0.0, 1.0),
    ("torch", _TORCH[0], tuple(1 / one for one in _TORCH[1])),
    ("caffe", _CAFFE, 1.0),
)
_FAILURES = (ModelError, RequestError, TimeoutError, ValueError, KeyError)


def candidates(channels: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each scaling's name and the sidecar's keys that say it.

    Args:
        channels: that the model takes; a gray one has no order and no means of colours.
    """
    for name, mean, scale in _CANDIDATES:
        if channels < _COLOURS:
            if not isinstance(mean, tuple):
                yield name, {"mean": mean, "scale": scale}
            continue
        yield f"{name} RGB", {"mean": mean, "scale": scale, "channels": 3}
        turned = [one[::-1] if isinstance(one, tuple) else one for one in (mean, scale)]
        yield (
            f"{name} BGR",
            {"mean": turned[0], "scale": turned[1], "channels": "bgr"},
        )


def try_scalings(
    settings: Settings,
    photo: Photo,
    label: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[ModelTries, ...]:
    """Run every model of ``MODEL_FOLDER`` that knows a label under every scaling.

    Args:
        settings: the server's.
        photo: what shows the label.
        label: as the label map has it.
        progress: told before each model and at the end.
    """
    # A rewritten graph answers the same, and costs a comparison each time; and so does
    # the CPU, whatever the server runs on.
    quick = replace(settings, rewrite_graphs=False, require_gpu=False)
    folder = Path(settings.model_folder)
    found = [files for t in TASKS.values() for files in discover(folder, t).models]
    reports = []
    for done, files in enumerate(found):
        if progress:
            progress(done, len(found), f"trying {files.name}")
        report = _tried(files, quick, photo, label)
        if report is not None:
            reports.append(report)
    if progress:
        progress(len(found), len(found), f"tried {len(reports)} models")
    return tuple(reports)


def _tried(
    files: ModelFiles, settings: Settings, photo: Photo, label: str
) -> ModelTries | None:
    """Try one model; ``None`` where it does not know the label."""
    try:
        names = labels.read_labels(files.labels).names.values()
        if label not in names:
            return None
        signature = _signature(files, settings)
    except ModelError as err:
        return ModelTries(name=files.name, label=label, error=str(err))
    if signature.scaling is None:
        error = "it takes the pixels as they are, so there is nothing to try"
        return ModelTries(name=files.name, label=label, error=error)
    trial = _Trial(files, settings, photo, label)
    tries = tuple(
        trial.run(name, keys) for name, keys in candidates(signature.channels)
    )
    return ModelTries(
        name=files.name,
        label=label,
        tries=tuple(sorted(tries, key=lambda one: (not one.sees, -one.confidence))),
    )


def _signature(files: ModelFiles, settings: Settings) -> Signature:
    """Load a model as it lies there, for what it takes."""
    model = Loader(settings)(files)
    model.close()
    return model.facts.signature


class _Trial(NamedTuple):
    """What is tried, whatever the scaling."""

    files: ModelFiles
    settings: Settings
    photo: Photo
    label: str

    def run(self, name: str, keys: dict[str, Any]) -> Try:
        """Load the model with one more sidecar, and run it on the photo."""
        beside = self.files.sidecar
        said = json.loads(beside.read_bytes()) if beside else {}
        line = json.dumps({**said, **keys})
        try:
            answers = self._answers(line)
        except _FAILURES as err:
            return Try(scaling=name, sidecar=line, error=str(err) or "it took too long")
        best = answers[0] if answers else ("", 0.0)
        return Try(
            scaling=name,
            sidecar=line,
            sees=best[0] == self.label,
            confidence=dict(reversed(answers)).get(self.label, 0.0),
            best=best[0],
            best_confidence=best[1],
        )

    def _answers(self, line: str) -> Sequence[tuple[str, float]]:
        """Lay the model's files into a folder of their own, with that sidecar."""
        with tempfile.TemporaryDirectory() as folder:
            sidecar = Path(folder) / f"{self.files.name}.json"
            sidecar.write_text(line, encoding="utf-8")
            files = replace(
                self.files,
                graph=_linked(self.files.graph, folder),
                labels=self.files.labels and _linked(self.files.labels, folder),
                facts=tuple(_linked(path, folder) for path in self.files.facts),
                sidecar=sidecar,
                inside=False,
            )
            model = Loader(self.settings)(files)
            try:
                return answers_of(model, self.photo, self.settings.load_timeout_s)
            finally:
                model.close()


def _linked(path: Path, folder: str) -> Path:
    """Link to a file from a folder."""
    link = Path(folder) / path.name
    link.symlink_to(path.resolve())
    return link
