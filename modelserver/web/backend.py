"""The objects behind an app: uploads, and the way to the models."""

from __future__ import annotations

import logging
import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from flask import current_app

from modelserver.engine import admission
from modelserver.engine.uploads import Spool
from modelserver.web import traces
from modelserver.web.link import Link, LocalLink
from modelserver.web.origins import Origins
from modelserver.web.socket_link import SocketLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.errors import RequestError
    from modelserver.core.messages.requests import Topic
    from modelserver.core.settings import Settings
    from modelserver.engine.engine import Engine
    from modelserver.tasks import Task
    from modelserver.web.dialects.dialect import Dialect

log = logging.getLogger(__name__)

T = TypeVar("T")


class Backend:
    """The objects behind one app. Thread-safe.

    Attributes:
        tasks: those it serves.
        traces: their maker, ``None`` if none are wanted.
        dialects: those of other servers that the app speaks.
        unread_headers: headers for other sites' pages, for answers to requests that
            were not read; ``None`` if they depend on the request.

    Args:
        tasks: whose models this app serves.
        settings: the server's.
    """

    def __init__(self, tasks: Sequence[Task[Any]], settings: Settings) -> None:
        self.tasks = tuple(tasks)
        self.settings = settings
        self.dialects: tuple[Dialect, ...] = ()
        self.unread_headers = Origins(settings.cors_origins).unread_headers()
        self.spool = Spool(settings.upload_folder)
        self.traces: traces.Traces | None = None
        self._other: Link | None = None
        self._link: Link | None = None
        self._lock = threading.Lock()

    @cached_property
    def engine(self) -> Engine:
        """The engine of this very process; asked for only where there is no other.

        Raises:
            StartError: ``REQUIRE_GPU`` is set and no GPU is visible.
        """
        # It need not be in a process that only talks to one.
        from modelserver.engine.engine import Engine  # noqa: PLC0415

        return Engine(self.tasks, self.settings)

    @property
    def link(self) -> Link:
        """The way to the engine, once this has started; also when it is closed."""
        if self._link is None:
            raise RuntimeError("the app has not started")
        return self._link

    def join(self, address: str, page: int) -> None:
        """Have this door talk to an engine in another process; before it is started.

        Args:
            address: of the engine's socket.
            page: descriptor of the page of refusals.
        """
        self._other = SocketLink(address, page)

    def start(self) -> None:
        """Open the way to the models. Idempotent; returns soon.

        Without another process's engine, one is started in this.

        Raises:
            StartError: the upload folder cannot be used, or a GPU is required and
                TensorFlow uses none; nothing has started.
        """
        if self._link is not None:
            return
        with self._lock:
            if self._link is not None:
                return
            if self._other is None and self.settings.isolation != "inline":
                log.warning(
                    "this process serves the models itself, and so would each other one"
                    " of this app: every one of them would hold every model"
                )
            link = self._other or LocalLink(self.engine)
            link.start()
            self.traces = traces.start(os.environ)
            self._link = link

    def ask(
        self, topic: Topic, kind: type[T], *, name: str = "", of: str = "", **more: str
    ) -> T:
        """Ask the engine about models; see ``engine.questions``.

        Args:
            kind: of the answer.
            name: of the model that it is about.
            of: the model's kind, or that of all that are wanted.

        Raises:
            RequestError: the question's own, or the engine is away.
        """
        return msgspec.msgpack.decode(self.link.ask(topic, name, of, **more), type=kind)

    def refusal(self, handled: int) -> RequestError | None:
        """Return how a photo for any model would be refused now; see ``Link.refusal``.

        ``None`` also if the headers for other sites' pages depend on the request.
        """
        if self.unread_headers is None or self._link is None:
            return None
        return self._link.refusal(handled)

    def has_threads(self, total: int) -> None:
        """Leave some of so many threads to requests that never wait for a model."""
        self.link.most = admission.room_of(total)

    def count_refusal(
        self, error: RequestError, path: str, status: int, dialect: Dialect | None
    ) -> None:
        """Count a request with a body that was answered without the app.

        Args:
            status: that its client was given.
            dialect: that its client speaks.
        """
        if dialect is None:
            routes = [task.endpoint.route for task in self.tasks]
            route = next((one for one in routes if path.startswith(one)), routes[0])
            self.link.count(route, "", status)
        else:
            self.link.count(dialect.rule_of("POST", path), "", status, dialect.name)
        self.link.count_refusal(error.slug)

    def count_unreadable(self, status: int) -> None:
        """Count a request that no app could read."""
        self.link.count("", "", status)

    def greet(self, address: object) -> None:
        """Have a line to try logged once a model serves.

        Args:
            address: the server's own, as a socket's ``getsockname`` gives it.
        """
        self.link.greet(address)

    def rescan(self) -> None:
        """Scan the model folder at once, where the engine is in this process.

        Returns at once, and may be called from a signal's handler.
        """
        if "engine" in self.__dict__:
            self.engine.rescan()

    def close(self) -> None:
        """End all models of this process; what still asks is refused. Idempotent."""
        if self._link is not None:
            self._link.close()
        elif "engine" in self.__dict__:
            self.engine.close()
        if self.traces is not None:
            self.traces.close()


def backend() -> Backend:
    """Return the backend of the app that serves the present request."""
    return cast("Backend", current_app.extensions["modelserver"])
