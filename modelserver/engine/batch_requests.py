"""Several photos, or several models, in one request.

Each pair of a photo and a model takes a place of its own in that model's queue, a few
at a time, so that a request of many photos is one client among others. A photo is
decoded once for all models that would be given the same pixels alone.
"""

from __future__ import annotations

from collections import deque
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias

from modelserver import decoder
from modelserver.core.errors import Overloaded, RequestError
from modelserver.engine.service import Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from modelserver.core.frames import Frame
    from modelserver.decoder import DecodedImage
    from modelserver.engine.evaluations import Data
    from modelserver.engine.models import Model, Prepared
    from modelserver.engine.queue import Caller
    from modelserver.engine.service import InFlight, Prepare, Service
    from modelserver.tasks import Task
    from modelserver.tasks.options import Options

Outcome: TypeAlias = Evaluation[Any] | RequestError

# Enough that a batch of runs can form, and that photos are decoded while others run;
# few enough that a request of many photos leaves most of a queue to others.
_AT_ONCE = 4


class Shared:
    """One photo for several models, decoded as seldom as may be. For one thread.

    Used as a context, at whose end its memory is given back.

    Args:
        data: an image file's bytes.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._decoded: list[tuple[Model, Frame, DecodedImage]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _owner, frame, _picture in self._decoded:
            frame.release()

    def prepare(self, model: Model) -> Prepared:
        """Give the photo as a model takes it.

        Raises:
            RequestError: as ``Model.prepare``.
        """
        kept = self._kept(model)
        owner, frame, picture = kept
        try:
            return model.fit(picture)
        except Overloaded:
            if owner is not model:
                raise
        # There may be room for it once, if not twice.
        self._decoded = [one for one in self._decoded if one is not kept]
        frame.release()
        return model.prepare(self._data)

    def _kept(self, model: Model) -> tuple[Model, Frame, DecodedImage]:
        for kept in self._decoded:
            owner, _frame, picture = kept
            if _serves(picture, owner.at_least, model.at_least):
                return kept
        self._decoded.append((model, *model.decode(self._data)))
        return self._decoded[-1]


def _serves(
    picture: DecodedImage, given: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> bool:
    """Tell whether another decode would give the very same pixels.

    Args:
        given: the least height and width that the picture was decoded for.
        wanted: those that the other one would be decoded for.
    """
    if picture.format != "JPEG" or given == wanted:
        return True
    whole = picture.pixels.shape[:2] == (picture.height, picture.width)
    return whole and decoder.decodes_in_full(picture.width, picture.height, wanted)


class BatchRequest:
    """Evaluates several photos by several models. For one thread.

    Args:
        service: does each evaluation.
        task: the task to do.
        caller: who waits for all of them.
        options: the request's, for each.
    """

    def __init__(
        self, service: Service, task: Task[Any], caller: Caller, options: Options
    ) -> None:
        self._service = service
        self._task = task
        self._caller = caller
        self._options = options
        self._in_flight: deque[tuple[int, InFlight]] = deque()
        self._outcomes: dict[int, Outcome] = {}

    def evaluate(self, photos: Sequence[Data], models: Sequence[str]) -> list[Outcome]:
        """Return what came of each photo with each model, photo by photo.

        An error is the outcome of its pair alone.
        """
        try:
            for number, data in enumerate(photos):
                self._one_photo(number * len(models), data, models)
            while self._in_flight:
                self._end_one()
        finally:
            for _, image in self._in_flight:  # only after a bug
                image.stack.close()
        return [self._outcomes[pair] for pair in range(len(self._outcomes))]

    def _one_photo(self, pair: int, data: Data, models: Sequence[str]) -> None:
        if len(models) == 1:
            self._begin(pair, models[0], methodcaller("prepare", data))
            return
        with Shared(data) as photo:
            for number, name in enumerate(models):
                self._begin(pair + number, name, photo.prepare)

    def _begin(self, pair: int, name: str, prepare: Prepare) -> None:
        """Begin a pair; what is in the way of it may be pairs of this very request."""
        if len(self._in_flight) >= _AT_ONCE:
            self._end_one()
        while True:
            try:
                image = self._service.begin(self._task, name, prepare, self._caller)
            except RequestError as error:
                if not isinstance(error, Overloaded) or not self._in_flight:
                    self._outcomes[pair] = error
                    return
                self._end_one()
            else:
                self._in_flight.append((pair, image))
                return

    def _end_one(self) -> None:
        pair, image = self._in_flight.popleft()
        try:
            self._outcomes[pair] = self._service.end(image, self._options)
        except RequestError as error:
            self._outcomes[pair] = error
