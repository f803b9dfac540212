"""Files that appear whole or not at all. Needs no TensorFlow."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``target`` if nothing is raised.

    The temporary file lies in the same folder, under a name that is no model's, so
    that ``target`` is there whole or not at all.
    """
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
