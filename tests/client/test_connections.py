"""What the clients do with httpx."""

import asyncio

import httpx
import pytest

from modelserver.client import AsyncClient, Client, connections
from support.bench_servers import stand_in

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Nothing of this machine's environment."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def options(url):
    """What the transport to a server is made with."""
    return connections.Server.of(url, None, 1.0).options()


def test_certificates_are_read_for_tls_only():
    """Reading certificates takes longer than some models, so plain HTTP skips it."""
    assert "verify" in options("http://h")
    assert "verify" not in options("https://h")


def test_the_environments_proxy_is_used(monkeypatch):
    """The client uses the environment's proxy, unless the server is excepted from it."""
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,near.test")
    assert options("http://far.test")["proxy"] == "http://proxy:3128"
    assert "proxy" not in options("https://far.test")
    assert "proxy" not in options("http://near.test:5000")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_request_goes_through_the_proxy(monkeypatch, kind):
    """The proxy gets the server's whole address."""
    with stand_in() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        if kind is Client:
            with Client("http://far.test:5000") as client:
                client.detect("net", b"photo")
        else:

            async def ask():
                async with AsyncClient("http://far.test:5000") as client:
                    await client.detect("net", b"photo")

            asyncio.run(ask())
        assert proxy.posts[0][0] == "http://far.test:5000/detect"


def test_timeouts_are_for_each_step_but_a_free_connection():
    """Threads that share a client do not wait for each other."""
    server = connections.Server.of("http://h", None, 2.5)
    timeout = server.extensions["timeout"]
    assert timeout == {"connect": 2.5, "read": 2.5, "write": 2.5, "pool": None}
    assert options("http://h")["limits"].max_connections is None


@pytest.mark.parametrize("url", ["http://h:80/a?b#c", "http://h/a/"])
def test_only_host_and_path_of_a_url_count(url):
    """A query or a slash at the URL's end is dropped, so it does not end up in the middle."""
    assert connections.Server.of(url, None, 1.0).url == httpx.URL("http://h/a")
