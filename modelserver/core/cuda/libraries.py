"""The CUDA libraries that TensorFlow opens by name, and whether the loader finds them.

TensorFlow's CUDA build has no library of CUDA linked in: ``libtensorflow_framework``
opens each by its name, and does not say which one it missed. The loader looks in
``LD_LIBRARY_PATH``, then in the folders that the caller's RUNPATH names, then in the
system's folders. TensorFlow 2.21's RUNPATH lacks the folder of one wheel, so libraries
that would be missed are opened here first: the loader then takes an open library for
every later one of that name.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from modelserver.core.cuda.builds import Build, package_folders, read_build
from modelserver.core.cuda.elf import Dynamic, read_dynamic
from modelserver.core.extras import packages

if TYPE_CHECKING:
    from collections.abc import Iterator

How = Literal["runpath", "path", "wheel", "opened", "system", "missing", "broken"]
_CALLER = "libtensorflow_framework.so.2"
# Files of the CUDA toolkit and cuDNN; a folder of the driver alone has none of them.
_TOOLKIT_FILES = (
    *("libcudart.so*", "libcublas.so*", "libcudnn.so*", "libcusolver.so*"),
    *("libcufft.so*", "libcusparse.so*", "libnvJitLink.so*", "libnvrtc.so*"),
)
_DRIVER_FILES = ("libcuda.so.1", "libnvidia-ml.so.1")


class _Wanted(NamedTuple):
    """A library that TensorFlow asks for.

    Attributes:
        name: between ``lib`` and ``.so``.
        versions: of its name, by CUDA's major version.
        package: whose wheel has it, without the suffix for CUDA's version; the driver's
            come with the driver.
        caller: start of the name of the library in a wheel that opens it, if that is
            not TensorFlow: a RUNPATH holds only for libraries that its owner opens.
        needed: whether no card is used without it.
    """

    name: str
    versions: dict[int, str]
    package: str
    caller: str = ""
    needed: bool = True


# cuDNN's part that compiles kernels.
_COMPILER = "cudnn_engines_runtime_compiled"
# In the order in which one needs the other. As seen with TF_CPP_MAX_VLOG_LEVEL=1 on
# TensorFlow 2.21: libcuda, libnvidia-ml, then these; cuFFT, cuSPARSE and cuSOLVER need
# nvJitLink, and cuDNN compiles with nvrtc; NCCL is for several cards at once.
_LIBRARIES = (
    _Wanted("cudart", {12: "12", 13: "13"}, "nvidia-cuda-runtime"),
    _Wanted("nvJitLink", {12: "12", 13: "13"}, "nvidia-nvjitlink", caller="cusparse"),
    _Wanted("cublasLt", {12: "12", 13: "13"}, "nvidia-cublas"),
    _Wanted("cublas", {12: "12", 13: "13"}, "nvidia-cublas"),
    _Wanted("cufft", {12: "11", 13: "12"}, "nvidia-cufft"),
    _Wanted("cusparse", {12: "12", 13: "12"}, "nvidia-cusparse"),
    _Wanted("cusolver", {12: "11", 13: "12"}, "nvidia-cusolver"),
    _Wanted("cudnn", {12: "9", 13: "9"}, "nvidia-cudnn"),
    _Wanted(
        "nvrtc", {12: "12", 13: "13"}, "nvidia-cuda-nvrtc", _COMPILER, needed=False
    ),
    _Wanted("nccl", {12: "2", 13: "2"}, "nvidia-nccl", needed=False),
)
_DRIVER = (
    _Wanted("cuda", {}, "the NVIDIA driver"),
    _Wanted("nvidia-ml", {}, "the NVIDIA driver"),
)
_DRIVER_VERSION = "1"


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """One library, and where the loader finds it.

    Attributes:
        name: as it is opened by, such as ``libcusolver.so.11``.
        needed: whether TensorFlow uses no card without it.
        package: the one to install for it.
        path: of the file; empty if it was not found, or the system has it.
        how: ``runpath``: TensorFlow finds it by itself; ``path``: in
            ``LD_LIBRARY_PATH``, and no wheel has it; ``wheel``: in a wheel, but
            TensorFlow would not find it, or would find another one, so it is to be
            opened first; ``opened``: that was done; ``system``: the system has one;
            ``missing``: nowhere; ``broken``: found and cannot be opened.
        detail: the loader's words, or which other one would be taken.
    """

    name: str
    needed: bool
    package: str
    path: str = ""
    how: How = "missing"
    detail: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all that TensorFlow needs for a card.

    Attributes:
        build: of the installed TensorFlow.
        libraries: the driver's, then CUDA's.
    """

    build: Build
    libraries: tuple[Library, ...] = ()

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of those that were opened first, as TensorFlow would miss them."""
        return tuple(lib.name for lib in self.libraries if lib.how == "opened")

    @property
    def lacking(self) -> tuple[Library, ...]:
        """Those that are needed and cannot be opened."""
        bad = ("missing", "broken")
        return tuple(lib for lib in self.libraries if lib.needed and lib.how in bad)

    @property
    def sentence(self) -> str:
        """Why no card can be used and the remedy; empty if nothing is missing."""
        build = self.build
        if not build.folder:
            return f"TensorFlow is not installed; install {packages('gpu')}."
        if build.told and not build.cuda:
            return (
                "The installed TensorFlow was built for the CPU only; install "
                f"{packages('gpu')}, which brings the one with CUDA."
            )
        reasons = [_explain(lib) for lib in self.lacking]
        return f"{'; '.join(reasons)}." if reasons else ""


def _explain(lib: Library) -> str:
    if lib.name == "libnvidia-ml.so.1":
        return (
            "libnvidia-ml.so.1 of the NVIDIA driver cannot be opened; a container "
            "needs NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    if lib.name == "libcuda.so.1":
        return (
            "libcuda.so.1 of the NVIDIA driver cannot be opened; install the driver, "
            "or give the container its card (docker run --gpus all)"
        )
    why = f" ({lib.detail})" if lib.how == "broken" else ""
    state = "cannot be opened" if lib.how == "broken" else "is missing"
    source = packages("gpu")
    return f"{lib.name} {state}{why}; install {lib.package}, as {source} does"


def survey(search: str | None = None) -> Report:
    """Find each library as the loader would; open only those that no wheel has.

    Args:
        search: ``LD_LIBRARY_PATH`` as it was when this process started.
    """
    build = read_build()
    if not build.folder or (build.told and not build.cuda):
        return Report(build=build)
    search = os.environ.get("LD_LIBRARY_PATH", "") if search is None else search
    asked = [folder for folder in search.split(os.pathsep) if folder]
    caller = _dynamic(Path(build.folder, _CALLER))
    wheels = _wheels()
    major = build.cuda.partition(".")[0]
    cuda = int(major) if major.isdecimal() else 0
    found = [_system(lib, f"lib{lib.name}.so.{_DRIVER_VERSION}") for lib in _DRIVER]
    for lib in _LIBRARIES:
        for name in _names(lib, cuda, wheels):
            package = f"{lib.package}-cu{cuda}" if cuda else lib.package
            wanted = lib._replace(package=package)
            by = _wheels_own(lib.caller, wheels) if lib.caller else caller
            found.append(_search(wanted, name, by, asked, wheels))
    return Report(build=build, libraries=tuple(found))


def has_wheels() -> bool:
    """Return whether CUDA came with this Python's packages, so no other is needed."""
    return bool(_wheels())


