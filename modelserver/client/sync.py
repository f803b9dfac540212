"""The client for plain code and threads.

Made by script/unasync; not to be edited.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import httpx

from modelserver.client import calls, connections, photos
from modelserver.client.errors import ClientError, Unreachable
from modelserver.client.retries import Attempts, Policy

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from modelserver.client.calls import Call, ClassifyOptions, DetectOptions
    from modelserver.client.photos import Image
    from modelserver.client.results import Classification, Detections, ModelInfo

T = TypeVar("T")


class SyncClient:
    """Talk to one server over kept connections; safe to share between threads.

    A context manager; the caller who makes one closes it.

    Args:
        base_url: of the server, such as ``http://127.0.0.1:5000``.
        token: for servers that require one.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: how often a request is sent again, at most and within a minute, while
            the server is full, loading or not there; or a ``Policy``.
        transport: of httpx, for tests.

    Attributes:
        policy: how patient the client is.

    Raises:
        ClientError: the URL is invalid, or the token cannot stand in a header.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = connections.DEFAULT_TIMEOUT_S,
        retries: int | Policy = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.policy = retries if isinstance(retries, Policy) else Policy(retries)
        self._found: dict[str, str] = {}
        self._server = connections.Server.of(base_url, token, timeout)
        self._transport = transport or httpx.HTTPTransport(**self._server.options())

    def detect(
        self,
        modelname: str | Image,
        image: Image | None = None,
        **options: Unpack[DetectOptions],
    ) -> Detections:
        """Return the objects in a photo, highest confidence first.

        Args:
            modelname: may be left out if the server has one detector.

        Raises:
            ClientError: see ``modelserver.client.errors``.
        """
        if image is None:
            modelname, image = self.find(calls.DETECTION), modelname
        photo = photos.read(image)
        return self.call(calls.detect(str(modelname), photo, options))

    def classify(
        self,
        modelname: str | Image,
        image: Image | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Classification:
        """Return the class of a photo.

        Args:
            modelname: may be left out if the server has one classifier.

        Raises:
            ClientError: see ``modelserver.client.errors``.
        """
        if image is None:
            modelname, image = self.find(calls.CLASSIFICATION), modelname
        photo = photos.read(image)
        return self.call(calls.classify(str(modelname), photo, options))

    def models(self) -> list[ModelInfo]:
        """Return every model that the server has, with its state."""
        return self.call(calls.models())

    def find(self, kind: str) -> str:
        """Return the name of the server's only model of a kind; asked once for each.

        Raises:
            NoSingleModel: it has none, or several.
        """
        if kind not in self._found:
            self._found[kind] = calls.only(self.models(), kind)
        return self._found[kind]

    def ready(self) -> bool:
        """Return whether the server takes photos now; ask once."""
        try:
            return self.send(calls.ready())
        except Unreachable:
            return False

    def call(self, call: Call[T]) -> T:
        """Send a request, again where another try is worth it.

        Raises:
            ClientError: the error of the last try.
        """
        attempts = Attempts(self.policy)
        while True:
            try:
                return self.send(call)
            except ClientError as error:
                wait_s = attempts.wait_after(error)
            time.sleep(wait_s)

    def send(self, call: Call[T]) -> T:
        """Send a request once.

        Raises:
            ClientError: there is no answer, or it is a problem.
        """
        request = self._server.request(call)
        try:
            answer = self._transport.handle_request(request)
            with closing(answer):
                answer.request = request
                answer.read()
        except httpx.TransportError as error:
            raise self._server.translate(error) from error
        return call.read(answer)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
