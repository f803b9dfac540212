"""A template whose decoders do what a photo's first bytes say.

Started as ``python -m support.hostile_decoder``; other photos are decoded as usual.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from modelserver.core.errors import UndecodableImage
from modelserver.decoder import jobs, process


def _try(action):
    try:
        action()
    except (OSError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "done"


def _burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _tricks():
    """Try all that a decoder must not do; return what came of each."""
    tries = {
        "open": lambda: Path("/etc/passwd").read_bytes(),
        "write": lambda: Path("/tmp/decoder-was-here").write_text("x"),  # noqa: S108
        "list": lambda: list(Path("/").iterdir()),
        "stat": lambda: os.stat("/etc/passwd"),  # noqa: PTH116
        "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "pair": socket.socketpair,
        "fork": lambda: os.fork() or os._exit(0),
        "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "spawn": lambda: subprocess.run(["/bin/true"], check=False),
        "kill": lambda: os.kill(os.getppid(), signal.SIGKILL),
        "memory": lambda: bytearray(1 << 40),
    }
    return " ".join(f"{name}={_try(action)}" for name, action in tries.items())


def hostile(data, *rest):
    """Do as a photo says."""
    word, _, argument = bytes(data[:40]).partition(b" ")
    if word == b"crash":
        ctypes.string_at(0)
    elif word == b"exit":
        os._exit(3)
    elif word == b"once":
        time.sleep(1000)
    elif word == b"sleep":
        time.sleep(float(argument))
    elif word == b"burn":
        _burn(float(argument))
    elif word == b"tricks":
        raise UndecodableImage(_tricks())
    elif word == b"eat":
        return bytearray(1 << 40)
    elif word == b"bug":
        raise KeyError("a bug")
    elif word == b"nonsense":
        connections[0].send(argument)
    return prepare(data, *rest)


class Recorded(process.Decoder):
    """A decoder whose socket a photo can get at."""

    def __init__(self, connection, memory_bytes):
        super().__init__(connection, memory_bytes)
        connections.append(connection)


connections = []
process.Decoder = Recorded


def refuse_forks(times):
    """Have the first forks fail."""
    fork, left = os.fork, iter(range(times))

    def refused():
        if next(left, None) is not None:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    os.fork = refused


prepare = jobs.prepare
jobs.prepare = hostile

if __name__ == "__main__":
    *options, connection = sys.argv[1:]
    for option in options:
        if option == "broken":
            sys.exit(1)
        refuse_forks(int(option.removeprefix("no-forks=")))
    process.main(int(connection))