def _wheels() -> list[Path]:
    folders = package_folders("nvidia")
    return [folder for package in folders for folder in sorted(package.glob("*/lib"))]


def _names(lib: _Wanted, cuda: int, wheels: list[Path]) -> Iterator[str]:
    """Yield the name that a library is opened by; if unknown, the wheels' name."""
    if cuda in lib.versions:
        yield f"lib{lib.name}.so.{lib.versions[cuda]}"
        return
    names = {
        path.name for folder in wheels for path in folder.glob(f"lib{lib.name}.so.*")
    }
    yield from sorted(names)[:1]


def _dynamic(path: Path) -> Dynamic:
    try:
        return read_dynamic(path)
    except (OSError, ValueError):
        return Dynamic("", (), (), ())


def _wheels_own(start: str, wheels: list[Path]) -> Dynamic:
    """Read the library in a wheel that opens another."""
    paths = (path for folder in wheels for path in folder.glob(f"lib{start}.so.*"))
    return _dynamic(next(paths, Path()))


def _search(
    lib: _Wanted, name: str, caller: Dynamic, asked: list[str], wheels: list[Path]
) -> Library:
    """Look in the loader's order, and for the wheel's own."""
    library = Library(name=name, needed=lib.needed, package=lib.package)
    by_itself = _first([*caller.rpath], name)
    shadow = "" if by_itself else _first(asked, name)
    by_itself = by_itself or _first([*caller.runpath], name)
    own = _first([str(folder) for folder in wheels], name)
    if shadow and (own or by_itself) and not _same(shadow, own or by_itself):
        detail = f"LD_LIBRARY_PATH has another one: {shadow}"
        return _with(library, own or by_itself, "wheel", detail)
    if shadow:
        return _with(library, shadow, "path")
    if by_itself:
        return _with(library, by_itself, "runpath")
    return _with(library, own, "wheel") if own else _system(lib, name)


