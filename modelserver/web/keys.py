"""The token where other servers' clients put it: in a field of the form.

A body that may have it is read before it is known whether its client may ask at all, so
only so far.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from modelserver.core.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WITHIN_BYTES = 1024 * 1024
"""How much of a body is kept before the token was seen in it."""


class FormKey:
    """Demands the token of a form. Immutable.

    Args:
        token: ``API_TOKEN``.
        names: of the fields that may have it.
    """

    def __init__(self, token: bytes, names: Sequence[str]) -> None:
        self._token = token
        self._names = tuple(names)

    def is_in(self, fields: Mapping[str, Sequence[str]]) -> bool:
        """Return whether a field is the token, in constant time for each."""
        return any(
            hmac.compare_digest(value.encode(), self._token)
            for name in self._names
            for value in fields.get(name, ())
        )

    def check(self, fields: Mapping[str, Sequence[str]], size: int = 0) -> None:
        """Refuse a form without the token.

        Args:
            fields: those that were read.
            size: bytes of photos that were read with them; 0 at the form's end.

        Raises:
            Unauthorized: it is not there, and may come no more.
        """
        if (size == 0 or size > WITHIN_BYTES) and not self.is_in(fields):
            raise Unauthorized
