"""The environment of a process that runs TensorFlow."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import modelserver
from modelserver.core import cuda

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.engine.runners.cards import Card

log = logging.getLogger(__name__)

# TensorFlow's levels: 1 shows warnings, among them why it uses no card; 2 shows errors
# only. The lines that are logged in a minute are limited anyway (``output``).
_WARNINGS, _ERRORS = "1", "2"
# Compiled kernels that the driver keeps, at most: its own default is a quarter of it,
# which TensorFlow may fill on a card that is newer than its kernels.
_CACHE_BYTES = str(4 << 30)
# Keras, which comes with TensorFlow, writes its settings into the user's home or, where
# there is none, into a folder "~" wherever it runs. Nothing here uses it.
_NO_HOME = f"{os.devnull}/keras"
# Cards are counted as nvidia-smi counts them, not by speed.
_ORDER = "PCI_BUS_ID"


def make_environ(gpu: str | None) -> dict[str, str]:
    """Make a child's environment: this package importable, one card visible.

    Args:
        gpu: the cards that it may see, as ``CUDA_VISIBLE_DEVICES`` names them; with
            ``None`` the variables about cards stay as they are.
    """
    environ = dict(os.environ)
    package = str(Path(modelserver.__file__).parent.parent)
    path = [package, *filter(None, [environ.get("PYTHONPATH")])]
    environ["PYTHONPATH"] = os.pathsep.join(path)
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _ERRORS if gpu is None else _WARNINGS)
    environ.setdefault("KERAS_HOME", _NO_HOME)
    environ.pop("API_TOKEN", None)
    if gpu is not None:
        environ |= card_variables(gpu)
        environ.setdefault("CUDA_CACHE_MAXSIZE", _CACHE_BYTES)
        search, dropped = cuda.without_cuda(environ.get("LD_LIBRARY_PATH", ""))
        if dropped and cuda.has_wheels():
            log.info(
                "models' processes do without %s of LD_LIBRARY_PATH, as the installed "
                "packages have CUDA",
                os.pathsep.join(dropped),
            )
            environ["LD_LIBRARY_PATH"] = search
    return environ


def card_variables(gpus: str) -> dict[str, str]:
    """Return the variables that name the cards to CUDA and TensorFlow.

    The last one is a belt: without it one op that runs before the session is made would
    take a card's whole memory.
    """
    return {
        "CUDA_VISIBLE_DEVICES": gpus,
        "CUDA_DEVICE_ORDER": _ORDER,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def usable_together(cards: Sequence[Card]) -> tuple[Card, ...]:
    """Return the cards that one process can use side by side.

    Of MIG's instances CUDA shows a process the first one only.
    """
    first = next(iter(cards), None)
    if first is not None and first.mig:
        return (first,)
    return tuple(card for card in cards if not card.mig)


def show_cards(cards: Sequence[Card]) -> None:
    """Let this process see these cards, in this order, once it imports TensorFlow."""
    if cards and "tensorflow" not in sys.modules:
        os.environ.update(card_variables(",".join(card.gpu for card in cards)))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _WARNINGS)
