"""Several photos, or several models, in one request.

Each pair of a photo and a model takes a place of its own in that model's queue, a few
at a time, so that a request of many photos is one client among others. A photo is
decoded once for all models that would be given the same pixels alone.
"""

from __future__ import annotations

from collections import deque
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias

from modelserver.core.errors import Overloaded, RequestError
from modelserver.engine.decoders import Photo, Prepared, only, wait
from modelserver.engine.service import Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from modelserver.engine.decoders import Data, Decoders
    from modelserver.engine.models import Model
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

    Used as a context, at whose end the frames that nobody took are given back.

    Args:
        photo: an image file's bytes.
        models: those that may ask for it.
        decoders: decode it.
        caller: waits for it.
    """

    def __init__(
        self,
        photo: Photo,
        models: Sequence[Model],
        decoders: Decoders,
        caller: Caller,
    ) -> None:
        self._photo = photo
        self._models = models
        self._decoders = decoders
        self._caller = caller
        self._found: dict[Model, Prepared | RequestError] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._found or {}).values():
            if isinstance(each, Prepared):
                each.frame.release()

    def prepare(self, model: Model) -> Prepared:
        """Give the photo as a model takes it.

        Raises:
            RequestError: as ``Model.prepare``.
        """
        if self._found is None:
            self._found = self._decode()
        found = self._found.pop(model, None)
        # There may be room for it once, if not twice.
        if found is None or isinstance(found, Overloaded):
            return model.prepare(self._photo, self._caller)
        return only([found])

    def _decode(self) -> dict[Model, Prepared | RequestError]:
        """Decode the photo for all models at once."""
        if not self._models:
            return {}
        decoding = self._decoders.decode(
            self._photo,
            [model.fit for model in self._models],
            [model.room for model in self._models],
            self._caller.until,
        )
        try:
            found = wait(decoding, self._caller)
        except RequestError as error:
            return dict.fromkeys(self._models, error)
        return dict(zip(self._models, found, strict=True))


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
            prepare = methodcaller("prepare", data, self._caller)
            self._begin(pair, models[0], prepare)
            return
        loaded = self._service.loaded(self._task, models)
        decoders = self._service.decoders
        with Shared(Photo.of(data), loaded, decoders, self._caller) as photo:
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
