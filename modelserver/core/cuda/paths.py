"""``LD_LIBRARY_PATH``, whose folders go before those that TensorFlow's wheels name."""

from __future__ import annotations

import os
from pathlib import Path

# What the CUDA toolkit and cuDNN bring; a folder of the driver alone has none of it.
_TOOLKIT = ("libcudart.so*", "libcublas.so*", "libcudnn.so*", "libcusolver.so*")
_MORE = ("libcufft.so*", "libcusparse.so*", "libnvJitLink.so*", "libnvrtc.so*")
_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")


def without_cuda(search: str) -> tuple[str, list[str]]:
    """Take the folders of a system's CUDA out of a search path.

    One that holds the driver, too, stays: without it there is no card.

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
        if any((folder / name).exists() for name in _DRIVER):
            return False
        return any(any(folder.glob(name)) for name in (*_TOOLKIT, *_MORE))
    except OSError:
        return False
