"""The NVIDIA cards that this process may use, found without importing TensorFlow.

NVML, the driver's library behind nvidia-smi, lists them: in nvidia-smi's order, by
UUID, a card that is cut into MIG instances by theirs. Any of its calls may fail or be
unknown to a driver: then that value is missing, and no other.

``CUDA_VISIBLE_DEVICES`` is obeyed as people write it. CUDA itself stops without a word
at the first entry that names no card. Here it stops with a sentence, and the numbers
are nvidia-smi's in any order of CUDA's.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from modelserver.core import cuda

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_GIB = 1 << 30
# Calls that an older nvidia-ml-py or driver does not know, or answers in its own way.
_ODD = (AttributeError, OSError, TypeError, ValueError)
# Values that exclude all cards on purpose: Slurm's word and Docker's among them.
_NONE = {"", "-1", "nodevfiles", "none", "void"}
_NUMBER = re.compile(r"[0-9]{1,4}")  # of ASCII only, unlike str.isdigit
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+", re.IGNORECASE)
_LISTS = "`nvidia-smi -L` lists numbers and UUIDs"


class Card(NamedTuple):
    """A card, or an instance of one that MIG cuts into several.

    Attributes:
        gpu: its name for ``CUDA_VISIBLE_DEVICES``: its UUID; its number if the driver
            gives no UUID.
        words: ``GPU 0`` or ``GPU 0 MIG 1``, as nvidia-smi counts.
        name: the product's.
        number: nvidia-smi's of the card.
        uuid: of the card; empty if unknown.
        mig: whether it is an instance; a process sees one of those at most.
    """

    gpu: str
    words: str
    name: str
    number: int
    uuid: str = ""
    mig: bool = False


class Memory(NamedTuple):
    """A card's memory in bytes."""

    free: int
    total: int


class Selection(NamedTuple):
    """The cards that ``CUDA_VISIBLE_DEVICES`` selects.

    Attributes:
        problems: a sentence for each entry that cannot be followed.
        unwanted: whether none is to be used, on purpose.
    """

    cards: list[Card]
    problems: list[str]
    unwanted: bool = False


class Survey(NamedTuple):
    """The cards that may be used, and why others may not.

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

    ``CUDA_VISIBLE_DEVICES`` is obeyed; its numbers are nvidia-smi's. If NVML cannot
    list cards, those are taken that the driver lists in ``/proc``. On a machine without
    any sign of NVIDIA the result is empty, and without problems.
    """
    problems: list[str] = []
    found = _list_by_nvml(problems)
    known = found is not None
    if found is None:
        if not problems:
            return Survey()
        found = _list_by_proc()
    elif not found and not problems:
        problems.append("The NVIDIA driver lists no card.")
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    selection = select(found, chosen, trusting=not known and not found)
    if selection.unwanted:
        return Survey(unwanted=True)
    problems += selection.problems
    order = environ.get("CUDA_DEVICE_ORDER", "")
    if len(found) > 1 and chosen and order.upper() == "FASTEST_FIRST":
        problems.append(
            "CUDA_DEVICE_ORDER=FASTEST_FIRST is not followed: the numbers in "
            "CUDA_VISIBLE_DEVICES are nvidia-smi's."
        )
    return Survey(tuple(selection.cards), tuple(problems))


def select(
    cards: list[Card], chosen: str | None, *, trusting: bool = False
) -> Selection:
    """Select the cards that an operator names.

    Args:
        cards: all there are, in nvidia-smi's order.
        chosen: the variable's value; ``None`` if it is not set.
        trusting: whether names are accepted that none of the cards has.
    """
    if chosen is None:
        return Selection(list(cards), [])
    if chosen.strip().lower() in _NONE:
        return Selection([], [], unwanted=True)
    taken: list[Card] = []
    problems: list[str] = []
    for entry in map(str.strip, chosen.split(",")):
        matches, problem = _match(entry, cards, trusting=trusting)
        if problem:
            rest = "; it and what follows it is not used" if taken else ""
            problems.append(f"CUDA_VISIBLE_DEVICES={_quote(chosen)}: {problem}{rest}.")
            break
        again = [card.words for card in matches if card in taken]
        if again:
            problems.append(
                f"CUDA_VISIBLE_DEVICES={_quote(chosen)} names {again[0]} twice; it is "
                "used once."
            )
        taken += [card for card in matches if card not in taken]
    return Selection(taken, problems)


def _match(entry: str, cards: list[Card], *, trusting: bool) -> tuple[list[Card], str]:
    """Find the cards that an entry names; the second value is a problem with it."""
    number, uuid = _NUMBER.fullmatch(entry), _UUID.fullmatch(entry)
    if number:
        found = [card for card in cards if card.number == int(entry)]
    elif uuid:
        found = _by_uuid(entry.lower(), cards)
        if len({card.uuid or card.gpu for card in found}) > 1:
            return [], f"{_quote(entry)} is the start of more than one card's UUID"
    else:
        fix = "unset it for all" if entry.lower() == "all" else _LISTS
        return [], f"{_quote(entry)} names no card; {fix}"
    if found:
        return found, ""
    unknown = not any(card.uuid for card in cards)
    if trusting or (uuid and cards and unknown):
        words, index = (f"GPU {entry}", int(entry)) if number else (entry, -1)
        return [Card(entry, words, "unknown", index)], ""
    return [], f"there is no card {_quote(entry)}; {_LISTS}"


