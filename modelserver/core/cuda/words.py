"""The meaning of messages of TensorFlow, CUDA and its libraries.

TensorFlow has one class of errors for a full card and for a lost one, and for some
things that a graph is at fault for, so the words decide. They are those of TensorFlow
2.21's libraries and of CUDA's headers.
"""

from __future__ import annotations

import re
from typing import Literal

Fault = Literal["memory", "lost", ""]

# cuDNN and cuBLAS cannot make their handles mostly because memory is short.
_MEMORY = re.compile(
    r"ALLOC_FAILED|OUT_OF_MEMORY|MemoryAllocation|out of memory|OOM when|"
    r"failed to alloc(?:ate)?\b|could not allocate|unable to allocate|"
    r"(?:Dst|Src) tensor is not initialized|ran out of memory|scratch (?:space|memory)|"
    r"Exceeded memory limit|DNN library initialization failed|"
    r"create c\w+ handle|STATUS_NOT_INITIALIZED|cu\w+Create\(.*STATUS",
    re.IGNORECASE,
)
# A library or the driver refuses a bad request so: a graph's fault, after which the
# card works as before.
_REFUSED = re.compile(
    r"NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE|InvalidValue|LAUNCH_OUT_OF_RESOURCES|"
    r"LaunchOutOfResources|ARCH_MISMATCH|MATRIX_TYPE|RUNTIME_PREREQUISITE"
)
_LOST = re.compile(
    r"CUDA_ERROR_|cudaError|cuda\w+\(\) failed|CU(?:DNN|BLAS|SOLVER|SPARSE|FFT)_|"
    r"CUDA error|GPU sync failed|synchronize CUDA|unspecified launch failure|"
    r"illegal memory access|illegal instruction|misaligned address|uncorrectable|"
    r"device-side assert|no kernel image|invalid device context|"
    r"invalid resource handle|fallen off the bus|GPU is lost|[Ff]ailed call to cu|"
    r"Unexpected Event status"
)
# "W0000 00:00:1795 2789 gpu_device.cc:2365] ..." and the older
# "2026-11-28 19:00:00.1: W tensorflow/core/...cc:2365] ...".
_LINE = re.compile(r"^(?:[^\]]*: )?[WEF](?:\d{4}| )[^\]]*\.\w+:\d+\] (.*)$")
_ABOUT_CARDS = re.compile(
    r"gpu|cuda|nvidia|nvml|cudnn|cublas|dlopen|driver|compute capabilit", re.IGNORECASE
)
# Said at every import, or only that a library is registered twice.
_NOISE = re.compile(r"Unable to register|computation placer|TF-TRT|cpu_feature_guard")
_MOST = 300


def fault(words: str) -> Fault:
    """Return the meaning of an error's words: full memory, a lost card, or neither."""
    if _MEMORY.search(words):
        return "memory"
    return "lost" if _LOST.search(words) and not _REFUSED.search(words) else ""


def about_cards(line: str) -> str:
    """Return the warning about cards in a printed line; empty for any other line."""
    match = _LINE.match(line)
    if not match or not _ABOUT_CARDS.search(line) or _NOISE.search(line):
        return ""
    return match[1].strip()[:_MOST]
