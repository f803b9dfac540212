"""One request's photos, each with each of its models, by way of the engine.

Each pair of a photo and a model takes a place of its own in that model's queue, a few
at a time, so that a request of many photos is one client among others.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from modelserver.core import logs
from modelserver.core.errors import DeadlinePassed, Overloaded, RequestError
from modelserver.core.messages.requests import Refused, Seen
from modelserver.tasks.options import wish_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.messages import PictureFormat
    from modelserver.core.messages.requests import Tensor
    from modelserver.engine.uploads import Upload
    from modelserver.tasks import Task
    from modelserver.tasks.options import Options
    from modelserver.web.callers import Caller
    from modelserver.web.link import Link, Waiting

Outcome: TypeAlias = "Seen | RequestError"

# Enough that a batch of runs can form, and that photos are decoded while others run;
# few enough that a request of many photos leaves most of a queue to others.
_AT_ONCE = 4


def _seen(answer: Seen | Refused) -> Seen:
    if isinstance(answer, Refused):
        logs.bind(model=answer.title)
        raise answer.rebuild()
    return answer


class _Sent(NamedTuple):
    """A photo that is with the engine.

    Attributes:
        missing: the models that have not answered yet.
        alone: nothing else of the request was with the engine when it was sent.
    """

    photo: int
    waiting: Waiting
    missing: set[str]
    alone: bool


class PhotoRequest:
    """Evaluates photos by models, once. For one thread.

    Args:
        link: the way to the engine.
        task: the task to do.
        caller: who waits for all of it.
        options: the request's, for each.
        request_id: for the engine's log.
    """

    def __init__(
        self,
        link: Link,
        task: Task[Any],
        caller: Caller,
        options: Options,
        request_id: str,
    ) -> None:
        self._link = link
        self._kind = task.kind
        self._caller = caller
        self._wish = wish_of(options)
        self._request_id = request_id
        self._sent: deque[_Sent] = deque()
        # Photos, by number, with the models that are still to be asked.
        self._unsent: deque[tuple[int, tuple[str, ...]]] = deque()
        self._outcomes: dict[tuple[int, str], Outcome] = {}

    def one(
        self, photo: Upload, model: str, picture: PictureFormat | None = None
    ) -> Seen:
        """Return what one model sees in one photo.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        with self._send(photo, (model,), picture=picture) as waiting:
            answer = waiting.answer()
        return _seen(answer)

    def numbers(self, upload: Upload, model: str, tensor: Tensor) -> Seen:
        """Return all that a model's graph gives for numbers in an upload.

        Raises:
            RequestError: see the tree in ``errors``.
        """
        with self._send(upload, (model,), tensor=tensor) as waiting:
            answer = waiting.answer()
        return _seen(answer)

    def several(self, photos: Sequence[Upload], models: Sequence[str]) -> list[Outcome]:
        """Return what came of each photo with each model, photo by photo.

        An error is the outcome of its pair alone.

        Raises:
            RequestError: the request as a whole is at fault, or the engine went away.
        """
        self._unsent.extend((number, tuple(models)) for number in range(len(photos)))
        with ExitStack() as stack:
            stack.callback(self._leave_all)
            while self._unsent or self._sent:
                if self._unsent and self._has_room():
                    self._send_next(photos, models)
                else:
                    self._collect()
        return [
            self._outcomes[number, model]
            for number in range(len(photos))
            for model in models
        ]

    def _send(
        self,
        photo: Upload,
        models: Sequence[str],
        among: Sequence[str] = (),
        picture: PictureFormat | None = None,
        tensor: Tensor | None = None,
    ) -> Waiting:
        return self._link.evaluate(
            self._kind,
            models,
            photo,
            self._caller,
            self._wish,
            among=among,
            picture=picture,
            request_id=self._request_id,
            tensor=tensor,
        )

    def _has_room(self) -> bool:
        return sum(len(sent.missing) for sent in self._sent) < self._most

    _most = _AT_ONCE

    def _send_next(self, photos: Sequence[Upload], models: Sequence[str]) -> None:
        number, asked = self._unsent.popleft()
        waiting = self._send(photos[number], asked, models)
        self._sent.append(_Sent(number, waiting, set(asked), not self._sent))

    def _collect(self) -> None:
        """Take the next answer of the photo that was sent first."""
        sent = self._sent[0]
        try:
            answer = sent.waiting.answer()
        except DeadlinePassed as error:
            for model in sent.missing:
                self._outcomes[sent.photo, model] = error
            sent.missing.clear()
        else:
            sent.missing.discard(answer.model)
            self._take(sent, answer)
        if not sent.missing:
            self._sent.popleft()
            self._link.leave(sent.waiting, tell=False)

    def _take(self, sent: _Sent, answer: Seen | Refused) -> None:
        self._most = _AT_ONCE
        if isinstance(answer, Seen):
            self._outcomes[sent.photo, answer.model] = answer
            return
        logs.bind(model=answer.title)
        error = answer.rebuild()
        if isinstance(error, Overloaded) and not sent.alone:
            # What was in its way may have been pairs of this very request: it is sent
            # again with fewer of them, and alone in the end.
            self._unsent.appendleft((sent.photo, (answer.model,)))
            self._most = max(1, sum(len(other.missing) for other in self._sent))
        else:
            self._outcomes[sent.photo, answer.model] = error

    def _leave_all(self) -> None:
        for sent in self._sent:  # only after an error
            self._link.leave(sent.waiting, tell=True)
