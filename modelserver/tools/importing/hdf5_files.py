"""HDF5 files from anyone: refuse those that lead to other files, or unpack to too much.

A file may name others whose bytes are then its own weights: by links, by data sets that
lie elsewhere, or by ones put together of several. Of some kilobytes it may also claim
to hold terabytes. Keras 2 would read all of it.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import h5py

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.source_models import (
    MAX_WEIGHT_BYTES,
    conversion_errors,
)

if TYPE_CHECKING:
    from pathlib import Path

_MAX_OBJECTS = 100_000
# h5py's and HDF5's own errors for a file that is damaged.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError)


def check(path: Path) -> None:
    """Check a file before its data is read.

    Raises:
        ConversionError: it leads out of itself, holds too much or is damaged.
    """
    damaged = f"{path.name} is no whole HDF5 file"
    with conversion_errors(damaged, _DAMAGED), h5py.File(path) as file:
        fault = _find_fault(file)
    if fault is not None:
        raise ConversionError(f"{path.name} {fault}")


def _find_fault(file: h5py.File) -> str | None:
    """Return what is wrong with a file; ``None`` if nothing is.

    A walk ends with the first thing that a function returns; none may raise an error.
    """
    links, nbytes = count(1), 0

    def check_link(name: str, link: object) -> str | None:
        if next(links) > _MAX_OBJECTS:
            return f"holds more than {_MAX_OBJECTS} objects"
        return _leads_out(name) if isinstance(link, h5py.ExternalLink) else None

    def check_object(name: str, found: object) -> str | None:
        nonlocal nbytes
        if not isinstance(found, h5py.Dataset):
            return None
        if found.external or found.is_virtual:
            return _leads_out(name)
        nbytes += found.nbytes
        if nbytes > MAX_WEIGHT_BYTES:
            return f"unpacks to more than {MAX_WEIGHT_BYTES >> 20} MiB"
        return None

    # Links first: the second walk is by objects, and knows none of them.
    fault: str | None = file.visititems_links(check_link)
    return fault or file.visititems(check_object)


def _leads_out(name: str) -> str:
    return (
        f"leads to another file ({name}), which is not read; save the whole model into "
        "one file"
    )
