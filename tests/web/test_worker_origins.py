"""Answers to requests that were not read, for the pages of other sites."""

import socket
from types import SimpleNamespace

import pytest
from gunicorn.http.errors import InvalidRequestLine

from modelserver.core.errors import Overloaded
from modelserver.tasks import DETECTION
from modelserver.web.backend import Backend
from modelserver.web.link import LocalLink
from modelserver.web.origins import Origins
from support.app_client import make_settings
from support.worker_loops import PHOTO, make

__all__ = ["make"]  # a fixture

ONE, OTHER = "https://a.example", "http://localhost:3000"


def headers(answer):
    """Return an answer's headers for pages of other sites."""
    head, _, _ = answer.decode().partition("\r\n\r\n")
    fields = [line.partition(": ") for line in head.split("\r\n")[1:]]
    wanted = ("Access-Control-", "Vary")
    return {name: value for name, _, value in fields if name.startswith(wanted)}


def unread_headers(*origins):
    """Return those headers for an answer to an unread request."""
    lines = Origins(origins).unread_headers()
    return headers(f"HTTP/1.1 503 No\r\n{lines}\r\n".encode())


def test_the_pages_of_all_sites_read_what_was_refused_unread():
    """Pages of all sites can read a refusal and Retry-After."""
    found = unread_headers("*")
    assert found["Access-Control-Allow-Origin"] == "*"
    assert "Retry-After" in found["Access-Control-Expose-Headers"]
    assert "Vary" not in found


def test_the_pages_of_the_one_site_do_too():
    """The one allowed site's pages can read a refusal."""
    found = unread_headers(ONE)
    assert found["Access-Control-Allow-Origin"] == ONE
    assert found["Vary"] == "Origin"
    assert "Retry-After" in found["Access-Control-Expose-Headers"]


def test_without_sites_nothing_is_told_to_any():
    """Without allowed sites there is no such header."""
    assert Origins(()).unread_headers() == ""


@pytest.mark.parametrize(("origins", "refused"), [("", True), (ONE, True), ("*", True)])
def test_whoever_can_read_a_refusal_is_refused_unread(origins, refused, monkeypatch):
    """With one site, all or none, a photo is refused unread."""
    assert (refusal(monkeypatch, origins) is not None) == refused


def test_where_the_origin_must_be_read_nobody_is_refused_unread(monkeypatch):
    """With several sites no photo is refused unread."""
    assert refusal(monkeypatch, f"{ONE},{OTHER}") is None


def refusal(monkeypatch, origins):
    """Return the backend's refusal of a photo while every model is full."""
    queue = SimpleNamespace(inside=0, refusal=lambda _coming: Overloaded())
    full = SimpleNamespace(queue=queue)
    entry = type("Entry", (), {"state": None, "loaded": full})
    backend = Backend([DETECTION], make_settings(CORS_ORIGINS=origins))
    monkeypatch.setattr(backend.engine, "registry", [entry])
    link = LocalLink(backend.engine)
    monkeypatch.setattr(backend, "_link", link)
    try:
        return backend.refusal(0)
    finally:
        backend.engine.loop.stop()


def test_the_main_loop_sends_them(make):
    """The main loop's refusals and errors have the headers."""
    loop = make()
    loop.wsgi.unread_headers = Origins((ONE,)).unread_headers()
    loop.wsgi.refuses = Overloaded(2.5)
    answer = loop.come(PHOTO).recv(2000)
    assert b"\r\nRetry-After: 3\r\n" in answer
    assert headers(answer) == unread_headers(ONE)
    assert headers(unreadable(loop)) == unread_headers(ONE)


def test_with_several_sites_what_cannot_be_read_is_answered_all_the_same(make):
    """An unreadable request is answered without them."""
    loop = make()
    loop.wsgi.unread_headers = Origins((ONE, OTHER)).unread_headers()
    answer = unreadable(loop)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert headers(answer) == {}


def unreadable(loop):
    """Return the answer to an unreadable request."""
    here, there = socket.socketpair()
    with here, there:
        loop.handle_error(None, here, ("127.0.0.1", 1), InvalidRequestLine("x"))
        return there.recv(2000)
