"""What ``CUDA_VISIBLE_DEVICES`` means, as people write it.

CUDA itself stops without a word at the first entry that names no card. Here it stops
with a sentence, and the numbers are nvidia-smi's, whatever CUDA's order is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What says on purpose that no card is to be used: Slurm's word and Docker's among them.
_NONE = {"", "-1", "nodevfiles", "none", "void"}
_NUMBER = re.compile(r"[0-9]{1,4}")  # of ASCII only, unlike str.isdigit
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+", re.IGNORECASE)


class Card(NamedTuple):
    """A card, or an instance of one that MIG cuts into several.

    Attributes:
        gpu: as ``CUDA_VISIBLE_DEVICES`` names it: its UUID; its number where the driver
            does not tell that.
        words: ``GPU 0`` or ``GPU 0 MIG 1``, as nvidia-smi counts.
        name: the product's.
        number: nvidia-smi's of the card.
        uuid: of the card; empty where it is not told.
        mig: whether it is an instance; a process sees one of those at most.
    """

    gpu: str
    words: str
    name: str
    number: int
    uuid: str = ""
    mig: bool = False


class Visible(NamedTuple):
    """What may be used of the cards there are.

    Attributes:
        problems: a sentence for each entry that is not as it was meant.
        unwanted: whether none is to be used, on purpose.
    """

    cards: list[Card]
    problems: list[str]
    unwanted: bool = False


def choose(cards: list[Card], chosen: str | None, *, trusting: bool = False) -> Visible:
    """Take the cards that an operator names.

    Args:
        cards: all there are, in nvidia-smi's order.
        chosen: the variable's value; ``None`` where it is not set.
        trusting: whether names are taken that none of the cards has.
    """
    if chosen is None:
        return Visible(list(cards), [])
    if chosen.strip().lower() in _NONE:
        return Visible([], [], unwanted=True)
    taken: list[Card] = []
    problems: list[str] = []
    for entry in map(str.strip, chosen.split(",")):
        named, problem = _named(entry, cards, trusting=trusting)
        if problem:
            rest = "; it and what follows it is not used" if taken else ""
            problems.append(f"CUDA_VISIBLE_DEVICES={_quoted(chosen)}: {problem}{rest}.")
            break
        again = [card.words for card in named if card in taken]
        if again:
            problems.append(
                f"CUDA_VISIBLE_DEVICES={_quoted(chosen)} names {again[0]} twice; it is "
                "used once."
            )
        taken += [card for card in named if card not in taken]
    return Visible(taken, problems)


def _named(entry: str, cards: list[Card], *, trusting: bool) -> tuple[list[Card], str]:
    """Find what an entry names; the second is what is wrong with it."""
    number, uuid = _NUMBER.fullmatch(entry), _UUID.fullmatch(entry)
    if number:
        found = [card for card in cards if card.number == int(entry)]
    elif uuid:
        found = _by_uuid(entry.lower(), cards)
        if len({card.uuid or card.gpu for card in found}) > 1:
            return [], f"{_quoted(entry)} is the start of more than one card's UUID"
    else:
        what = "unset it for all" if entry.lower() == "all" else _LISTS
        return [], f"{_quoted(entry)} names no card; {what}"
    if found:
        return found, ""
    unknown = not any(card.uuid for card in cards)
    if trusting or (uuid and cards and unknown):
        words, which = (f"GPU {entry}", int(entry)) if number else (entry, -1)
        return [Card(entry, words, "unknown", which)], ""
    return [], f"there is no card {_quoted(entry)}; {_LISTS}"


_LISTS = "`nvidia-smi -L` lists numbers and UUIDs"


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


def _quoted(text: str) -> str:
    return ascii(text[:100])
