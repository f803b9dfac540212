"""Findings for an operator about a model, and those that its signature gives.

Each finding has a code that stays the same, which ``docs/doctor.md`` lists. All
functions are pure, and need no TensorFlow. ``engine.model_findings`` has those that
come of a model's files and labels.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.signatures import Signature

Level = Literal["error", "warning", "note"]

# Code to level and meaning. An error keeps a model from serving, or makes its answers
# wrong by its own golden image; a warning may make them wrong; a note is a choice.
CODES: dict[str, tuple[Level, str]] = {
    "folder": ("warning", "a file in the folder is not used, or not as it was meant"),
    "no-models": ("error", "there is no model in the folder"),
    "not-frozen": ("warning", "a SavedModel, Keras or TensorFlow.js model lies there"),
    "labels-unreadable": ("error", "the label map cannot be read"),
    "labels-odd": ("warning", "something in the label map is skipped or changed"),
    "labels-none": ("warning", "there is no label map: ids are given as labels"),
    "labels-gaps": ("note", "ids are left out between the label map's first and last"),
    "labels-duplicate": ("warning", "several ids have the same name"),
    "labels-offset": ("warning", "which output is which label is a guess"),
    "labels-missing": ("warning", "some of the graph's classes have no name"),
    "labels-unused": ("warning", "some ids are of no class that the graph has"),
    "sidecar": ("error", "the sidecar is not valid"),
    "op-refused": ("error", "the graph uses an op that no graph for images needs"),
    "graph-refused": ("error", "the graph cannot be served"),
    "crashed": ("error", "the model's process died, or was not ready in time"),
    "batch-one": ("note", "the graph takes one image a run"),
    "unsteady": ("warning", "the same photo is answered differently from run to run"),
    "repaired": ("note", "what freezing or another machine left in it was repaired"),
    "batch-filled": ("note", "the graph takes a number of images a run, no fewer"),
    "batch-mixed": ("warning", "images of one run change each other's answers"),
    "device-differs": ("warning", "the GPU answers otherwise than the CPU"),
    "guessed": ("note", "something was guessed that the sidecar can say"),
    "scaling-guessed": ("warning", "nothing tells how the graph wants its pixels"),
    "scaling-against": ("warning", "evidence speaks against how the model is fed"),
    "scaling-changed": ("note", "the last version fed the model otherwise"),
    "size-guessed": ("warning", "nothing tells which size of image the graph takes"),
    "white-on-black": ("warning", "a network for small gray images, such as digits"),
    "scores-guessed": ("warning", "what the graph's scores mean is a guess"),
    "scores-outside": ("warning", "scores are not from 0 to 1, or no numbers"),
    "outputs-odd": ("warning", "the outputs do not fit together or say nothing"),
    "golden-failed": ("error", "the golden image does not come out as expected"),
    "golden-none": ("note", "there is no golden image"),
    "gpu-failed": ("error", "the card that the model was given cannot be used now"),
    "gpu-unused": ("warning", "there is a card, and the model runs on the CPU"),
    "gpu-compiles": ("note", "the card's kernels are compiled at first use"),
    "run-failed": ("error", "the model cannot be run on a photo"),
}
# Sides of MNIST's images and its like are 28 to 32.
_DIGIT_SIDE = 32
# Words of a guess, and the sidecar's keys that override it.
_OVERRIDES = (
    (re.compile(r"is fed with \("), '"mean", "scale" and "channels"'),
    (re.compile(r"takes any size"), '"size"'),
    (re.compile(r"numbers an image"), '"size" and "channels"'),
    (re.compile(r"does not tell its channels"), '"channels"'),
    (re.compile(r"probability of its own|independent classes"), '"independent"'),
    (re.compile(r"taken for logits, a softmax"), '"output" or "independent"'),
    (re.compile(r"of the suppression|as Azure"), '"box_order" and "label_offset"'),
    (re.compile(r"was chosen over|have no names|comes from|one value"), '"output"'),
    (re.compile(r"has no known shape"), '"input"'),
    (re.compile(r"middle square of an upload"), '"resize"'),
)
_SCORES_UNTOLD = re.compile(r"taken for (a logit|probabilities)|by its name taken")
_SIZE_UNTOLD = re.compile(r"takes any size|numbers an image")
_UNTOLD = "nothing in the graph tells"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        code: one of ``CODES``.
        level: as ``CODES`` has it.
        model: name of the model; empty for a finding about the folder.
        message: the finding, a sentence.
        fix: the remedy, a sentence; empty if none is needed.
    """

    code: str
    level: Level
    model: str
    message: str
    fix: str = ""


