"""A door's end of the way to the engine: requests out, answers back to their threads.

A request's thread sends it and waits. Answers come in another thread, which wakes the
one that waits. Only how a message crosses differs between one process and several.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import DeadlinePassed, Overloaded, RequestError
from modelserver.core.messages.requests import (
    Ask,
    Evaluate,
    Gone,
    Hello,
    Refused,
    Seen,
    Told,
    Wish,
    refused,
)
from modelserver.web.callers import Caller, closed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from modelserver.core.messages import PictureFormat
    from modelserver.core.messages.requests import Tensor, ToDoor, ToEngine, Topic
    from modelserver.engine.engine import DoorSession, Engine
    from modelserver.engine.uploads import Upload

# The engine says that a caller's time is over; only if it does not, the door does.
_GRACE_S = 0.5
# How long a question about models may take: it may wait for disks, and for a driver.
_ASK_S = 30.0
# How often clients are looked at, whether they are still there.
_LOOK_S = 0.1


class Waiting:
    """A request that is with the engine. For the thread that sent it; a context.

    Attributes:
        number: the request's, at this door.
        caller: who waits.
        answers: those that have come; ``None`` is the wish to ask the caller whether it
            is still there.
        is_told: the engine knows that the caller has gone.
    """

    def __init__(self, link: Link, number: int, caller: Caller) -> None:
        self._link = link
        self.number = number
        self.caller = caller
        self.answers: queue.SimpleQueue[ToDoor | None] = queue.SimpleQueue()
        self.is_told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._link.leave(self, tell=error != (None, None, None))

    def answer(self) -> Seen | Refused:
        """Wait for the next answer of a model.

        Raises:
            DeadlinePassed: none came within the caller's time.
            RequestError: the whole request is refused.
        """
        answer = self.next()
        if not isinstance(answer, Seen | Refused):
            raise TypeError(f"{type(answer).__name__} is no answer of a model")
        return answer

    def next(self) -> ToDoor:
        """Wait for the next answer.

        Raises:
            DeadlinePassed, RequestError: as :meth:`answer`.
        """
        while (answer := self._wait()) is None:
            self.caller.ask()
        if isinstance(answer, Refused) and not answer.model:
            raise answer.rebuild()
        return answer

    def _wait(self) -> ToDoor | None:
        left_s = self.caller.until - time.perf_counter() + _GRACE_S
        try:
            return self.answers.get(timeout=max(0.0, left_s))
        except queue.Empty:
            raise DeadlinePassed(self.caller.seconds) from None


class Link(ABC):
    """The way to the engine. Thread-safe.

    Attributes:
        most: requests that may wait for the engine at a time; a photo more is refused.
    """

    most: int | None = None

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Waiting] = {}

    @abstractmethod
    def start(self) -> None:
        """Open the way. Idempotent.

        Raises:
            StartError: there is no engine, and there will not be one.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the way. Idempotent."""

    @abstractmethod
    def send(self, message: ToEngine, descriptor: int | None = None) -> None:
        """Send a message, with a copy of a descriptor.

        Raises:
            RequestError: the engine is away.
        """

    @abstractmethod
    def refusal(self, handled: int) -> RequestError | None:
        """Return how a photo for any model would be refused now; a cheap hint.

        ``None`` while a model is unloaded: the photo might be for that one.

        Args:
            handled: requests that are being handled; some have yet to be sent.
        """

    @abstractmethod
    def count(self, route: str, model: str, status: int, dialect: str = "") -> None:
        """Count an answer; see ``Metrics.count_answer``."""

    @abstractmethod
    def count_refusal(self, reason: str) -> None:
        """Count a refusal by its problem's type."""

    def evaluate(
        self,
        kind: str,
        models: Sequence[str],
        upload: Upload,
        caller: Caller,
        wish: Wish,
        *,
        among: Sequence[str] = (),
        picture: PictureFormat | None = None,
        request_id: str = "",
        tensor: Tensor | None = None,
    ) -> Waiting:
        """Have models look at a photo; what is returned is to be used as a context.

        The arguments are those of :class:`Evaluate`.

        Raises:
            RequestError: the engine is away, or too many requests wait for it.
        """
        # Questions wait for no model, and have the threads that are left.
        if self.most is not None and len(self._waiting) >= self.most:
            raise Overloaded(1.0, "The server has too many requests at once")
        waiting = self._wait(caller)
        message = Evaluate(
            waiting.number,
            kind,
            tuple(models),
            caller.seconds,
            caller.until,
            wish,
            tuple(among),
            picture,
            request_id,
            tensor,
        )
        self._send_for(waiting, message, upload.fileno())
        return waiting

    def ask(
        self, topic: Topic, name: str = "", kind: str = "", accept: str = ""
    ) -> bytes:
        """Ask about models; returns msgpack, see ``engine.questions``.

        Raises:
            RequestError: as the topic says; or the engine is away.
        """
        with self._wait(Caller(_ASK_S, time.perf_counter() + _ASK_S)) as waiting:
            message = Ask(waiting.number, topic, name, kind, accept)
            self.send(message)
            answer = waiting.next()
        if not isinstance(answer, Told):
            raise TypeError(f"{type(answer).__name__} answers no question")
        return answer.body

    def greet(self, address: Any) -> None:
        """Tell the engine where this door listens."""
        self.send(Hello.of(address))

    def _wait(self, caller: Caller) -> Waiting:
        waiting = Waiting(self, next(self._numbers), caller)
        self._waiting[waiting.number] = waiting
        return waiting

    def _send_for(self, waiting: Waiting, message: ToEngine, descriptor: int) -> None:
        try:
            self.send(message, descriptor)
        except BaseException:
            self.leave(waiting, tell=False)
            raise

    def deliver(self, answer: ToDoor) -> None:
        """Give an answer to the thread that waits for it, if one still does."""
        waiting = self._waiting.get(getattr(answer, "number", 0))
        if waiting is not None:
            waiting.answers.put(answer)

    def fail(self, error: RequestError) -> None:
        """Refuse all requests that are with the engine, which has gone."""
        for waiting in list(self._waiting.values()):
            waiting.answers.put(refused(waiting.number, error))

    def leave(self, waiting: Waiting, *, tell: bool) -> None:
        """Wait for a request no more.

        Args:
            tell: the engine may still work for it.
        """
        if self._waiting.pop(waiting.number, None) is not None and tell:
            self._tell_gone(waiting.number)

    def look_for_gone(self) -> None:
        """Tell the engine whose clients have gone; to be called each tenth of a second.

        Their threads are answered by the engine. A client that has closed only its side
        is asked first.
        """
        waiting = list(self._waiting.values())
        seen = closed(one.caller.connection for one in waiting)
        for one in waiting:
            caller = one.caller
            is_gone = seen.get(caller.connection) if caller.connection else None
            if is_gone or (is_gone is False and not caller.may_be_asked):
                caller.connection = None
                caller.has_left = True
            elif is_gone is False and not caller.is_asked:
                one.answers.put(None)
        for one in waiting:
            if one.caller.has_left and not one.is_told:
                one.is_told = True
                self._tell_gone(one.number)

    def _tell_gone(self, number: int) -> None:
        with contextlib.suppress(RequestError):  # the engine has gone, too
            self.send(Gone(number))


