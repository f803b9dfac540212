"""The target of a TensorFlow build (CUDA version, cards), read from its files."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import msgspec

_BUILD_INFO = Path("python", "platform", "build_info.py")
# sm_86, compute_90: older names than those of 2020 have the same digits.
_CAPABILITY_DIGITS = 10


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """The target that the installed TensorFlow was built for.

    Attributes:
        folder: of the package; empty if it is not installed.
        cuda: version of CUDA it was built with, such as ``12.5.1``; empty for a build
            for the CPU, and if the package does not say.
        told: whether the package says.
        capabilities: the compute capabilities that it has kernels for, such as
            ``sm_80`` (machine code) or ``compute_90`` (to be compiled).
    """

    folder: str = ""
    cuda: str = ""
    told: bool = False
    capabilities: tuple[str, ...] = ()

    def kernels_for(self, capability: tuple[int, int]) -> str:
        """Return how a card of a compute capability gets its kernels.

        Returns:
            ``ready``: machine code is there; ``compiled``: some are compiled by the
            driver at first use, which for a card newer than the build takes up to half
            an hour; ``none``: nothing can run there; ``unknown``: the package does not
            say.
        """
        if not self.capabilities:
            return "unknown"
        ready = [_version(name) for name in self.capabilities if name.startswith("sm_")]
        source = [_version(name) for name in self.capabilities if name[:3] == "com"]
        # Machine code runs on its own generation, from its own revision on.
        if any(v[0] == capability[0] and v <= capability for v in ready):
            return "ready"
        return "compiled" if any(v <= capability for v in source) else "none"


def _version(capability: str) -> tuple[int, int]:
    digits = "".join(filter(str.isdigit, capability.partition("_")[2]))
    return divmod(int(digits or 0), _CAPABILITY_DIGITS)


def read_build() -> Build:
    """Look at the installed TensorFlow without importing it."""
    folder = package_folder("tensorflow")
    if folder is None:
        return Build()
    try:
        info = _info((folder / _BUILD_INFO).read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, TypeError):
        return Build(folder=str(folder))
    cuda = str(info.get("cuda_version", "unknown")) if info.get("is_cuda_build") else ""
    told = tuple(map(str, info.get("cuda_compute_capabilities", ())))
    return Build(folder=str(folder), cuda=cuda, told=True, capabilities=told)


def package_folder(name: str) -> Path | None:
    """Return a package's folder without importing it; ``None`` if there is none."""
    return next(iter(package_folders(name)), None)


def package_folders(name: str) -> list[Path]:
    """Find all folders of a package, of which one without ``__init__`` has several."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(place) for place in spec.submodule_search_locations]


def _info(text: str) -> dict[str, Any]:
    """Take the table out of the module's text, which is written by TensorFlow's build.

    Raises:
        ValueError, SyntaxError: it is not there.
    """
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = [
                target.id for target in node.targets if isinstance(target, ast.Name)
            ]
            if names == ["build_info"] and node.value.args:
                return dict(ast.literal_eval(node.value.args[0]))
    raise ValueError("no build_info")