def found(code: str, model: str, message: str, fix: str = "") -> Finding:
    """Return a finding with its code's level."""
    return Finding(
        code=code, level=CODES[code][0], model=model, message=message, fix=fix
    )


def of_signature(name: str, signature: Signature) -> Iterator[Finding]:
    """Return the findings that a model's signature gives by itself."""
    yield from of_guesses(name, signature)
    yield from of_scaling(name, signature)
    yield from _of_batch(name, signature)
    yield from _of_digits(name, signature)


def of_guesses(name: str, signature: Signature) -> Iterator[Finding]:
    """Return each guess with the sidecar's keys that override it."""
    for guess in signature.guesses:
        keys = override(guess)
        code = "guessed"
        if _is_of_scaling(guess):
            code = "scaling-guessed"
        if _UNTOLD in guess and _SIZE_UNTOLD.search(guess):
            code = "size-guessed"
        if _SCORES_UNTOLD.search(guess):
            code = "scores-guessed"
        fix = f"if that is wrong, put {keys} into {name}.json" if keys else ""
        if code == "scaling-guessed":
            fix = _remedy(name, signature)
        yield found(code, name, guess, fix)


def other_scaling(guess: str) -> str:
    """Return the likeliest scaling beside one that was merely guessed; else empty."""
    if not _is_of_scaling(guess):
        return ""
    return "-1..1" if "take 0..1" in guess else "0..1"


def _is_of_scaling(guess: str) -> bool:
    """Return whether a scaling was merely guessed."""
    return _UNTOLD in guess and "is fed with (" in guess


def _remedy(name: str, signature: Signature) -> str:
    """Return the remedy for a scaling that is a mere guess."""
    now = sidecar_line(signature)
    other = '{"mean": 127.5, "scale": 0.00784313725490196}'
    return (
        f"put the right one into {name}.json: {now} is what is fed now, {other} would "
        "be [-1, 1]; python -m modelserver check --photo P --label L shows which one "
        "sees L; for a model of your own, import --scaling writes it"
    )


def sidecar_line(signature: Signature) -> str:
    """Return the line of a sidecar that fixes how a model is fed."""
    numbers = {
        key: values[0] if len(values) == 1 else values
        for key, values in (("mean", signature.mean), ("scale", signature.scale))
    }
    order = {"channels": "bgr"} if signature.bgr else {}
    return json.dumps({**numbers, **order})


def of_scaling(name: str, signature: Signature) -> Iterator[Finding]:
    """Return evidence against a model's scaling, and whether it has changed."""
    scaling = signature.scaling
    if scaling is None:
        return
    for sentence in scaling.against:
        yield found(
            *("scaling-against", name),
            f"it is fed as {_SAYS[scaling.source]}, but {sentence}",
            "python -m modelserver check --photo P --label L shows which scaling sees "
            f"L; put that line into {name}.json",
        )
    if scaling.formerly:
        yield found(
            *("scaling-changed", name),
            f"the last version fed it with {scaling.formerly}; {scaling.source} "
            f"decides now: {scaling.why}",
            f"if the answers are worse now, say the scaling in {name}.json",
        )


# Who says how a model is fed, for a sentence.
_SAYS = {
    "sidecar": "the sidecar says",
    "arithmetic": "the graph's own arithmetic says",
    "export files": "the files of its export say",
    "architecture": "its architecture is known to be fed",
    "statistics": "its own statistics say",
    "default": "most networks are",
}


def override(guess: str) -> str:
    """Return the sidecar's keys that override a guess; empty if none does."""
    return next((keys for pattern, keys in _OVERRIDES if pattern.search(guess)), "")


def _of_batch(name: str, signature: Signature) -> Iterator[Finding]:
    if signature.batch == 1:
        yield found(
            *("batch-one", name, "the graph takes one image a run"),
            "nothing on a CPU; for a GPU export it with an open batch dimension",
        )


def _of_digits(name: str, signature: Signature) -> Iterator[Finding]:
    """Return a warning for networks for digits: no graph says that ink is white."""
    size = signature.size
    if signature.channels == 1 and size is not None and max(size) <= _DIGIT_SIDE:
        yield found(
            *("white-on-black", name),
            f"it takes small gray images ({size[1]} x {size[0]}): networks for digits "
            "and letters are trained with white ones on black, so dark ink on paper is "
            "answered wrongly",
            f'send photos with a dark ground, or put {{"mean": 255, "scale": '
            f"-0.00392}} into {name}.json, which turns them round",
        )
