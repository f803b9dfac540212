"""Results of checks, kept by the content of what was checked.

They lie in the user's own cache folder, ``$XDG_CACHE_HOME/modelserver/checks``, else
``~/.cache/modelserver/checks``, one file each. A file that somebody else could have
written, that is damaged, or that is about anything else is ignored.

Nothing here raises for a folder or a file that cannot be used: then models are checked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import sys
import tempfile
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import modelserver
from modelserver.core.cuda.builds import read_build
from modelserver.core.findings import Finding
from modelserver.tools.doctor.reports import ModelReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from modelserver.core.settings import Settings
    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.runners.cards import Survey
    from modelserver.tools.doctor.reports import Photo

# Findings that another look may not have: of this machine's memory, of a card, of time.
_OF_THE_MOMENT = {"crashed", "gpu-failed", "gpu-unused", "golden-failed", "run-failed"}
# Packages that decode photos or run graphs.
_PACKAGES = (
    *("tensorflow", "tensorflow-cpu", "tf-nightly", "numpy", "protobuf"),
    *("pillow", "pillow-heif", "simplejpeg", "msgspec"),
)
# Variables that TensorFlow, CUDA and the libraries below them read.
_VARIABLES = ("TF_", "CUDA_", "NVIDIA_", "XLA_", "ONEDNN_", "OMP_", "MKL_", "LD_")
_MAX_BYTES = 1 << 20
_MAX_FILES = 500
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class KeptCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a check.

    Attributes:
        key: of what was checked, see ``KeptChecks.key``.
        report: of the model.
        findings: of the model.
    """

    key: str
    report: ModelReport
    findings: tuple[Finding, ...]


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where results are kept; ``None`` for a user without a home."""
    caches = environ.get("XDG_CACHE_HOME", "")
    home = environ.get("HOME", "")
    for folder, rest in ((caches, ""), (home, ".cache")):
        if folder.startswith("/"):
            return Path(folder, rest, "modelserver", "checks")
    return None


class KeptChecks:
    """The results of one user's checks, under some settings, on this machine."""

    def __init__(
        self,
        folder: Path | None,
        settings: Settings,
        survey: Survey,
        environ: Mapping[str, str] = os.environ,
        *,
        fresh: bool = False,
    ) -> None:
        """Note where they lie, and all but a model's own files that alters a result.

        Args:
            folder: as ``cache_folder`` gives it; nothing is kept without one.
            settings: the server's.
            survey: the cards that models are run on.
            environ: with the variables that libraries read.
            fresh: find none, and only keep new ones.
        """
        self._fresh = fresh
        self._folder = folder
        self._circumstances = [
            modelserver.__version__,
            _digest_of_package(),
            *_versions(),
            read_build().folder,
            repr(settings),
            repr(survey),
            platform.node(),
            str(len(os.sched_getaffinity(0))),
            *sorted(f"{k}={v}" for k, v in environ.items() if k.startswith(_VARIABLES)),
        ]

    def key(self, files: ModelFiles, photo: Photo) -> str:
        """Return the digest of all that a check's result depends on.

        That is each file's content and place, the photo, the versions of this package
        and of TensorFlow, the settings and the device. Empty if a file cannot be read.
        """
        facts: list[Any] = [*self._circumstances, files.name, files.kind, files.problem]
        try:
            for path in files.paths:
                with path.open("rb") as file:
                    facts += [str(path.absolute()), _digest(file)]
        except OSError:
            return ""
        facts += [photo.name, hashlib.sha256(photo.data).hexdigest()]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()

    def find(self, key: str) -> tuple[ModelReport, Sequence[Finding]] | None:
        """Return a kept result, whose report says since when; ``None`` without one."""
        if not key or self._folder is None or self._fresh:
            return None
        try:
            if not _is_private(self._folder.lstat()):
                return None
            data, changed = _read(self._folder / key)
            digest, _, text = data.partition(b"\n")
            if digest.decode() != hashlib.sha256(text).hexdigest():
                return None
            kept = msgspec.json.decode(text, type=KeptCheck)
        except (OSError, ValueError):
            return None
        if kept.key != key:
            return None
        since = datetime.fromtimestamp(changed, timezone.utc).isoformat("T", "seconds")
        return msgspec.structs.replace(kept.report, kept=since), kept.findings

    def keep(self, key: str, report: ModelReport, findings: Sequence[Finding]) -> None:
        """Keep a result, unless it may be another one the next time."""
        passing = any(finding.code in _OF_THE_MOMENT for finding in findings)
        if not key or self._folder is None or passing:
            return
        kept = KeptCheck(key=key, report=report, findings=tuple(findings))
        text = msgspec.json.encode(kept)
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(self._folder.lstat()):
                return
            # Whole or not at all, and with mkstemp's mode, which is 0600.
            number, name = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            Path(name).replace(self._folder / key)
            self._forget_the_oldest(self._folder)

    @staticmethod
    def _forget_the_oldest(folder: Path) -> None:
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-_MAX_FILES]:
            path.unlink()


def _read(path: Path) -> tuple[bytes, float]:
    """Return a file's content and when it was written, in seconds since 1970.

    Raises:
        OSError: it is not there, or is no file that only this user writes.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or not _is_private(status):
            raise PermissionError(path)
        return file.read(_MAX_BYTES), status.st_mtime


def _is_private(status: os.stat_result) -> bool:
    """Return whether only this user may have written there; no link is."""
    mine = status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode)
    return mine and not status.st_mode & _OTHERS_MAY_WRITE


def _digest(file: Any) -> str:
    """Return the SHA-256 of an open file, in hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _digest_of_package() -> str:
    """Return the digest of this package's modules: a checkout changes in a version."""
    folder = Path(modelserver.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> Iterator[str]:
    """Yield Python's version, and those of the packages that are installed."""
    yield sys.version
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"
