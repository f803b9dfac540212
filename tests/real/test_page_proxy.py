"""The page behind the shipped nginx, in a real browser, under a name and on any port."""

from urllib.parse import urlsplit

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import Watched, chromium, served
from support.nginx import NGINX, nginx
from support.tiny_graphs import write

pytestmark = pytest.mark.real

# Neither an address nor localhost: over plain HTTP browsers tell nothing else than
# Origin of the page that sends a photo.
NAME = "box.example"


@pytest.fixture
def proxy(tmp_path, folder, uploads):
    """Nginx on a free port, before a detection app that answers to a name."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    with (
        served("detection", folder, uploads, TRUSTED_HOSTS=NAME) as url,
        nginx(tmp_path, urlsplit(url).port) as proxy,
    ):
        yield proxy


def test_the_page_sends_photos_through_the_proxy_on_any_port(proxy):
    """The server sees the port in Host, so the page's Origin is its own."""
    assert proxy.port != 80
    with chromium(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as browser:
        watched = Watched(browser.new_context(), f"http://{NAME}:{proxy.port}")
        sent = []
        watched.page.on(
            "response", lambda it: sent.append((it.request.method, it.status))
        )
        watched.open()
        watched.choose(("x.png", photo((200, 100, 50), (64, 48))))
        assert ("POST", 200) in sent
        assert "POST" not in {method for method, status in sent if status != 200}
        watched.close()
