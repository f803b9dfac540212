"""Several photos and models over a stand-in for the engine."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import DeadlinePassed, Overloaded, RunFailed
from modelserver.core.messages.requests import (
    Ask,
    Evaluate,
    Gone,
    Seen,
    Told,
    Wish,
    refused,
)
from modelserver.tasks import DETECTION
from modelserver.tasks.options import Options
from modelserver.web.callers import Caller
from modelserver.web.link import Link
from modelserver.web.photo_requests import PhotoRequest


class Upload:
    """Stands for an upload: its number is its descriptor."""

    def __init__(self, number):
        self.number = number

    def fileno(self):
        """Return the number."""
        return self.number


class FakeLink(Link):
    """Answers when it is asked for the next answer, in the order of ``order``.

    Attributes:
        room: pairs that a model takes at a time.
        most_inside: how many of a model there were.
        errors: by photo.
        gone: numbers of requests that were given up.
    """

    def __init__(self, room=100):
        super().__init__()
        self.room = room
        self.inside = {}
        self.most_inside = 0
        self.errors = {}
        self.gone = []
        self.among = set()
        self.silent = False

    start = close = refusal = count = count_refusal = None

    def send(self, message, descriptor=None):
        if isinstance(message, Gone):
            self.gone.append(message.number)
            return
        if isinstance(message, Ask):
            self.deliver(Told(message.number, b"told"))
            return
        assert isinstance(message, Evaluate)
        self.among.add(message.among)
        for model in () if self.silent else message.models:
            if self.inside.get(model, 0) >= self.room:
                answer = refused(message.number, Overloaded(), model, model)
            else:
                answer = self.answer(message.number, model, descriptor)
                self.inside[model] = self.inside.get(model, 0) + 1
                self.most_inside = max(self.most_inside, self.inside[model])
            self.deliver(answer)

    def answer(self, number, model, photo):
        if photo in self.errors:
            return refused(number, self.errors[photo], model, model)
        text = f"{photo} {model}".encode()
        return Seen(number, model, model, text, 1, 1, 1, 1, "", 0, 0, 0, 0, 0, 0)

    def leave(self, waiting, *, tell):
        """Free the places of a request that was answered."""
        self.inside = {model: n - 1 for model, n in self.inside.items()}
        super().leave(waiting, tell=tell)


def caller(seconds=60.0):
    return Caller(seconds, time.perf_counter() + seconds)


def request(link, who=None):
    return PhotoRequest(link, DETECTION, who or caller(), Options(), "id")


@given(
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sets(st.integers(0, 11)),
)
def test_each_pair_has_an_outcome_in_order_with_few_at_a_time(count, models, room, bad):
    """An error is the outcome of its pair alone, and nothing is held afterwards."""
    link = FakeLink(room)
    link.errors = {number: RunFailed() for number in bad}
    names = [f"m{number}" for number in range(models)]
    outcomes = request(link).several([Upload(n) for n in range(count)], names)
    assert len(outcomes) == count * models
    assert link.most_inside <= 4
    assert link.among <= {tuple(names)}
    assert not link._waiting
    for number, outcome in enumerate(outcomes):
        photo, model = divmod(number, models)
        if photo in bad:
            assert isinstance(outcome, RunFailed)
        else:
            assert outcome.answer == f"{photo} {names[model]}".encode()


def test_who_is_refused_alone_is_refused():
    """A queue that others fill refuses a request of several photos, too."""
    outcomes = request(FakeLink(room=0)).several([Upload(1), Upload(2)], ["m"])
    assert [type(outcome) for outcome in outcomes] == [Overloaded, Overloaded]


def test_a_time_that_is_over_is_the_outcome_of_all_that_are_missing():
    """Each pair is told so, and the engine that nobody waits."""
    link = FakeLink()
    link.silent = True
    outcomes = request(link, caller(-1.0)).several([Upload(1)], ["m", "n"])
    assert [type(outcome) for outcome in outcomes] == [DeadlinePassed] * 2
    with pytest.raises(DeadlinePassed, match="-1 seconds"):
        request(link, caller(-1.0)).one(Upload(1), "m")
    assert link.gone
    assert not link._waiting


def test_a_refusal_of_the_whole_request_is_an_error_and_ends_all_of_it():
    """An engine that goes away answers nothing more: nothing is held."""
    link = FakeLink()
    link.silent = True

    class Dying(FakeLink):
        def send(self, message, descriptor=None):
            super().send(message, descriptor)
            if isinstance(message, Evaluate) and descriptor == 2:
                self.fail(RunFailed())

    link = Dying()
    link.silent = True
    with pytest.raises(RunFailed):
        request(link).several([Upload(n) for n in range(9)], ["m"])
    assert not link._waiting


def test_more_requests_than_may_wait_are_refused_at_once():
    """Some threads never wait for a model; they ask about models all the same."""
    link = FakeLink()
    link.silent, link.most = True, 1
    who = caller(0.0)
    first = link.evaluate("detection", ["m"], Upload(1), who, Wish())
    with first:
        with pytest.raises(Overloaded, match="too many"):
            request(link).one(Upload(2), "m")
        assert link.ask("models") == b"told"
