"""The browser of the tests: one that dies does so in one test only."""

import os
import signal
from contextlib import ExitStack

import pytest

from support.browser import watching
from support.servers import children, command

pytestmark = pytest.mark.real


def driver():
    """Process id of the browser's driver, which this process started."""
    (pid,) = (pid for pid in children(os.getpid()) if b"run-driver" in command(pid))
    return pid


def chromiums():
    """Process ids of the browsers that the driver started."""
    return [pid for pid in children(driver()) if b"--no-sandbox" in command(pid)]


@pytest.mark.parametrize(
    "processes", [chromiums, lambda: [driver()]], ids=["it", "driver"]
)
def test_a_browser_that_died_is_started_anew(browser, processes):
    """The window that was open is lost, and the next one works."""
    lost = browser.new_context().new_page()
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(Exception, match="closed"):
        lost.wait_for_timeout(60_000)
    page = browser.new_context().new_page()
    page.set_content("<title>anew</title>")
    assert page.title() == "anew"


def test_a_window_in_which_something_went_wrong_is_closed_too(browser):
    """All windows are closed, whatever went wrong in one of them, and that is told."""
    with ExitStack() as stack:
        watch = stack.enter_context(watching(browser))
        opened = [watch("http://127.0.0.1:1") for _ in range(2)]
        opened[1].page.evaluate("console.error('it went wrong')")
        with pytest.raises(AssertionError, match="it went wrong"):
            stack.close()
    assert all(watched.page.is_closed() for watched in opened)
