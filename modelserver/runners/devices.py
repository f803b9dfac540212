"""Which GPUs this process may use, without importing TensorFlow."""

from __future__ import annotations

import os

import pynvml


def visible_gpus() -> tuple[str, ...]:
    """Name the usable GPUs as ``CUDA_VISIBLE_DEVICES`` would; empty without a driver.

    An operator's own ``CUDA_VISIBLE_DEVICES`` is obeyed: its entries are the answer,
    as far as the driver has devices at all.
    """
    count = _count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or count == 0:
        return tuple(str(index) for index in range(count))
    entries = [entry.strip() for entry in chosen.split(",")]
    # CUDA itself stops at the first entry that names no device.
    usable = []
    for entry in entries:
        if not entry or entry == "-1" or (entry.isdigit() and int(entry) >= count):
            break
        usable.append(entry)
    return tuple(usable)


def memory_by_process() -> dict[int, int]:
    """Return the bytes that each process holds on all GPUs together, by process id.

    Empty where the driver does not tell; in a container it may tell of other ids.
    """
    held: dict[int, int] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return held
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                held[one.pid] = held.get(one.pid, 0) + (one.usedGpuMemory or 0)
    except pynvml.NVMLError:
        return held
    finally:
        pynvml.nvmlShutdown()
    return held


def _count() -> int:
    """Return how many GPUs the NVIDIA driver knows; 0 where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    finally:
        pynvml.nvmlShutdown()
