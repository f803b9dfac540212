"""What the client's tests share: answers, and both clients behind one face."""

import asyncio
import io
import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import multipart

from modelserver.client import AsyncClient, Client, Detection, Detections, Outcome

URL = "http://server.test:5000"
FOUND = [
    {
        "class": 17,
        "label": "cat",
        "confidence": 0.934,
        "bounding_box": [0.1, 0.2, 0.5, 0.6],
    },
    {"class": 18, "label": "dog", "confidence": 0.51, "bounding_box": [0, 0.0, 1, 1.0]},
]
CAT = Detection(17, "cat", 0.934, (0.1, 0.2, 0.5, 0.6))
DOG = Detection(18, "dog", 0.51, (0.0, 0.0, 1.0, 1.0))


def problem(status, slug, **headers):
    """An answer that refuses, as the server makes it."""
    body = {"type": f"/problems/{slug}", "title": slug, "status": status}
    body["detail"] = f"This is {slug}."
    head = {
        "Content-Type": "application/problem+json",
        "X-Request-Id": "r-1",
        **headers,
    }
    return httpx.Response(status, content=json.dumps(body), headers=head)


def found(body=None, **headers):
    """A detector's answer."""
    return httpx.Response(200, json=FOUND if body is None else body, headers=headers)


class Answers:
    """Gives answers in turn, the last one for ever, and keeps the requests.

    An exception is raised in place of an answer.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        """Answer one request."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        # A response can be read once.
        return httpx.Response(
            answer.status_code, content=answer.content, headers=answer.headers
        )


def sent(request):
    """The texts of a request's form, in lists by name, and its file's bytes."""
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": request.headers["Content-Type"],
        "CONTENT_LENGTH": request.headers["Content-Length"],
        "wsgi.input": io.BytesIO(request.content),
    }
    forms, files = multipart.parse_form_data(environ, strict=True)
    return {name: forms.getall(name) for name in forms}, files["file"].raw


class Plain:
    """The plain client."""

    def __init__(self, answers, url=URL, **options):
        self.options = {"base_url": url, **options}
        self.transport = httpx.MockTransport(answers)

    def __getattr__(self, name):
        """A method that makes a client for one call."""

        def call(*arguments, **options):
            with Client(**self.options, transport=self.transport) as client:
                return getattr(client, name)(*arguments, **options)

        return call


class Loop(Plain):
    """The async client, each call in a loop of its own."""

    def __getattr__(self, name):
        """A method that makes a client for one call."""

        async def call(*arguments, **options):
            async with AsyncClient(**self.options, transport=self.transport) as client:
                return await getattr(client, name)(*arguments, **options)

        return lambda *arguments, **options: asyncio.run(call(*arguments, **options))


BOTH = {"sync": Plain, "async": Loop}


def note_waits(monkeypatch):
    """Have no client wait; gives the list of the seconds that it would have."""
    from modelserver.client import asynchronous, sync

    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(sync, "time", SimpleNamespace(sleep=waits.append))
    names = {"sleep": sleep, "to_thread": asyncio.to_thread}
    monkeypatch.setattr(asynchronous, "asyncio", SimpleNamespace(**names))
    return waits


def outcome(name="a.jpg", *detections, error=None, size=None, path=None):
    """What became of a photo."""
    result = None if error else Detections(tuple(detections), "net", size)
    return Outcome(Path(path or name), name, result, error)
