"""Limits of the system under which no model could be served, named at the start.

Later they would be errors of a library's, of each process anew.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.errors import StartError
from modelserver.core.process_limits import MIB
from modelserver.engine.decoder_jobs import memory_bytes

if TYPE_CHECKING:
    from modelserver.core.settings import Settings

# An engine with one model and two decoders has some 30, idle.
_LEAST_FILES = 64
# The processes of one model have some 40 threads, idle.
_LEAST_THREADS = 64
# TensorFlow's libraries take 1.5 GB of addresses before a model is loaded, and an
# engine, which maps its decoders' memory, 1.8.
_LEAST_ADDRESSES = 2048 * MIB


class _Least(NamedTuple):
    """What a limit must allow.

    Attributes:
        name: as ``RLIMIT_`` and systemd's ``Limit`` are followed by.
        option: of the shell's ``ulimit``.
        least: what the server takes.
        words: what it is a limit of; with places for its value and for ``least``.
        scale: what a unit of both is.
    """

    name: str
    option: str
    least: int
    words: str
    scale: int = 1


def check(settings: Settings) -> None:
    """Refuse limits that no model could be served under.

    Raises:
        StartError: it names the limit and how to raise it.
    """
    import resource  # noqa: PLC0415 - not on Windows

    for one in _needs(settings):
        allowed = resource.getrlimit(getattr(resource, f"RLIMIT_{one.name}"))[0]
        if allowed != resource.RLIM_INFINITY and allowed < one.least:
            what = one.words.format(allowed // one.scale, -(-one.least // one.scale))
            raise StartError(
                f"{what}: raise that limit (ulimit -{one.option}, Limit{one.name}= in"
                " a unit), or leave it out."
            )


def _needs(settings: Settings) -> list[_Least]:
    frames = memory_bytes(2 * settings.max_pixels_in_flight)
    needs = [
        _Least(
            "NOFILE",
            "n",
            _LEAST_FILES,
            "A process may open {} files here, and the server takes {}",
        ),
        _Least(
            "AS",
            "v",
            _LEAST_ADDRESSES,
            "A process may map {} MiB of memory here, and TensorFlow takes {}",
            MIB,
        ),
    ]
    if settings.isolation == "process":
        words = (
            "A file may have {} MiB here, and the memory for pixels is one of {} MiB"
            " (MAX_PIXELS_IN_FLIGHT)"
        )
        needs.append(_Least("FSIZE", "f", frames, words, MIB))
    if os.geteuid():  # root has no such limit
        words = "A user may have {} processes and threads here, and the server takes {}"
        needs.append(_Least("NPROC", "u", _LEAST_THREADS, words))
    return needs
