"""A folder that holds one export as its tool wrote it, which is a model of its name.

Files are chosen by their names; of a text file that may be a label map the beginning
is read, and of Custom Vision's manifest whether the model detects or classifies.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core import exports
from modelserver.core.errors import ModelError
from modelserver.engine.discovery.files import ModelFiles
from modelserver.engine.discovery.links import (
    NotFollowed,
    is_folder,
    open_file,
    open_folder,
)
from modelserver.tasks import endings_of_others

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelserver.tasks import Task
    from modelserver.tasks.export_files import Ranks

# More files than any export has; further ones are not read.
_MAX_FILES = 1000
_PEEKED_BYTES = 4096
_LABEL_MAP = re.compile(rb"\s*(#[^\n]*\n\s*)*item\s*:?\s*[{<]")

_SIDECARS: Ranks = (("{name}.json", "sidecar.json"),)
_IMAGES: Ranks = (("{name}.test.jpg", "{name}.test.png"),)
_EXPECTED: Ranks = (("{name}.expected.json",),)


@dataclass
class Found:
    """The model that a folder holds for an app.

    Attributes:
        files: the model; ``None`` if there is none of the app's kind.
        warnings: a sentence for each file that needs the operator's eye.
        held: why a file that is there cannot be used now; empty if all can.
    """

    files: ModelFiles | None = None
    warnings: list[str] = field(default_factory=list)
    held: str = ""


class _Folder(NamedTuple):
    """A folder of the model folder, listed once."""

    root: Path
    name: str
    entries: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.root / self.name

    def of_rank(self, patterns: tuple[str, ...]) -> list[str]:
        """Return the entries that match one of the patterns."""
        wanted = tuple(_fill_in(pattern, self.name) for pattern in patterns)
        return [entry for entry in self.entries if _matches(entry, wanted)]

    def read(self, entry: str, limit: int) -> bytes:
        """Read a file's beginning; nothing if it cannot be read."""
        try:
            with os.fdopen(open_file(self.root, f"{self.name}/{entry}"), "rb") as file:
                return file.read(limit)
        except (OSError, NotFollowed):
            return b""


def _fill_in(pattern: str, name: str) -> str:
    """Put a model's name into a pattern, in which it stands for itself only."""
    plain = re.sub(r"([*?[])", r"[\1]", name.lower())
    return pattern.replace("{name}", plain)


def entries_of(root: Path, name: str) -> tuple[str, ...]:
    """List a folder of the model folder; a link is followed as a file's is.

    Raises:
        NotFollowed: it is no folder, or a link that is not followed.
        OSError: it cannot be read.
    """
    descriptor = open_folder(root, name)
    try:
        # By the descriptor, which no path names.
        found = os.listdir(descriptor)  # noqa: PTH208
    finally:
        os.close(descriptor)
    return tuple(
        sorted(entry for entry in found if not entry.startswith("."))[:_MAX_FILES]
    )


def look_into(
    root: Path, name: str, entries: tuple[str, ...], task: Task[Any], model: str
) -> Found:
    """Find the model that a folder holds.

    Args:
        root: the model folder.
        name: the folder's, as it is written.
        entries: the names of the files in it.
        task: of the app.
        model: the model's name, as clients send it.
    """
    folder, found = _Folder(root, name, entries), Found()
    export = _read_manifest(folder)
    graph = _find_graph(folder, task, export, found)
    if graph is None:
        return found
    problems = [graph.problem]
    ranks = task.label_files(graph.name, export.kind, export.labels)
    labels = _choose(folder, ranks, problems, "label map")
    sidecar = _choose(folder, _SIDECARS, problems, "sidecar")
    image = _choose(folder, _IMAGES, problems, "golden file")
    expected = _choose(folder, _EXPECTED, problems, "golden file")
    names = {"labels": labels, "sidecar": sidecar}
    if image and expected:
        names |= {"image": image, "expected": expected}
    usable = {role: _usable(folder, file, found) for role, file in names.items()}
    if labels is None:
        found.warnings.append(
            f"The model {model!r} has no label map in its folder; its class ids are "
            "given as labels."
        )
    facts = [*exports.NAMES, f"{model}{exports.RECORD_END}"]
    found.files = ModelFiles(
        model,
        task.kind,
        folder.path / graph.name,
        **usable,
        facts=tuple(folder.path / file for file in facts if file in entries),
        inside=True,
        problem=next(filter(None, problems), ""),
    )
    return found


