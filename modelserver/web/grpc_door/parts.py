"""The parts of a message, counted and told apart before any of it is parsed.

An empty part is two bytes in a message and some eighty once it is parsed: 32 MiB of
them would take more than 1 GiB, and far more as objects of Python's. A tensor's bytes
would be copied twice.
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


def split(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """Part the bytes of one field from the rest of a message, without copying them.

    Parts within the message's parts are not counted: there is one input alone.

    Args:
        number: the field's; 0 for none.

    Returns:
        The rest, to be parsed; and the field's values, in their order.

    Raises:
        BadRequest: it has very many parts, or some are longer than it is.
    """
    view, rest, values = memoryview(message), [], []
    at = count = 0
    while at < len(message):
        count += 1
        if count > _MOST:
            raise BadRequest(f"The message has more than {_MOST} parts.")
        key, begin = _number(message, at)
        begin, end = _value(message, key & 7, begin)
        if key == number << 3 | _SIZED:
            values.append(view[begin:end])
        else:
            rest.append(view[at:end])
        at = end
    return b"".join(rest), values


def _value(message: bytes, kind: int, at: int) -> tuple[int, int]:
    """Return where the value that a part's first number announces begins and ends."""
    if kind == _SIZED:
        size, at = _number(message, at)
        end = at + size
    elif kind == _NUMBER:
        _, end = _number(message, at)
    elif kind in _FIXED:
        end = at + _FIXED[kind]
    else:
        raise _malformed()
    if end > len(message):
        raise _malformed()
    return at, end


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
