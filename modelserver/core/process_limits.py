"""Limits on a model's process, and its use of memory.

While a graph loads, its process limits itself: an allocation beyond fails at once, so a
graph that asks for everything brings neither the machine nor its neighbours down. The
limit is on address space, which the kernel enforces at once; it is lifted after the
warm-up, because memory allocators reserve more than they use. From then on the engine
looks at the memory in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserver.core.messages import Job

MIB = 1 << 20
# What gunicorn's arbiter obeys, but for SIGQUIT, by which any process can be ended.
_FOR_THE_ARBITER = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTTIN, signal.SIGTTOU),
)
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# malloc.h
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20
# Many times the need of TensorFlow and a small graph; a graph is held about three times
# while it is read, compared and started.
_BASE_MB, _COPIES = 4096, 3
# Every run side by side has tensors of its own.
_SLOT_MB = 1024
# Address space that a thread takes without using it: its stack and glibc's arena.
_THREAD_BYTES = 72 * MIB
# The most that CUDA_CACHE_MAXSIZE allows.
_CACHE_BYTES = 4096 * MIB


def load_limit(job: Job) -> int:
    """Return the bytes that a process may use until its model is warm."""
    return _chosen(job) or _BASE_MB * MIB + _COPIES * _size(job.graph)


def serving_limit(job: Job, slots: int) -> int:
    """Return the bytes that a process may use while it runs ``slots`` images."""
    return _chosen(job) or load_limit(job) + slots * _SLOT_MB * MIB


def _chosen(job: Job) -> int:
    return job.memory_mb * MIB


def _size(path: str) -> int:
    """Return a file's bytes; 0 for one that is gone, of which the loader complains."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def private_bytes(pid: int) -> int:
    """Return the memory that only this process uses; 0 if that cannot be read.

    Neither the photos, which are shared with the engine, nor TensorFlow's code count.
    """
    _, resident, shared = _statm(pid)
    return resident - shared


def resident_bytes(pid: int) -> int | None:
    """Return the memory that a process uses; ``None`` if that cannot be read."""
    return _statm(pid)[1] or None


def _statm(pid: int | str) -> tuple[int, int, int]:
    """Return a process's bytes: mapped, resident, and those of them that are shared."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:  # it is gone, or this is no Linux
        return 0, 0, 0
    mapped, resident, shared = (
        int(count) * resource.getpagesize() for count in pages[:3]
    )
    return mapped, resident, shared


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    If the engine is killed while this process is stopped, nothing in it could notice.
    Linux only: elsewhere it ends once it is continued.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def ignore_signals() -> None:
    """Ignore what is meant for the arbiter and is sent to a whole group.

    A terminal and a service manager do so, and an operator by ``systemctl kill``.
    """
    for number in _FOR_THE_ARBITER:
        signal.signal(number, signal.SIG_IGN)


def forbid_core_dumps() -> None:
    """Let no crash of this process fill a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_loading(nbytes: int) -> None:
    """Limit this process to so much more address space, and to writing no file.

    For a process that runs on a CPU: CUDA reserves address space by the terabyte and
    keeps compiled kernels in files.
    """
    _set_soft(resource.RLIMIT_FSIZE, 0)
    mapped = _statm("self")[0]
    threads = os.cpu_count() or 1
    if mapped:
        _set_soft(resource.RLIMIT_AS, mapped + nbytes + threads * _THREAD_BYTES)


def limit_files() -> None:
    """Limit the files this process writes to the size of CUDA's cache of kernels.

    For a process that runs on a card: CUDA keeps compiled kernels in files.
    """
    _set_soft(resource.RLIMIT_FSIZE, _CACHE_BYTES)


def lift_loading() -> None:
    """Take the limit on address space back; files stay forbidden."""
    _lift(resource.RLIMIT_AS)


def lift_all() -> None:
    """Lift all limits of ``limit_loading``, for a process that is about to exit.

    A profiler may write files then.
    """
    _lift(resource.RLIMIT_AS)
    _lift(resource.RLIMIT_FSIZE)


def _lift(what: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (hard, hard))


def _set_soft(what: int, value: int) -> None:
    """Set a limit that can be lifted, or leave a lower one of the operator's."""
    soft, hard = resource.getrlimit(what)
    if soft == resource.RLIM_INFINITY or value < soft:
        resource.setrlimit(what, (value, hard))


def give_freed_memory_back() -> None:
    """Have malloc give large blocks back to the system when they are freed.

    glibc raises its limit for that with each one it frees, up to 32 MB, and keeps
    smaller ones: after a burst of large photos some gigabytes, for good.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
