"""A folder that holds one export as its tool wrote it, which is a model of its name.

Told from file names; of a text file that may be a label map its beginning is read, and
of Custom Vision's manifest whether the model detects or classifies.
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

# More files than any export has: what lies beyond is not looked at.
_MAX_FILES = 1000
_PEEKED_BYTES = 4096
_LABEL_MAP = re.compile(rb"\s*(#[^\n]*\n\s*)*item\s*:?\s*[{<]")

_SIDECARS: Ranks = (("{name}.json", "sidecar.json"),)
_IMAGES: Ranks = (("{name}.test.jpg", "{name}.test.png"),)
_EXPECTED: Ranks = (("{name}.expected.json",),)


@dataclass
class Found:
    """What a folder holds for an app.

    Attributes:
        files: the model; ``None`` where there is none of the app's kind.
        warnings: a sentence for each file that needs the operator's eye.
        held: why a file that is there cannot be used now; empty where all can.
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
        """Give the entries that one of the patterns fits."""
        wanted = tuple(_escaped(one, self.name) for one in patterns)
        return [entry for entry in self.entries if _fits(entry, wanted)]

    def read(self, entry: str, most: int) -> bytes:
        """Read a file's beginning; nothing of one that cannot be read."""
        try:
            with os.fdopen(open_file(self.root, f"{self.name}/{entry}"), "rb") as file:
                return file.read(most)
        except (OSError, NotFollowed):
            return b""


def _escaped(pattern: str, name: str) -> str:
    """Put a model's name into a pattern, where it stands for itself only."""
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
    return tuple(sorted(one for one in found if not one.startswith("."))[:_MAX_FILES])


def look_into(
    root: Path, name: str, entries: tuple[str, ...], task: Task[Any], model: str
) -> Found:
    """Find the model that a folder holds.

    Args:
        root: the model folder.
        name: the folder's, as it is written.
        entries: the names of the files in it.
        task: whose model it is to be.
        model: the model's name, as clients send it.
    """
    folder, found = _Folder(root, name, entries), Found()
    told = _told(folder)
    graph = _graph(folder, task, told, found)
    if graph is None:
        return found
    problems = [graph.problem]
    ranks = task.label_files(graph.name, told.kind, told.labels)
    labels = _one(folder, ranks, problems, "label map")
    sidecar = _one(folder, _SIDECARS, problems, "sidecar")
    image, expected = (
        _one(folder, ranks, problems, "golden file") for ranks in (_IMAGES, _EXPECTED)
    )
    golden = (image, expected) if image and expected else (None, None)
    names = {"labels": labels, "sidecar": sidecar}
    names |= dict(zip(("image", "expected"), golden, strict=True))
    usable = {role: _usable(folder, one, found) for role, one in names.items()}
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
        facts=tuple(folder.path / one for one in facts if one in entries),
        inside=True,
        problem=next(filter(None, problems), ""),
    )
    return found


class _Graph(NamedTuple):
    """The graph of a folder, and what is wrong about it."""

    name: str
    problem: str


def _graph(
    folder: _Folder, task: Task[Any], told: exports.Export, found: Found
) -> _Graph | None:
    """Choose the graph; ``None`` where the folder holds none that can be used."""
    problems: list[str] = []
    ranks, never = task.graph_files(told.kind), _never(task)
    name = _one(folder, ranks, problems, "graph", never)
    if name is None or _usable(folder, name, found) is None:
        return None
    return _Graph(name, "".join(problems))


def _told(folder: _Folder) -> exports.Export:
    """Read the manifest of an export, where there is one that can be read."""
    if exports.MANIFEST not in folder.entries:
        return exports.Export()
    data = folder.read(exports.MANIFEST, exports.MAX_BYTES)
    try:
        return exports.read({exports.MANIFEST: data}) or exports.Export()
    except ModelError:  # said where the model is loaded
        return exports.Export()


def _one(
    folder: _Folder,
    ranks: Ranks,
    problems: list[str],
    what: str,
    never: tuple[str, ...] = (),
) -> str | None:
    """Choose the one file of the first rank that is there.

    Two of a rank are a problem: which is meant would be a guess.
    """
    for patterns in ranks:
        found = [
            entry
            for entry in folder.of_rank(patterns)
            if not _fits(entry, never) and _is_meant(folder, entry, what)
        ]
        if len(found) > 1:
            two = " and ".join(map(repr, found[:2]))
            problems.append(
                f"The folder {folder.name!r} holds two files that may be its {what}: "
                f"{two}. Leave the right one there."
            )
        if found:
            return found[0]
    return None


def _is_meant(folder: _Folder, entry: str, what: str) -> bool:
    """Tell whether a file with a fitting name is what it is looked for as."""
    if what == "label map" and entry.lower().endswith(".pbtxt"):
        return _LABEL_MAP.match(folder.read(entry, _PEEKED_BYTES)) is not None
    return not is_folder(folder.path / entry)


def _fits(entry: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(entry.lower(), pattern) for pattern in patterns)


def _usable(folder: _Folder, entry: str | None, found: Found) -> Path | None:
    """Give a file's path, or say why it cannot be used."""
    if entry is None:
        return None
    try:
        os.close(open_file(folder.root, f"{folder.name}/{entry}"))
    except FileNotFoundError:
        return None
    except (NotFollowed, OSError) as err:
        why = err if isinstance(err, NotFollowed) else _unread(err)
        sentence = f"'{folder.name}/{entry}' {why}."
        found.warnings.append(sentence)
        found.held = found.held or sentence
        return None
    return folder.path / entry


def _unread(err: OSError) -> str:
    return f"is skipped: it cannot be read ({err.strerror})"


def _never(task: Task[Any]) -> tuple[str, ...]:
    """Give the names that end as a task's graphs do and are none of its."""
    others = endings_of_others(task)
    return *task.no_graphs(), *(f"*{e}" if e[0] == "." else e for e in others)


def graphs_of(entries: tuple[str, ...], task: Task[Any]) -> Iterator[str]:
    """Give the files that by their names are graphs of a task."""
    ranks = task.graph_files(None)
    for entry in entries:
        if not _fits(entry, _never(task)) and any(_fits(entry, rank) for rank in ranks):
            yield entry
