"""Scans a folder: finds the files that make a model, and those that cannot be used.

The files in the model folder itself come first, by the names of the contract; then
each folder in it that holds one export.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.exports import RECORD_END
from modelserver.core.extras import serve_command
from modelserver.engine.discovery import export_folders
from modelserver.engine.discovery import foreign_files as foreign
from modelserver.engine.discovery.files import Key, ModelFiles
from modelserver.engine.discovery.links import NotFollowed, is_folder, open_file
from modelserver.tasks import TASKS, endings_of_others

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from modelserver.engine.discovery.foreign_files import Foreign
    from modelserver.tasks.task import Role, Task

# A protobuf message cannot be larger.
MAX_GRAPH_BYTES = 2000 * 1024 * 1024

# Files of a model of any task: a golden image and the answer expected to it, ...
_COMMON: tuple[tuple[str, Role | None], ...] = (
    (".test.jpg", "image"),
    (".test.png", "image"),
    (".expected.json", "expected"),
    (RECORD_END, "facts"),
    (".json", "sidecar"),
)
_BESIDE: frozenset[Role] = frozenset({"facts", "sidecar", "image", "expected"})
# The file or its target was deleted: that is no file that cannot be used.
_GONE = "is skipped: it is a link to nothing"
_UNFINISHED = ("~", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp", ".bak")


@dataclass(frozen=True)
class Discovery:
    """The result of one scan of a folder.

    Attributes:
        models: sorted by name.
        warnings: a sentence for each file or folder that needs the operator's eye.
        readable: whether the folder could be read at all.
        held: models of which a file is there and cannot be used, such as one that is
            not readable or too large, with a sentence about it. A version that serves
            goes on: the files that are there now were not meant to replace it.
        foreign: models of other formats, which ``import`` turns into graphs.
        hint: if there is no model: the files that lie there and those that miss.
    """

    models: tuple[ModelFiles, ...]
    warnings: tuple[str, ...]
    readable: bool = True
    held: Mapping[Key, str] = field(default_factory=dict)
    foreign: tuple[Foreign, ...] = ()
    hint: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences for the log: the warnings, and advice on other formats' models."""
        return (
            *self.warnings,
            *(f"{model.sentence}: {model.fix}" for model in self.foreign),
        )


class _Part(NamedTuple):
    """A file that by its name belongs to a model."""

    path: Path
    role: Role
    prefix: str
    refusal: str | None
    held: bool = False

    @property
    def name(self) -> str:
        return unicodedata.normalize("NFC", self.prefix)

    @property
    def warning(self) -> str:
        return f"{self.path.name!r} {self.refusal}."


def hint(*tasks: Task[Any]) -> str:
    """Say which files an empty model folder needs, without naming the folder."""
    pairs = (f"NAME{task.graph_ending} and NAME{task.labels_ending}" for task in tasks)
    return f"put {', or '.join(pairs)} into the model folder"


