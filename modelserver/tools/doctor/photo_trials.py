"""Trials of a model under every scaling, on a photo of known content.

They find a model's scaling if neither graph nor files tell it. Each trial loads the
same graph with another sidecar, in a process of its own, as the server would serve it.
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
from modelserver.tools.importing.model_files import SCALINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tools.doctor.reports import Photo

_COLOURS = 3
# The most frequent first.
_SCALINGS = ("0..1", "-1..1", "0..255", "torch", "caffe")
_FAILURES = (ModelError, RequestError, TimeoutError, ValueError, KeyError)


def candidates(channels: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each scaling's name and its keys of a sidecar.

    Args:
        channels: of the model; a gray one has no order and no means of colours.
    """
    for name in _SCALINGS:
        keys = SCALINGS[name]
        numbers = {key: keys[key] for key in ("mean", "scale")}
        turned = {
            key: number[::-1] if isinstance(number, tuple) else number
            for key, number in numbers.items()
        }
        if channels < _COLOURS:
            if numbers == turned:
                yield name, numbers
            continue
        rgb, bgr = (turned, numbers) if "channels" in keys else (numbers, turned)
        yield f"{name} RGB", {**rgb, "channels": 3}
        yield f"{name} BGR", {**bgr, "channels": "bgr"}


def try_scalings(
    settings: Settings,
    photo: Photo,
    label: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[ModelTries, ...]:
    """Run every model of ``MODEL_FOLDER`` that knows a label under every scaling.

    Args:
        settings: the server's.
        photo: shows the label.
        label: as the label map has it.
        progress: called before each model and at the end.
    """
    # Neither a rewritten graph, which costs a comparison each time, nor a GPU changes
    # the answers.
    quick = replace(settings, rewrite_graphs=False, require_gpu=False)
    folder = Path(settings.model_folder)
    found = [files for t in TASKS.values() for files in discover(folder, t).models]
    reports = []
    for done, files in enumerate(found):
        if progress:
            progress(done, len(found), f"trying {files.name}")
        report = _try_model(files, quick, photo, label)
        if report is not None:
            reports.append(report)
    if progress:
        progress(len(found), len(found), f"tried {len(reports)} models")
    return tuple(reports)


def _try_model(
    files: ModelFiles, settings: Settings, photo: Photo, label: str
) -> ModelTries | None:
    """Try one model; ``None`` if it does not know the label."""
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
        tries=tuple(sorted(tries, key=lambda t: (not t.sees, -t.confidence))),
    )


def _signature(files: ModelFiles, settings: Settings) -> Signature:
    """Load a model with its own sidecar and return its signature."""
    model = Loader(settings)(files)
    model.close()
    return model.facts.signature


class _Trial(NamedTuple):
    """The model and photo of the trials."""

    files: ModelFiles
    settings: Settings
    photo: Photo
    label: str

    def run(self, name: str, keys: dict[str, Any]) -> Try:
        """Load the model with one more sidecar, and run it on the photo."""
        sidecar = self.files.sidecar
        own_keys = json.loads(sidecar.read_bytes()) if sidecar else {}
        line = json.dumps({**own_keys, **keys})
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
        """Run the model in a folder of its own, with links and a sidecar."""
        with tempfile.TemporaryDirectory() as folder:
            sidecar = Path(folder) / f"{self.files.name}.json"
            sidecar.write_text(line, encoding="utf-8")
            files = replace(
                self.files,
                graph=_link(self.files.graph, folder),
                labels=self.files.labels and _link(self.files.labels, folder),
                facts=tuple(_link(path, folder) for path in self.files.facts),
                sidecar=sidecar,
                inside=False,
            )
            model = Loader(self.settings)(files)
            try:
                return answers_of(model, self.photo, self.settings.load_timeout_s)
            finally:
                model.close()


def _link(path: Path, folder: str) -> Path:
    """Link to a file from a folder."""
    link = Path(folder) / path.name
    link.symlink_to(path.resolve())
    return link
