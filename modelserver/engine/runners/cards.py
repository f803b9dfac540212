"""Which NVIDIA cards this process may use, without importing TensorFlow.

NVML, the driver's library behind nvidia-smi, tells them: in nvidia-smi's order, by
UUID, a card that is cut into MIG instances by theirs. Any of its calls may fail or be
unknown to a driver: then that reading is missing, and no other.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from modelserver.core import cuda
from modelserver.engine.runners.visible_cards import Card, choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_GIB = 1 << 30
# What an older nvidia-ml-py or driver does not know, or answers in a way of its own.
_ODD = (AttributeError, OSError, TypeError, ValueError)


class Memory(NamedTuple):
    """A card's memory in bytes."""

    free: int
    total: int


class Survey(NamedTuple):
    """The cards that may be used, and what is wrong with others.

    Attributes:
        cards: in the order in which they are to be used.
        problems: a sentence each, for the log.
        unwanted: whether ``CUDA_VISIBLE_DEVICES`` says that none is to be used.
    """

    cards: tuple[Card, ...] = ()
    problems: tuple[str, ...] = ()
    unwanted: bool = False

    @property
    def no_gpu(self) -> str:
        """Why no card can be used though there are signs of one; else empty."""
        return "" if self.cards else " ".join(self.problems)


NO_CARDS = Survey()
"""A machine without cards, or one whose cards are not to be used."""


def survey(environ: Mapping[str, str] = os.environ) -> Survey:
    """Find the cards that this process may use.

    ``CUDA_VISIBLE_DEVICES`` is obeyed; its numbers are nvidia-smi's. Where NVML cannot
    list cards, those are taken that the driver lists in ``/proc``. On a machine without
    any sign of NVIDIA this is empty, and nothing is wrong.
    """
    problems: list[str] = []
    found = _found(problems)
    known = found is not None
    if found is None:
        if not problems:
            return Survey()
        found = _listed()
    elif not found and not problems:
        problems.append("The NVIDIA driver lists no card.")
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    visible = choose(found, chosen, trusting=not known and not found)
    if visible.unwanted:
        return Survey(unwanted=True)
    problems += visible.problems
    order = environ.get("CUDA_DEVICE_ORDER", "")
    if len(found) > 1 and chosen and order.upper() == "FASTEST_FIRST":
        problems.append(
            "CUDA_DEVICE_ORDER=FASTEST_FIRST is not followed: the numbers in "
            "CUDA_VISIBLE_DEVICES are nvidia-smi's."
        )
    return Survey(tuple(visible.cards), tuple(problems))


def _found(problems: list[str]) -> list[Card] | None:
    """Ask NVML for every card; ``None`` where it cannot list them.

    Where nothing is added to the problems then, there is no sign of NVIDIA.
    """
    with _nvml() as failure:
        if failure is not None:
            problems += _unusable(failure)
            return None
        count = _ask("nvmlDeviceGetCount")
        if isinstance(count, Exception):
            problems.append(f"NVML cannot count the cards: {_words(count)}.")
            return None
        cards: list[Card] = []
        for index in range(int(count)):
            cards += _cards(index, problems)
        return cards


def _unusable(failure: Exception) -> list[str]:
    """Say why NVML cannot be used; nothing on a machine without NVIDIA."""
    code = getattr(failure, "value", None)
    absent = code == getattr(pynvml, "NVML_ERROR_LIBRARY_NOT_FOUND", 12)
    if not absent:
        why = cuda.hindrance()
        sentence = f"NVML, the NVIDIA driver's library, says: {_words(failure)}."
        return [sentence, why] if why else [sentence]
    if not cuda.any_signs():
        return []
    why = cuda.hindrance()
    sentence = (
        "libnvidia-ml.so.1 of the NVIDIA driver is missing, and TensorFlow uses no "
        "card without it; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility."
    )
    return [sentence, why] if why else [sentence]


def _cards(index: int, problems: list[str]) -> Iterator[Card]:
    """Give one card, or each of its MIG instances, or say why it is skipped."""
    handle = _ask("nvmlDeviceGetHandleByIndex", index)
    if isinstance(handle, Exception):
        problems.append(f"GPU {index} is passed over: {_words(handle)}.")
        return
    name = _text(_ask("nvmlDeviceGetName", handle)) or "unknown"
    uuid = _text(_ask("nvmlDeviceGetUUID", handle))
    mode = _ask("nvmlDeviceGetMigMode", handle)
    if isinstance(mode, Exception) or not mode[0]:
        yield Card(uuid or str(index), f"GPU {index}", name, index, uuid)
        return
    instances = list(_instances(handle))
    for number, (instance, words) in enumerate(instances):
        yield Card(
            instance, f"GPU {index} MIG {number}", words or name, index, uuid, mig=True
        )
    if not instances:
        problems.append(
            f"GPU {index} is passed over: MIG is on and it has no instance; "
            "`nvidia-smi mig -cgi PROFILE -C` makes one, `nvidia-smi -mig 0` turns it "
            "off."
        )


