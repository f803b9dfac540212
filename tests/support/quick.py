"""The quick part of the tests: those that start no process and no browser.

``pytest --quick`` leaves the others out by their marks, and holds a test that is left
to it: starting a process fails there.
"""

import os
import sys

import pytest

LEFT_OUT = ("real", "slow", "process")
# What Python says to auditors when a process is started.
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}

_running = []


def _refuse(event, _arguments):
    # A child that was forked before is no concern of this process.
    if _running and event in _STARTS and os.getpid() == _running[0]:
        pytest.fail("it starts a process: mark it with pytest.mark.process")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Refuse processes while a test, its fixtures included, runs in quick mode."""
    if not item.config.getoption("--quick"):
        return (yield)
    _running.append(os.getpid())
    try:
        return (yield)
    finally:
        _running.clear()


def pytest_configure(config):
    """Listen to what this process does; an audit hook cannot be taken away."""
    if config.getoption("--quick"):
        sys.addaudithook(_refuse)
