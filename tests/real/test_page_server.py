"""The page on a server as an operator starts it: gunicorn, our worker, a runner."""

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import Watched, chromium
from support.servers import started
from support.tiny_graphs import write

pytestmark = pytest.mark.real


def test_the_page_works_on_the_real_server(folder, uploads, tmp_path):
    """Every file of it comes whole over kept connections, and a photo is answered."""
    write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }\n')
    places = {"folder": folder, "uploads": uploads, "tmp_path": tmp_path}
    with chromium() as browser, started("app.py", **places) as server:
        server.wait()
        watched = Watched(browser.new_context(), server.url)
        watched.page.on("requestfailed", lambda one: watched.wrongs.append(one.url))
        watched.open()
        watched.choose(("photo.png", photo((200, 100, 50), (640, 480))))
        assert watched.page.locator("tbody th").first.text_content() == "red"
        stages = watched.page.locator(".timings dt").all_text_contents()
        assert stages == ["wait", "decode", "queue", "run", "post", "other", "network"]
        watched.close()