class LocalLink(Link):
    """The way to an engine in this process: messages are handed over by a call.

    Args:
        engine: started and closed with this.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self._session: DoorSession | None = None
        self._looking = False

    def start(self) -> None:
        """Start the engine."""
        self.engine.start()
        if self._session is None:
            self._session = self.engine.door(self.deliver)

    def close(self) -> None:
        """End the engine, and with it all that waits."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self.engine.close()

    def send(self, message: ToEngine, descriptor: int | None = None) -> None:
        """Hand a message over."""
        session = self._session
        if session is None:
            raise Overloaded(1.0, "The server is closing")
        # The engine closes its copy, whenever it has done with it.
        copies = [os.dup(descriptor)] if descriptor is not None else []
        self.engine.loop.call(session.take, message, copies)
        if isinstance(message, Evaluate) and not self._looking:
            self._looking = True
            self.engine.loop.call(self._look)

    def _look(self) -> None:
        """Look after clients for as long as any waits; in the engine's loop."""
        self._looking = bool(self._waiting)
        if self._looking:
            self.look_for_gone()
            self.engine.loop.after(_LOOK_S, self._look)

    def refusal(self, handled: int) -> RequestError | None:
        """Ask the engine itself."""
        return self.engine.refusal(handled)

    def count(self, route: str, model: str, status: int, dialect: str = "") -> None:
        """Count an answer with the engine's own."""
        self.engine.metrics.count_answer(route, model, status, dialect)

    def count_refusal(self, reason: str) -> None:
        """Count a refusal with the engine's own."""
        self.engine.metrics.count_refusal(reason)
