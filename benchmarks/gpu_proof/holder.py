"""A process that takes a card's memory, as another program would.

    python -m benchmarks.gpu_proof.holder FREE_MIB

Takes all but so much of the first card that it may see, says how much in MiB on a line,
and holds it until its stdin ends. It uses CUDA's runtime library by ctypes, no more.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from modelserver.core import cuda

MIB = 1024 * 1024
_PART = 256 * MIB
_NAME = "libcudart.so"


def runtime() -> Any:
    """Open CUDA's runtime library, from where TensorFlow would take it.

    Raises:
        SystemExit: there is none.
    """
    found = [one for one in cuda.survey().libraries if one.name.startswith(_NAME)]
    for one in found:
        try:
            return ctypes.CDLL(one.path or one.name)
        except OSError as error:
            raise SystemExit(f"{one.name} cannot be opened: {error}") from error
    raise SystemExit("This TensorFlow was built without CUDA.")


def take(library: Any, free_mib: int) -> int:
    """Allocate until only so much is free; returns the MiB that were taken.

    Raises:
        SystemExit: the card cannot be asked.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    if code:
        raise SystemExit(f"cudaMemGetInfo fails with {code}.")
    taken, part = 0, _PART
    while (left := free.value - free_mib * MIB - taken) > MIB and part >= MIB:
        pointer, size = ctypes.c_void_p(), min(part, left)
        if library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)):
            part //= 2
        else:
            taken += size
    return taken // MIB


def main() -> None:
    """Hold a card's memory until stdin ends."""
    sys.stdout.write(f"{take(runtime(), int(sys.argv[1]))}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
