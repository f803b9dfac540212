"""Models of other formats in the model folder, which ``import`` turns into graphs."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

from modelserver.engine.discovery.links import NotFollowed, is_regular, open_file

if TYPE_CHECKING:
    from pathlib import Path

_KERAS = (".keras", ".h5", ".hdf5")
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_TFJS = "model.json"
_TEXT_GRAPHS = ("graph.pbtxt", "graph_def.pbtxt")
# Of other frameworks, in words for a sentence. Nothing here imports them.
_OTHERS = {
    ".tflite": "a TensorFlow Lite model",
    ".onnx": "an ONNX model",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
}
_PEEKED_BYTES = 1 << 16
# Each scan of the model folder reads so many files of a folder; one of annotations may
# hold thousands.
_MAX_PEEKED = 16


class Foreign(NamedTuple):
    """A model that is no frozen graph.

    Attributes:
        path: the file or folder to give to ``import``.
        format: in words.
        name: a name for the model; empty if ``import`` does not take its format.
    """

    path: Path
    format: str
    name: str

    @property
    def sentence(self) -> str:
        """Its format, for the log."""
        return f"{self.path.name} is {self.format}, no frozen graph"

    @property
    def fix(self) -> str:
        """The step to take."""
        return self._fix(str(self.path))

    @property
    def advice(self) -> str:
        """Format and step, for clients: without the machine's own paths."""
        return f"{self.sentence}: {self._fix('/'.join(self.path.parts[-2:]))}"

    def _fix(self, source: str) -> str:
        if not self.name:
            return "export the model that it was made of as a SavedModel, and import it"
        quoted, name = shlex.quote(source), shlex.quote(self.name)
        return f"python -m modelserver import {quoted} --name {name}"


def find_in_folder(root: Path, name: str, entries: tuple[str, ...]) -> Foreign | None:
    """Find the model of another format that a folder holds, if any."""
    folder = root / name
    if any(file in entries for file in _SAVED_MODEL):
        return Foreign(folder, "a SavedModel", name)
    for inner in entries:
        if any(is_regular(folder / inner / file) for file in _SAVED_MODEL):
            return Foreign(folder / inner, "a SavedModel", name)
    if "tensorflowjs_model.pb" in entries:
        return Foreign(folder, "a TensorFlow.js model of its first format", "")
    jsons = [entry for entry in entries if entry.lower().endswith(".json")]
    if _TFJS in entries or any(
        _describes_tfjs(root, f"{name}/{entry}") for entry in jsons[:_MAX_PEEKED]
    ):
        return Foreign(folder, "a TensorFlow.js model", name)
    for entry in entries:
        if entry.lower().endswith(_KERAS):
            return Foreign(folder / entry, "a Keras model", name)
    return None


def from_file(root: Path, entry: str) -> Foreign | None:
    """Return a file of the model folder as a model of another format, if it is one."""
    path, stem = root / entry, entry.partition(".")[0]
    if entry in _SAVED_MODEL:
        return Foreign(path, "a SavedModel", root.resolve().name)
    if entry.lower().endswith(_KERAS):
        return Foreign(path, "a Keras model", stem)
    if entry == _TFJS or _describes_tfjs(root, entry):
        return Foreign(path, "a TensorFlow.js model", stem)
    if entry in _TEXT_GRAPHS:
        return Foreign(path, "a graph in text form", stem)
    for ending, what in _OTHERS.items():
        if entry.lower().endswith(ending):
            return Foreign(path, what, "")
    return None


def _describes_tfjs(root: Path, name: str) -> bool:
    """Check by its beginning whether a file describes a TensorFlow.js model."""
    if not name.lower().endswith(".json"):
        return False
    try:
        with os.fdopen(open_file(root, name), "rb") as file:
            start = file.read(_PEEKED_BYTES)
    except (OSError, NotFollowed):
        return False
    return b'"modelTopology"' in start