def _instances(handle: Any) -> Iterator[tuple[str, str]]:
    """Give UUID and name of a card's MIG instances."""
    most = _ask("nvmlDeviceGetMaxMigDeviceCount", handle)
    for number in range(0 if isinstance(most, Exception) else int(most)):
        instance = _ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if not isinstance(instance, Exception):
            uuid = _text(_ask("nvmlDeviceGetUUID", instance))
            if uuid:
                yield uuid, _text(_ask("nvmlDeviceGetName", instance))


def _listed() -> list[Card]:
    """List the cards that ``/proc`` shows and that have a node here."""
    names = {path.name for path in cuda.device_nodes()}
    reachable = [one for one in cuda.listed() if f"nvidia{one.minor}" in names]
    return [
        Card(one.uuid or str(index), f"GPU {index}", one.model, index, one.uuid)
        for index, one in enumerate(reachable)
    ]


def memory(cards: Iterable[Card]) -> dict[str, Memory | None]:
    """Measure the cards' memory, by their name for CUDA; ``None``: it is not told."""
    measured: dict[str, Memory | None] = dict.fromkeys(card.gpu for card in cards)
    with _nvml() as failure:
        if failure is not None:
            return measured
        for card in cards:
            told = _ask("nvmlDeviceGetMemoryInfo", _handle(card))
            if not isinstance(told, Exception) and told.total:
                measured[card.gpu] = Memory(int(told.free), int(told.total))
    return measured


def _handle(card: Card) -> Any:
    if card.gpu != str(card.number):
        handle = _ask("nvmlDeviceGetHandleByUUID", card.gpu)
        if not isinstance(handle, Exception) or card.mig:
            return handle
    return _ask("nvmlDeviceGetHandleByIndex", card.number)


def describe(card: Card, told: Memory | None) -> str:
    """Say in words what a card is and how much of it is free."""
    words = f"{card.words}: {card.name}"
    if told is None:
        return f"{words}, its memory is not told"
    return f"{words}, {told.free / _GIB:.1f} of {told.total / _GIB:.1f} GiB free"


def driver() -> str:
    """Return the driver's version, as NVML tells it; empty where it does not."""
    with _nvml() as failure:
        return _text(_ask("nvmlSystemGetDriverVersion")) if failure is None else ""


def memory_by_process() -> dict[int, int]:
    """Return the bytes that each process holds on all cards together, by process id.

    A process is left out where a card does not tell its memory, as on WSL; one card
    that does not answer costs its own reading only. In a container the driver may tell
    of other ids.
    """
    held: dict[int, int] = {}
    untold: set[int] = set()
    with _nvml() as failure:
        count = _ask("nvmlDeviceGetCount") if failure is None else 0
        for index in range(0 if isinstance(count, Exception) else int(count)):
            handle = _ask("nvmlDeviceGetHandleByIndex", index)
            running = _ask("nvmlDeviceGetComputeRunningProcesses", handle)
            for one in () if isinstance(running, Exception) else running:
                if one.usedGpuMemory is None:
                    untold.add(one.pid)
                else:
                    held[one.pid] = held.get(one.pid, 0) + one.usedGpuMemory
    return {pid: size for pid, size in held.items() if pid not in untold}


@contextlib.contextmanager
def _nvml() -> Iterator[Exception | None]:
    """Open NVML, and give why that failed; closing it may fail without harm."""
    opened = _ask("nvmlInit")
    failed = opened if isinstance(opened, Exception) else None
    try:
        yield failed
    finally:
        if failed is None:
            _ask("nvmlShutdown")


def _ask(name: str, *arguments: Any) -> Any:
    """Call NVML; an error is returned, not raised, and so is one in the arguments."""
    for argument in arguments:
        if isinstance(argument, Exception):
            return argument
    try:
        return getattr(pynvml, name)(*arguments)
    except (pynvml.NVMLError, *_ODD) as error:
        return error


def _text(told: Any) -> str:
    """Read what older versions of the library give as bytes; empty for an error."""
    if isinstance(told, bytes):
        return told.decode("utf-8", "replace")
    return told if isinstance(told, str) else ""


def _words(error: Exception) -> str:
    """Say an NVML error in words, which end without a dot."""
    return (str(error) or type(error).__name__).rstrip(".")