def _first(folders: list[str], name: str) -> str:
    paths = (os.path.join(folder, name) for folder in folders)  # noqa: PTH118 - as the loader does, unresolved
    return next((path for path in paths if os.path.isfile(path)), "")  # noqa: PTH113 - no Path for hundreds of names


def _same(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)  # noqa: PTH121 - as above
    except OSError:
        return False


def _with(library: Library, path: str, how: How, detail: str = "") -> Library:
    resolved = os.path.normpath(path) if path else ""
    return msgspec.structs.replace(library, path=resolved, how=how, detail=detail)


def _system(lib: _Wanted, name: str) -> Library:
    """Ask the loader for a library that no wheel has; it stays open."""
    library = Library(name=name, needed=lib.needed, package=lib.package)
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return _with(library, "", "missing", str(error))
    return _with(library, "", "system")


def preload() -> Report:
    """Open libraries that TensorFlow would miss, or take from a system's CUDA.

    To be called before TensorFlow is imported, in a process that was given a card. A
    library of a wheel takes some 70 ms. Never raises: faults are in the report.
    """
    found = survey()
    return msgspec.structs.replace(
        found,
        libraries=tuple(
            _open(lib) if lib.how == "wheel" and lib.needed else lib
            for lib in found.libraries
        ),
    )


def check() -> Report:
    """Open every library, to see whether it and its dependencies can be opened.

    It is for operators who ask why no card is used: it takes a second, and hundreds of
    MB of address space.
    """
    found = survey()
    return msgspec.structs.replace(
        found,
        libraries=tuple(_open(lib) if lib.path else lib for lib in found.libraries),
    )


def _open(lib: Library) -> Library:
    """Open a library for good; only one that TensorFlow would miss counts as opened."""
    try:
        # Not RTLD_GLOBAL: the loader goes by the name, and symbols need not mix.
        ctypes.CDLL(lib.path)
    except OSError as error:
        return msgspec.structs.replace(lib, how="broken", detail=str(error))
    return msgspec.structs.replace(lib, how="opened") if lib.how == "wheel" else lib


def without_cuda(search: str) -> tuple[str, list[str]]:
    """Take the folders of a system's CUDA out of a search path.

    A folder that also holds the driver stays: no card works without it.

    Returns:
        The path that is left, and the folders that were taken out.
    """
    kept: list[str] = []
    dropped: list[str] = []
    for folder in search.split(os.pathsep):
        (dropped if folder and _is_toolkit(Path(folder)) else kept).append(folder)
    return os.pathsep.join(kept), dropped


def _is_toolkit(folder: Path) -> bool:
    try:
        if any((folder / name).exists() for name in _DRIVER_FILES):
            return False
        return any(any(folder.glob(name)) for name in _TOOLKIT_FILES)
    except OSError:
        return False