def discover(folder: Path, *tasks: Task[Any]) -> Discovery:
    """Find the models of some tasks in a folder, and in each folder that it holds.

    Never raises for the folder's content or for its absence: that is a warning.

    Args:
        folder: ``MODEL_FOLDER``.
        tasks: those that the app serves; others' files are passed over in silence.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as err:
        what, end = f"The model folder {str(folder)!r}", f"{hint(*tasks)}."
        warning = f"{what} cannot be read ({err.strerror}); {end}"
        if isinstance(err, FileNotFoundError):
            why = f"is not there ({err.strerror}). It is waited for: make it, and"
            warning = f"{what} {why} {end}"
        return Discovery((), (warning,), readable=False, hint=hint(*tasks))
    scans = [_Scan(folder, task, paths) for task in tasks]
    models = sorted(
        (files for scan in scans for files in scan.models()),
        key=lambda files: (files.name, files.kind),
    )
    warnings = dict.fromkeys(word for scan in scans for word in scan.warnings)
    missing = "" if models else scans[0].missing(tasks)
    if not models:
        what = f"{' or '.join(task.kind for task in tasks)} model"
        warnings[f"There is no {what} in {str(folder)!r}; {missing}."] = None
    held = {scan.key(name): why for scan in scans for name, why in scan.held.items()}
    return Discovery(
        tuple(models),
        tuple(warnings),
        held=held,
        foreign=tuple(scans[0].foreign()),
        hint=missing,
    )


class _Scan:
    """One scan of a model folder for the models of a task."""

    def __init__(self, folder: Path, task: Task[Any], paths: list[Path]) -> None:
        self._folder = folder
        self._task = task
        self._paths = paths
        self._inside = dict(self._entries())
        self.warnings: list[str] = []
        self.held: dict[str, str] = {}

    def key(self, name: str) -> Key:
        """Return the key of a model that was looked for."""
        return self._task.kind, name

    def _entries(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """List the folders; one that cannot be listed holds no model."""
        for path in self._paths:
            if _bad_name(path.name, path.name, "") or not is_folder(path):
                continue
            if any(_part(path, task, self._folder) for task in TASKS.values()):
                continue  # it stands in the place of a file
            with suppress(OSError, NotFollowed):
                yield path.name, export_folders.entries_of(self._folder, path.name)

    def models(self) -> Iterator[ModelFiles]:
        """Find the models: those of the contract's names, then those in folders."""
        parts = [
            part
            for path in self._paths
            if path.name not in self._inside
            and (part := _part(path, self._task, self._folder))
        ]
        self.held.update({part.name: part.warning for part in parts if part.held})
        flat = {
            files.name: files for files in _models(parts, self._task, self.warnings)
        }
        self.warnings += self._unclaimed_labels(flat.values())
        yield from flat.values()
        for name, found in self._in_folders(self._task):
            if name in flat:
                self.warnings.append(
                    f"The folder {name!r} is passed over: "
                    f"{flat[name].graph.name!r} is the model of that name."
                )
                continue
            self.warnings += found.warnings
            if found.held:
                self.held[name] = found.held
            if found.files is not None:
                yield found.files

    def _unclaimed_labels(self, models: Iterable[ModelFiles]) -> Iterator[str]:
        """Name labels that an export tool wrote, next to a graph that has none."""
        if all(files.labels for files in models):
            return
        for path in self._paths:
            if path.name in _LOOSE_LABELS:
                yield (
                    f"{path.name!r} belongs to no model by its name: call it "
                    "NAME.labels.txt, or put it with its graph into a folder called "
                    "NAME."
                )

    def _in_folders(
        self, task: Task[Any]
    ) -> Iterator[tuple[str, export_folders.Found]]:
        """Yield the model that each folder holds for an app, by its name."""
        known: dict[str, str] = {}
        for folder, entries in self._inside.items():
            name = unicodedata.normalize("NFC", folder)
            found = export_folders.look_into(self._folder, folder, entries, task, name)
            if found.files is None and not found.held:
                continue
            if name in known:
                self.warnings.append(
                    f"The folder {folder!a} is passed over: {known[name]!a} has the "
                    "same name in another Unicode form."
                )
                continue
            known[name] = folder
            yield name, found

    def foreign(self) -> Iterator[Foreign]:
        """Find models of other formats."""
        for path in self._paths:
            if path.name.startswith(".") or path.name.endswith(_UNFINISHED):
                continue
            if path.name not in self._inside:
                model = foreign.from_file(self._folder, path.name)
            elif self._holds_graph(path.name):
                model = None
            else:
                model = foreign.find_in_folder(
                    self._folder, path.name, self._inside[path.name]
                )
            if model is not None:
                yield model

    def _holds_graph(self, name: str) -> bool:
        entries = self._inside[name]
        return any(any(export_folders.graphs_of(entries, t)) for t in TASKS.values())

    def missing(self, served: Sequence[Task[Any]]) -> str:
        """Describe a folder without a model, and the step that is missing."""
        steps = [*self._of_others(served), *self._misnamed(served)]
        steps += [model.advice for model in self.foreign()]
        return "; ".join((*steps[:_MAX_STEPS], hint(*served)))

    def _of_others(self, served: Sequence[Task[Any]]) -> Iterator[str]:
        """Name the models that other apps serve."""
        for other in TASKS.values():
            if other in served or not other.app:
                continue
            parts = [_part(path, other, self._folder) for path in self._paths]
            names = {files.name for files in _models(filter(None, parts), other, [])}
            names |= {name for name, found in self._in_folders(other) if found.files}
            if names:
                listed = ", ".join(map(repr, sorted(names)[:_MAX_STEPS]))
                yield (
                    f"what lies there is for {other.kind}: {listed}; start "
                    f"'{serve_command(other.endpoint.word, other.app)}' for it"
                )

    def _misnamed(self, served: Sequence[Task[Any]]) -> Iterator[str]:
        """Name the graphs that an export tool wrote and nobody renamed."""
        names = {path.name for path in self._paths}
        for task in TASKS.values():
            whose = "" if task in served else f" of {task.app}'s"
            for name in names.intersection(task.exported):
                yield (
                    f"{name!r} is {task.exported_by}: name it NAME{task.graph_ending} "
                    f"and its label map NAME{task.labels_ending}, or put both into a "
                    f"folder called NAME{whose}"
                )


_LOOSE_LABELS = ("labels.txt", "retrained_labels.txt", "output_labels.txt")
_MAX_STEPS = 3


