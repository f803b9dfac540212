"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright."""

import shutil
import threading
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from werkzeug.serving import make_server

from support import apps
from support.app_client import SECONDS, left_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A camera that shows a pattern, and a sandbox only where there can be one: in a
# container the user is root, for whom Chromium has none. On a slow machine a watchdog
# would end the process that draws, and in the end the browser.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu-watchdog",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


# What scrolls, and no key can reach to scroll it.
UNREACHED = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.checkVisibility() && one.tabIndex < 0)
  .filter((one) => /auto|scroll/.test(getComputedStyle(one).overflow))
  .filter((one) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight)
  .filter((one) => !one.querySelector("a[href], button, input, select, summary, [tabindex]"))
  .map((one) => one.outerHTML.slice(0, 80))"""


@contextmanager
def served(kinds, folder, uploads, **environ):
    """Serve models over HTTP from this process, once none loads any more; gives a URL."""
    with apps.loaded(kinds.split(), folder, uploads, **environ) as app:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, name="page")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    assert left_in(uploads) == []


class Browser:
    """Chromium and its driver, started again for the next window if they have died.

    The test in which they die fails, and only that one.
    """

    def __init__(self, *arguments):
        self._arguments = [*ARGUMENTS, *arguments]
        self._ends = ExitStack()
        self._chromium = None

    def new_context(self, **look):
        """Open a profile of its own, in which waits last as long as on a slow machine."""
        api = pytest.importorskip(
            "playwright.sync_api", reason="playwright is not here"
        )
        if CHROMIUM is None:
            pytest.skip("chromium is not here")
        try:
            context = self._started(api).new_context(**look)
        except api.Error:  # only now it is noticed
            self.close()
            context = self._started(api).new_context(**look)
        context.set_default_timeout(SECONDS * 1000)
        return context

    def _started(self, api):
        if self._chromium is not None:
            return self._chromium
        with ExitStack() as ends:
            playwright = ends.enter_context(api.sync_playwright())
            self._chromium = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=self._arguments,
                timeout=SECONDS * 1000,
            )
            ends.callback(_close, api, self._chromium)
            self._ends = ends.pop_all()
        return self._chromium

    def close(self):
        """End both, alive or not."""
        self._chromium = None
        self._ends.close()


def _close(api, browser):
    with suppress(api.Error):  # it is dead
        browser.close()


@contextmanager
def chromium(*arguments):
    """Give a browser with more arguments; skips where it or its driver is not installed."""
    with closing(Browser(*arguments)) as browser:
        yield browser


@contextmanager
def watching(browser):
    """Give a function that opens a window on a server; nothing goes wrong in any."""
    with ExitStack() as windows:

        def watch(url, **look):
            watched = Watched(browser.new_context(**look), url)
            windows.callback(watched.close)
            return watched

        yield watch


class Watched:
    """A page of the browser with all that must not happen, noted.

    Attributes:
        page: Playwright's.
        wrongs: dialogs, errors of the console and of scripts, requests elsewhere.
        asked: method and path of each request to the server, in order.
        done: Playwright's requests that were answered.
    """

    def __init__(self, context, url):
        self.url = url
        self.page = context.new_page()
        self.wrongs = []
        self.asked = []
        self.done = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrongs.append(str(error)))
        self.page.on("dialog", self._opened)
        self.page.on("request", self._requested)
        self.page.on("requestfinished", self._finished)

    def _said(self, message):
        # Chromium notes each answer that is an error by itself.
        expected = message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not expected:
            self.wrongs.append(message.text)

    def _opened(self, dialog):
        self.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request):
        url = request.url
        if url.startswith(self.url + "/"):
            self.asked.append((request.method, url.removeprefix(self.url)))
        elif not url.startswith(("blob:", "data:")):
            self.wrongs.append(f"request: {url}")

    def _finished(self, request):
        self.done.append(request)

    def open(self, path="/"):
        """Go to a page of the server."""
        self.page.goto(self.url + path)
        return self.page

    def close(self):
        """Close the window; nothing had gone wrong in it until then."""
        try:
            self.page.evaluate("0")  # word of what went wrong comes before the answer
            wrongs = [*self.wrongs]
        finally:
            self.page.context.close()
        assert wrongs == [], wrongs

    def choose(self, *files):
        """Choose photos, each a name and bytes, and wait for the shown one's answer."""
        self.page.locator("#file").set_input_files(
            [
                {"name": name, "mimeType": "image/png", "buffer": data}
                for name, data in files
            ]
        )
        self.page.locator(".result .side :is(table, .problem)").first.wait_for(
            state="attached"
        )

    def posts(self):
        """How many photos were sent."""
        return sum(method == "POST" for method, _ in self.asked)