class _Graph(NamedTuple):
    """The graph of a folder, and the problem with it, if any."""

    name: str
    problem: str


def _find_graph(
    folder: _Folder, task: Task[Any], export: exports.Export, found: Found
) -> _Graph | None:
    """Choose the graph; ``None`` if the folder holds none that can be used."""
    problems: list[str] = []
    ranks, never = task.graph_files(export.kind), _never(task)
    name = _choose(folder, ranks, problems, "graph", never)
    if name is None or _usable(folder, name, found) is None:
        return None
    return _Graph(name, "".join(problems))


def _read_manifest(folder: _Folder) -> exports.Export:
    """Read the manifest of an export, if there is one that can be read."""
    if exports.MANIFEST not in folder.entries:
        return exports.Export()
    data = folder.read(exports.MANIFEST, exports.MAX_BYTES)
    try:
        return exports.read({exports.MANIFEST: data}) or exports.Export()
    except ModelError:  # the load of the model says so
        return exports.Export()


def _choose(
    folder: _Folder,
    ranks: Ranks,
    problems: list[str],
    role: str,
    never: tuple[str, ...] = (),
) -> str | None:
    """Choose the one file of the first rank that is there.

    Two of a rank are a problem: to choose one would be a guess.
    """
    for patterns in ranks:
        found = [
            entry
            for entry in folder.of_rank(patterns)
            if not _matches(entry, never) and _has_role(folder, entry, role)
        ]
        if len(found) > 1:
            two = " and ".join(map(repr, found[:2]))
            problems.append(
                f"The folder {folder.name!r} holds two files that may be its {role}: "
                f"{two}. Leave the right one there."
            )
        if found:
            return found[0]
    return None


def _has_role(folder: _Folder, entry: str, role: str) -> bool:
    """Check whether a file with a matching name has the role that it is wanted for."""
    if role == "label map" and entry.lower().endswith(".pbtxt"):
        return _LABEL_MAP.match(folder.read(entry, _PEEKED_BYTES)) is not None
    return not is_folder(folder.path / entry)


def _matches(entry: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(entry.lower(), pattern) for pattern in patterns)


def _usable(folder: _Folder, entry: str | None, found: Found) -> Path | None:
    """Return a file's path, or note why it cannot be used."""
    if entry is None:
        return None
    try:
        os.close(open_file(folder.root, f"{folder.name}/{entry}"))
    except FileNotFoundError:
        return None
    except (NotFollowed, OSError) as err:
        why = err if isinstance(err, NotFollowed) else _say_unreadable(err)
        sentence = f"'{folder.name}/{entry}' {why}."
        found.warnings.append(sentence)
        found.held = found.held or sentence
        return None
    return folder.path / entry


def _say_unreadable(err: OSError) -> str:
    return f"is skipped: it cannot be read ({err.strerror})"


def _never(task: Task[Any]) -> tuple[str, ...]:
    """Return the names that end as a task's graphs do and are none of its."""
    others = endings_of_others(task)
    return *task.no_graphs(), *(f"*{e}" if e[0] == "." else e for e in others)


def graphs_of(entries: tuple[str, ...], task: Task[Any]) -> Iterator[str]:
    """Yield the files that by their names are graphs of a task."""
    ranks = task.graph_files(None)
    for entry in entries:
        if not _matches(entry, _never(task)) and any(
            _matches(entry, rank) for rank in ranks
        ):
            yield entry
