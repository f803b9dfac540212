"""What the driver, the kernel and ``/dev`` show of cards. Linux only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pynvml

_ASK_S = 60.0
_QUERY = "index,name,uuid,driver_version,compute_cap,memory.total,mig.mode.current"
MIB = 1024 * 1024


def shown(root: Path = Path("/")) -> dict[str, Any]:
    """Return what there is: nvidia-smi's lines, device names, nodes with their rights.

    Args:
        root: of the file system.
    """
    devices = root / "proc" / "devices"
    lines = devices.read_text().splitlines() if devices.exists() else []
    nodes = [*(root / "dev").glob("nvidia*"), *(root / "dev").glob("dxg")]
    version = root / "proc" / "driver" / "nvidia" / "version"
    return {
        "nvidia-smi": smi(f"--query-gpu={_QUERY}", "--format=csv,noheader"),
        "kernel module": version.read_text().strip() if version.exists() else "",
        "/proc/devices": [line.strip() for line in lines if "nvidia" in line],
        "/dev": {
            path.name: rights(path) for path in sorted(nodes) if not path.is_dir()
        },
    }


def smi(*arguments: str) -> list[str]:
    """Ask nvidia-smi; what it says instead of an answer where it fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"failed: {error}"]
    lines = done.stdout.splitlines()
    return lines if done.returncode == 0 else [f"failed: {done.returncode}", *lines]


def rights(path: Path) -> str:
    """Return a node's mode, and whether this user may read and write it."""
    usable = os.access(path, os.R_OK | os.W_OK)
    return f"{path.stat().st_mode & 0o777:o}, {'usable' if usable else 'NOT usable'}"


def held(pids: set[int] | None = None) -> int | None:
    """Return MiB held on all cards, by some processes or by everybody.

    ``None`` where the driver does not tell, as of processes in some containers.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        total = 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if pids is None:
                total += int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
                continue
            for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                total += (one.usedGpuMemory or 0) if one.pid in pids else 0
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return total // MIB