def _by_uuid(entry: str, cards: list[Card]) -> list[Card]:
    """Find the card, its instances or the one instance whose UUID begins so."""
    exact = [card for card in cards if entry in {card.gpu.lower(), card.uuid.lower()}]
    if exact:
        return exact
    return [
        card
        for card in cards
        if card.gpu.lower().startswith(entry) or card.uuid.lower().startswith(entry)
    ]


def _quote(text: str) -> str:
    return ascii(text[:100])


def _list_by_nvml(problems: list[str]) -> list[Card] | None:
    """Ask NVML for every card; ``None`` if it cannot list them.

    If nothing is added to the problems then, there is no sign of NVIDIA.
    """
    with _nvml() as failure:
        if failure is not None:
            problems += _why_unusable(failure)
            return None
        count = _ask("nvmlDeviceGetCount")
        if isinstance(count, Exception):
            problems.append(f"NVML cannot count the cards: {_words(count)}.")
            return None
        cards: list[Card] = []
        for index in range(int(count)):
            cards += _cards_at(index, problems)
        return cards


def _why_unusable(failure: Exception) -> list[str]:
    """Say why NVML cannot be used; nothing on a machine without NVIDIA."""
    code = getattr(failure, "value", None)
    absent = code == getattr(pynvml, "NVML_ERROR_LIBRARY_NOT_FOUND", 12)
    if absent and not cuda.any_signs():
        return []
    sentence = f"NVML, the NVIDIA driver's library, says: {_words(failure)}."
    if absent:
        sentence = (
            "libnvidia-ml.so.1 of the NVIDIA driver is missing, and TensorFlow uses no "
            "card without it; a container needs "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility."
        )
    return [sentence, *filter(None, [cuda.hindrance()])]


def _cards_at(index: int, problems: list[str]) -> Iterator[Card]:
    """Yield one card, or each of its MIG instances, or say why it is skipped."""
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
    """Yield UUID and name of each of a card's MIG instances."""
    count = _ask("nvmlDeviceGetMaxMigDeviceCount", handle)
    for number in range(0 if isinstance(count, Exception) else int(count)):
        instance = _ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if not isinstance(instance, Exception):
            uuid = _text(_ask("nvmlDeviceGetUUID", instance))
            if uuid:
                yield uuid, _text(_ask("nvmlDeviceGetName", instance))


def _list_by_proc() -> list[Card]:
    """List the cards that ``/proc`` shows and that have a device node here."""
    names = {path.name for path in cuda.device_nodes()}
    reachable = [node for node in cuda.list_cards() if f"nvidia{node.minor}" in names]
    return [
        Card(node.uuid or str(index), f"GPU {index}", node.model, index, node.uuid)
        for index, node in enumerate(reachable)
    ]


def memory(cards: Iterable[Card]) -> dict[str, Memory | None]:
    """Measure the cards' memory, by their name for CUDA; ``None`` if unknown."""
    measured: dict[str, Memory | None] = dict.fromkeys(card.gpu for card in cards)
    with _nvml() as failure:
        if failure is not None:
            return measured
        for card in cards:
            info = _ask("nvmlDeviceGetMemoryInfo", _handle(card))
            if not isinstance(info, Exception) and info.total:
                measured[card.gpu] = Memory(int(info.free), int(info.total))
    return measured


def _handle(card: Card) -> Any:
    if card.gpu != str(card.number):
        handle = _ask("nvmlDeviceGetHandleByUUID", card.gpu)
        if not isinstance(handle, Exception) or card.mig:
            return handle
    return _ask("nvmlDeviceGetHandleByIndex", card.number)


def describe(card: Card, measured: Memory | None) -> str:
    """Describe a card in words, with its free memory."""
    words = f"{card.words}: {card.name}"
    if measured is None:
        return f"{words}, its memory is not told"
    free, total = measured.free / _GIB, measured.total / _GIB
    return f"{words}, {free:.1f} of {total:.1f} GiB free"


def driver() -> str:
    """Return the driver's version by NVML; empty if it gives none."""
    with _nvml() as failure:
        return _text(_ask("nvmlSystemGetDriverVersion")) if failure is None else ""


def memory_by_process() -> dict[int, int]:
    """Return the bytes that each process holds on all cards together, by process id.

    A process is left out if a card does not give its memory, as on WSL; a card that
    does not answer costs its own values only. In a container the driver may give other
    process ids.
    """
    held: dict[int, int] = {}
    unknown: set[int] = set()
    with _nvml() as failure:
        count = _ask("nvmlDeviceGetCount") if failure is None else 0
        for index in range(0 if isinstance(count, Exception) else int(count)):
            handle = _ask("nvmlDeviceGetHandleByIndex", index)
            running = _ask("nvmlDeviceGetComputeRunningProcesses", handle)
            for process in () if isinstance(running, Exception) else running:
                if process.usedGpuMemory is None:
                    unknown.add(process.pid)
                else:
                    size = held.get(process.pid, 0)
                    held[process.pid] = size + process.usedGpuMemory
    return {pid: size for pid, size in held.items() if pid not in unknown}


@contextlib.contextmanager
def _nvml() -> Iterator[Exception | None]:
    """Open NVML, and give the error if that failed; closing it may fail harmlessly."""
    outcome = _ask("nvmlInit")
    failure = outcome if isinstance(outcome, Exception) else None
    try:
        yield failure
    finally:
        if failure is None:
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


def _text(answer: Any) -> str:
    """Decode text that older libraries give as bytes; empty for an error."""
    if isinstance(answer, bytes):
        return answer.decode("utf-8", "replace")
    return answer if isinstance(answer, str) else ""


def _words(error: Exception) -> str:
    """Return an NVML error in words, without a dot at the end."""
    return (str(error) or type(error).__name__).rstrip(".")
