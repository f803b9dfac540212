"""Stand-ins for a process that the arbiter keeps, and for its clock."""

import os
import socket
import subprocess


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Process:
    """Stands for a started process; knows what it was given.

    Attributes:
        started: all of a test, which sets it.
        waited: how long its end was waited for, each time.
    """

    started = ()

    def __init__(self, command, pass_fds, **options):
        self.command, self.options = command, options
        self.pid, self.returncode, self.killed = 77, None, False
        self.waited = []
        # As a child does, it has descriptors of its own.
        self.control = socket.socket(fileno=os.dup(pass_fds[2]))
        self.control.settimeout(10)
        Process.started.append(self)

    def poll(self):
        """Return how it ended."""
        return self.returncode

    def die(self, code):
        """End."""
        self.returncode = code
        self.control.close()

    def wait(self, timeout=None):
        """End as soon as the arbiter has closed its end, unless it hangs."""
        self.waited.append(timeout)
        if self.returncode is None:
            if timeout is not None and self.options["env"].get("HANGS"):
                raise subprocess.TimeoutExpired(self.command, timeout)
            assert self.killed or self.control.recv(10) == b""
            self.die(0)
        return self.returncode

    def kill(self):
        """Note the kill."""
        self.killed = True