def _models(
    parts: Iterable[_Part], task: Task[Any], warnings: list[str]
) -> Iterator[ModelFiles]:
    """Put the parts together by name; add a warning for each that does not fit."""
    groups: dict[str, dict[Role, list[_Part]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        groups[part.name][part.role].append(part)
    for name, group in sorted(groups.items()):
        # Any *.json or photo may lie in the folder; it counts only next to a graph.
        roles = [role for role in group if role not in _BESIDE or "graph" in group]
        chosen = {role: _choose(group[role], warnings) for role in roles}
        graph, labels = chosen.get("graph"), _labels(chosen, warnings)
        if graph is None:
            if "graph" not in group:
                warnings.extend(_orphans(name, labels, group, task))
            continue
        if labels is None:
            warnings.append(
                f"The model {name!r} has no label map {name + task.labels_ending!r}; "
                "its class ids are given as labels."
            )
        image, expected = _golden(name, chosen, warnings)
        sidecar, record = chosen.get("sidecar"), chosen.get("facts")
        facts = (record,) if record else ()
        yield ModelFiles(
            name, task.kind, graph, labels, sidecar, image, expected, facts
        )


def _orphans(
    name: str, labels: Path | None, group: Iterable[Role], task: Task[Any]
) -> Iterator[str]:
    """Yield a sentence for each file of a model whose graph is not there at all."""
    graph = name + task.graph_ending
    if labels is not None:
        yield f"The label map {labels.name!r} has no graph {graph!r} beside it."
    inner = task.graph_ending.removesuffix(".pb")
    if "sidecar" in group and inner and name.endswith(inner):
        right = name.removesuffix(inner) + ".json"
        yield f"{name + '.json'!r} is not used: a sidecar is named like {right!r}."


def _choose(parts: list[_Part], warnings: list[str]) -> Path | None:
    """Return the one file to use for a role, if there is one that can be used."""
    warnings.extend(part.warning for part in parts if part.refusal)
    usable = [part for part in parts if not part.refusal]
    # The composed spelling first: it is the one that a client can see in the name.
    usable.sort(key=lambda part: part.prefix != part.name)
    warnings.extend(
        f"{part.path.name!a} is skipped: {usable[0].path.name!a} has the same name "
        "in another Unicode form."
        for part in usable[1:]
    )
    return usable[0].path if usable else None


def _labels(chosen: dict[Role, Path | None], warnings: list[str]) -> Path | None:
    """Return the label map of a model that may have one in each format."""
    labels, names = chosen.get("labels"), chosen.get("names")
    if labels and names:
        warnings.append(f"{names.name!r} is skipped: {labels.name!r} is used.")
    return labels or names


def _golden(
    name: str, chosen: dict[Role, Path | None], warnings: list[str]
) -> tuple[Path, Path] | tuple[None, None]:
    """Return the golden image and its answer, if both are there."""
    image, expected = chosen.get("image"), chosen.get("expected")
    if image and expected:
        return image, expected
    if lone := image or expected:
        other = f"{name}.expected.json" if image else f"{name}.test.jpg"
        warnings.append(f"{lone.name!r} is not used: there is no {other!r} beside it.")
    return None, None


def _suffixes(task: Task[Any]) -> list[tuple[str, Role | None]]:
    """Return the ends of file names and their roles, the longest first."""
    own: list[tuple[str, Role | None]] = [
        (task.graph_ending, "graph"),
        (task.labels_ending, "labels"),
    ]
    if task.names_ending:
        own.append((task.names_ending, "names"))
    others = [(ending, None) for ending in endings_of_others(task)]
    return sorted((*own, *others, *_COMMON), key=lambda suffix: -len(suffix[0]))


def _part(path: Path, task: Task[Any], root: Path) -> _Part | None:
    """Return a directory entry as a part of a task's model, ``None`` if it is none."""
    name = path.name
    unfinished = (end for end in _UNFINISHED if name.endswith(end))
    finished = name.removesuffix(next(unfinished, ""))
    for suffix, role in _suffixes(task):
        if finished.lower().endswith(suffix):
            if role is None:
                return None
            prefix = finished[: -len(suffix)]
            if refusal := _bad_name(name, prefix, suffix):
                return _Part(path, role, prefix, refusal)
            refusal = _bad_file(path, role, root)
            held = refusal not in (None, _GONE)
            return _Part(path, role, prefix, refusal, held)
    return None


def _bad_name(name: str, prefix: str, suffix: str) -> str | None:
    """Return why a file is not used, by its name."""
    if not prefix.strip():
        return f"is skipped: there is no name before {suffix!r}"
    if name.startswith("."):
        return "is skipped: it is a hidden file"
    if name.endswith(_UNFINISHED):
        return "is skipped: it looks like an unfinished copy"
    if not name.endswith(suffix):
        return f"is skipped: its ending must be {suffix!r} in small letters"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in prefix):
        return "is skipped: its name holds control characters or is not UTF-8"
    return None


def _bad_file(path: Path, role: Role, root: Path) -> str | None:
    """Return why a file is not used, by its type, owner and size."""
    try:
        descriptor = open_file(root, path.name)
        try:
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except NotFollowed as err:
        return str(err)
    except FileNotFoundError:
        return _GONE
    except OSError as err:
        return f"is skipped: it cannot be read ({err.strerror})"
    if role == "graph" and size > MAX_GRAPH_BYTES:
        return "is skipped: it is larger than 2000 MiB"
    return None
