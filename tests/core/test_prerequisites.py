"""Imports at the start: what Ctrl-C does meanwhile."""

import signal

import pytest

from modelserver.core.prerequisites import checked


@pytest.fixture
def interrupts():
    """A function that sets the handler of SIGINT for this test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_imports_without_a_traceback(interrupts):
    """The system ends the process; afterwards Python raises again."""
    interrupts(signal.default_int_handler)
    with checked():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_who_handles_or_ignores_ctrl_c_is_left_alone(handler, interrupts):
    """As a shell does for a program in the background, and gunicorn for its workers."""
    interrupts(handler)
    with checked():
        assert signal.getsignal(signal.SIGINT) == handler
    assert signal.getsignal(signal.SIGINT) == handler
