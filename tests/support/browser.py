"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright."""

import shutil
import threading
from contextlib import contextmanager

import pytest
from werkzeug.serving import make_server

from support import apps
from support.app_client import SECONDS, left_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A camera that shows a pattern, and a sandbox only where there can be one: in a
# container the user is root, for whom Chromium has none.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


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


@contextmanager
def chromium(*arguments):
    """Start the browser with more arguments; skips where it or its driver is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
    if CHROMIUM is None:
        pytest.skip("chromium is not here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*ARGUMENTS, *arguments],
            timeout=SECONDS * 1000,
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watching(browser):
    """Give a function that opens a window on a server; nothing goes wrong in any."""
    every = []

    def watch(url, **look):
        every.append(Watched(browser.new_context(**look), url))
        return every[-1]

    yield watch
    for watched in every:
        watched.page.context.close()
        assert watched.wrongs == []


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
