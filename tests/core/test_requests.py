"""Messages between a door and the engine."""

import msgspec
import pytest

from modelserver.core import errors
from modelserver.core.errors import (
    ImageTooLarge,
    ModelNotFound,
    Overloaded,
    RequestError,
    RunnerDied,
)
from modelserver.core.messages.requests import (
    Evaluate,
    Refused,
    ToDoor,
    ToEngine,
    Wish,
    refused,
)


def crossed(message, kind):
    """Return a message as the other process gets it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("cat", ["dog"]),
        ImageTooLarge(5, 6, 7),
        Overloaded(3.5, "Nobody is in"),
        RunnerDied(),
        errors.InternalError("17"),
    ],
)
def test_an_error_crosses_as_it_is(error):
    """Type, words and the time to wait are the same at the other end."""
    back = crossed(refused(7, error, "m", "m (detect)"), ToDoor)
    assert isinstance(back, Refused)
    built = back.rebuild()
    assert type(built) is type(error)
    assert str(built) == str(error)
    assert built.retry_after_s == error.retry_after_s


def test_an_error_from_outside_crosses_as_its_nearest_kin():
    """A subclass that another package made is the class of ours that it is."""

    class Odd(Overloaded):
        pass

    assert refused(1, Odd()).error == "Overloaded"
    assert type(refused(1, Odd()).rebuild()) is Overloaded


def test_every_request_error_can_cross():
    """No class of the tree is missing."""
    names = [name for name, one in vars(errors).items() if _is_request_error(one)]
    for name in names:
        built = Refused(1, "", "", name, "words").rebuild()
        assert type(built).__name__ == name


def _is_request_error(one):
    return isinstance(one, type) and issubclass(one, RequestError)


def test_a_request_crosses_as_it_is():
    """Nothing of a request is lost on its way."""
    wish = Wish(0.25, ("a, b", "c"), 3, pixel=True, top_k=2)
    asked = Evaluate(9, "detect", ("a", "b"), 30.0, 1234.5, wish, ("a",), "PNG", "id")
    assert crossed(asked, ToEngine) == asked
