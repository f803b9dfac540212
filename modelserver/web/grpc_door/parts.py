"""How many parts a message has, counted before any of it is parsed.

An empty part is two bytes in a message and some eighty once it is parsed: 32 MiB of
them would take more than 1 GiB, and far more as objects of Python's.
"""

from __future__ import annotations

from modelserver.core.errors import BadRequest

# No model has as many outputs that can be asked for.
_MOST = 256
# Kinds of values, as each part's first number says them in its last three bits: one
# number, eight bytes, bytes behind their length, four bytes.
_NUMBER, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5
_FIXED = {_EIGHT: 8, _FOUR: 4}
_MOST_DIGITS = 10


def check_parts(message: bytes) -> None:
    """Refuse a message of very many parts, or whose parts are longer than it is.

    Those within its parts are not counted: there is one input alone.

    Raises:
        BadRequest: with the reason.
    """
    at = 0
    for _ in range(_MOST):
        if at == len(message):
            return
        key, at = _number(message, at)
        kind = key & 7
        if kind == _SIZED:
            size, at = _number(message, at)
            at += size
        elif kind == _NUMBER:
            _, at = _number(message, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise _malformed()
        if at > len(message):
            raise _malformed()
    if at != len(message):
        raise BadRequest(f"The message has more than {_MOST} parts.")


def _number(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, of seven bits a byte, and its end."""
    value = 0
    for digit, byte in enumerate(message[at : at + _MOST_DIGITS]):
        value |= (byte & 0x7F) << (7 * digit)
        if byte <= 0x7F:  # noqa: PLR2004 - the eighth bit says that more follow
            return value, at + digit + 1
    raise _malformed()


def _malformed() -> BadRequest:
    return BadRequest("The message is malformed.")
