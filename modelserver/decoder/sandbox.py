"""The walls around a process that decodes strangers' images.

A decoder that an image has taken over can compute, answer, and change pixels that it
decoded itself. It cannot open files, make sockets or processes, run programs, or have
memory without end. The filter lists the system calls that a warm decoder makes, by
their numbers on x86_64 and aarch64; elsewhere only the limits hold.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import sys
from itertools import chain
from typing import NamedTuple

# linux/prctl.h and linux/seccomp.h
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# linux/bpf_common.h: load a word, jump if equal, jump if any bit is set, return.
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
# struct seccomp_data: the call's number, the machine's, the low half of an argument.
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ARGUMENT_BYTES = 8
# x86_64's second set of numbers, x32.
_X32 = 0x40000000
_CLONE_THREAD, _PROT_EXEC = 0x10000, 4
_F_DUPFD_CLOEXEC = 1030
_AT_EMPTY_PATH = 0x1000

# A decoder's socket, an upload, its mapping's own, the null device three times.
_MOST_FILES = 16


class _Calls(NamedTuple):
    """A machine's numbers of system calls (asm/unistd.h).

    Attributes:
        machine: as the kernel names it in linux/audit.h.
        always: allowed with any arguments: memory, threads and clocks, the messages of
            sockets that are there, a descriptor's size and end, the process's own end.
    """

    machine: int
    always: dict[str, int]
    newfstatat: int
    mmap: int
    mprotect: int
    fcntl: int
    clone: int
    clone3: int


_X86_64 = _Calls(
    machine=0xC000003E,
    always={
        "close": 3, "fstat": 5, "lseek": 8, "pread64": 17,
        "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131,
        "sched_yield": 24, "nanosleep": 35, "clock_nanosleep": 230,
        "clock_gettime": 228, "clock_getres": 229, "gettimeofday": 96,
        "getpid": 39, "gettid": 186, "getcpu": 309, "sched_getaffinity": 204,
        "sendto": 44, "sendmsg": 46, "recvfrom": 45, "recvmsg": 47,
        "futex": 202, "set_robust_list": 273, "rseq": 334, "getrandom": 318,
        "restart_syscall": 219, "exit": 60, "exit_group": 231,
    },
    newfstatat=262, mmap=9, mprotect=10, fcntl=72, clone=56, clone3=435,
)  # fmt: skip
_AARCH64 = _Calls(
    machine=0xC00000B7,
    always={
        "close": 57, "fstat": 80, "lseek": 62, "pread64": 67,
        "munmap": 215, "brk": 214, "mremap": 216, "madvise": 233,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132,
        "sched_yield": 124, "nanosleep": 101, "clock_nanosleep": 115,
        "clock_gettime": 113, "clock_getres": 114, "gettimeofday": 169,
        "getpid": 172, "gettid": 178, "getcpu": 168, "sched_getaffinity": 123,
        "sendto": 206, "sendmsg": 211, "recvfrom": 207, "recvmsg": 212,
        "futex": 98, "set_robust_list": 99, "rseq": 293, "getrandom": 278,
        "restart_syscall": 128, "exit": 93, "exit_group": 94,
    },
    newfstatat=79, mmap=222, mprotect=226, fcntl=25, clone=220, clone3=435,
)  # fmt: skip
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def enter(memory_bytes: int) -> bool:
    """Shut this process in, for good.

    Args:
        memory_bytes: address space that it may take beyond what it has.

    Returns:
        Whether the system's calls are filtered, too, and not only memory and files
        limited.
    """
    _limit(memory_bytes)
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    calls = _MACHINES.get(platform.machine())
    # A process of 32 bits has other numbers.
    if calls is None or sys.maxsize < 1 << 32:
        return False
    return _filter(libc, _program(calls))


def _limit(memory_bytes: int) -> None:
    mapped = _mapped_bytes()
    if mapped:
        limit = mapped + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
    ):
        resource.setrlimit(what, (most, most))


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - nothing else is asked
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


class _Step(NamedTuple):
    """An instruction; a jump goes so many steps further if it holds, or if not."""

    code: int
    if_so: int
    if_not: int
    value: int


def _program(calls: _Calls) -> list[_Step]:
    """Return the filter: each call is allowed, or fails with EPERM."""
    refuse = _Step(_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = _Step(_RETURN, 0, 0, _ALLOW)
    missing = _Step(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    head = [
        _Step(_LOAD, 0, 0, _MACHINE),
        _Step(_EQUAL, 1, 0, calls.machine),
        refuse,
        _Step(_LOAD, 0, 0, _NUMBER),
        _Step(_ANY_BIT, 0, 1, _X32),
        refuse,
    ]
    plain = chain.from_iterable(
        (_Step(_EQUAL, 0, 1, number), allow) for number in calls.always.values()
    )
    return [
        *head,
        *plain,
        # The C library then calls clone, whose flags can be read here.
        *(_Step(_EQUAL, 0, 1, calls.clone3), missing),
        *_only_if(calls.clone, 0, _Step(_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse),
        *_only_if(calls.mmap, 2, _Step(_ANY_BIT, 1, 0, _PROT_EXEC), allow, refuse),
        *_only_if(calls.mprotect, 2, _Step(_ANY_BIT, 1, 0, _PROT_EXEC), allow, refuse),
        # Of a descriptor, not of a path.
        *_only_if(
            calls.newfstatat, 3, _Step(_ANY_BIT, 0, 1, _AT_EMPTY_PATH), allow, refuse
        ),
        *_only_if(calls.fcntl, 1, _Step(_EQUAL, 0, 1, _F_DUPFD_CLOEXEC), allow, refuse),
        refuse,
    ]


def _only_if(
    number: int, argument: int, test: _Step, allow: _Step, refuse: _Step
) -> list[_Step]:
    """Return the steps for a call that one of its arguments decides about."""
    at = _FIRST_ARGUMENT + _ARGUMENT_BYTES * argument
    return [_Step(_EQUAL, 0, 4, number), _Step(_LOAD, 0, 0, at), test, allow, refuse]


class _Filter(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def _filter(libc: ctypes.CDLL, program: list[_Step]) -> bool:
    data = b"".join(
        step.code.to_bytes(2, sys.byteorder)
        + bytes((step.if_so, step.if_not))
        + step.value.to_bytes(4, sys.byteorder)
        for step in program
    )
    steps = ctypes.create_string_buffer(data, len(data))
    whole = _Filter(len(program), ctypes.cast(steps, ctypes.c_void_p))
    return not libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0
    )
