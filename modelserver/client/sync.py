"""The client for plain code and threads."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import httpx

from modelserver.client import calls, connections, folders, photos
from modelserver.client.errors import ClientError, Unreachable
from modelserver.client.retries import Attempts, Policy

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterable
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from modelserver.client.calls import Call, ClassifyOptions, DetectOptions
    from modelserver.client.folders import Outcome
    from modelserver.client.photos import Image
    from modelserver.client.results import Classification, Detections, ModelInfo

T = TypeVar("T")


class Client:
    """Talks to one server over kept connections. Safe to share between threads.

    A context manager; whoever makes one closes it.

    Args:
        base_url: of the server, such as ``http://127.0.0.1:5000``.
        token: for servers that want one.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: how often a request is sent again, at most and within a minute, while
            the server is full, loading or not there; or a ``Policy``.
        transport: of httpx, for tests.

    Attributes:
        policy: how patient it is.

    Raises:
        ClientError: the URL is none, or the token cannot stand in a header.
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
        self._server = connections.Server.of(base_url, token, timeout)
        self._transport = transport or httpx.HTTPTransport(**self._server.options())

    def detect(
        self, modelname: str, image: Image, **options: Unpack[DetectOptions]
    ) -> Detections:
        """Return the objects in a photo, highest confidence first.

        Raises:
            ClientError: see ``modelserver.client.errors``.
        """
        return self.call(calls.detect(modelname, photos.read(image), options))

    def classify(
        self, modelname: str, image: Image, **options: Unpack[ClassifyOptions]
    ) -> Classification:
        """Return what a photo is of.

        Raises:
            ClientError: see ``modelserver.client.errors``.
        """
        return self.call(calls.classify(modelname, photos.read(image), options))

    def models(self) -> list[ModelInfo]:
        """Return every model that the server has, with its state."""
        return self.call(calls.models())

    def ready(self) -> bool:
        """Tell whether the server takes photos now; asks once."""
        try:
            return self.send(calls.ready())
        except Unreachable:
            return False

    def detect_folder(
        self,
        folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        modelname: str,
        *,
        workers: int = folders.WORKERS,
        recursive: bool = False,
        progress: bool = True,
        **options: Unpack[DetectOptions],
    ) -> Generator[Outcome]:
        """Yield what is in each photo of a folder, as the answers come.

        One that fails is yielded with its error and the others go on. What is asked of
        a server that is full is asked again with less at a time.

        Args:
            folder: or files, or several of both.
            workers: threads with a connection each; at most so many photos are on
                their way.
            recursive: take the folders within folders, too.
            progress: show a bar on stderr, if that is a terminal.

        Raises:
            BadImage: there is no such folder or file, or no photo in it.
            Unreachable, Unauthorized, NotFound: no photo would be answered.
        """
        fixed = calls.settled(options)

        def ask(photo: bytes) -> Call[Detections]:
            return calls.detect(modelname, photo, fixed)

        found = folders.find(folder, recursive=recursive)
        return folders.run(self, found, ask, workers=workers, progress=progress)

    def classify_folder(
        self,
        folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        modelname: str,
        *,
        workers: int = folders.WORKERS,
        recursive: bool = False,
        progress: bool = True,
        **options: Unpack[ClassifyOptions],
    ) -> Generator[Outcome]:
        """Yield what each photo of a folder is of; as ``detect_folder``."""

        def ask(photo: bytes) -> Call[Classification]:
            return calls.classify(modelname, photo, options)

        found = folders.find(folder, recursive=recursive)
        return folders.run(self, found, ask, workers=workers, progress=progress)

    def call(self, call: Call[T]) -> T:
        """Send a request until it is answered, as patiently as the client is.

        Raises:
            ClientError: the last try's.
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
            ClientError: it is not answered, or with a problem.
        """
        request = self._server.request(call)
        try:
            with closing(self._transport.handle_request(request)) as answer:
                answer.request = request
                answer.read()
        except httpx.TransportError as error:
            raise self._server.meaning(error) from error
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
