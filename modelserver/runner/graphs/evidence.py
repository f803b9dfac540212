"""Weigh the evidence for how a graph wants its pixels; the first that speaks wins.

In this order: the sidecar, arithmetic in the graph, the export's other files, a known
architecture's node names, the network's own statistics, and the commonest habit. If a
later one contradicts the winner, that is reported, so nobody needs to trust the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.errors import GraphError
from modelserver.core.signatures import Evidence
from modelserver.runner.graphs.former_defaults import (
    former_classifier_scaling,
    former_detector_scaling,
)
from modelserver.runner.graphs.scaling import (
    RAW,
    SYMMETRIC,
    UNIT,
    Scaling,
    formula,
    inner_scaling,
    known_architecture,
    known_layers,
)
from modelserver.runner.graphs.statistics import Verdict, judge_training
from modelserver.runner.graphs.traversal import join_names, last_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelserver.core.exports import Export
    from modelserver.core.signatures import Sidecar
    from modelserver.runner.graphs.inputs import ImageInput
    from modelserver.runner.graphs.pixels import Pixels

# Inputs of the Object Detection API take 0..255 also as floats.
_RAW_INPUTS = frozenset(
    {"image_tensor", "input_tensor", "serving_default_input_tensor"}
)
# Two scalings that differ by more than this part of the range, at black or at white,
# say different things.
_CLEARLY = 0.25


@dataclass(frozen=True)
class ScalingChoice:
    """How a graph is fed, the evidence that won, and a sentence for each guess."""

    scaling: Scaling
    evidence: Evidence | None
    guesses: tuple[str, ...]


@dataclass(frozen=True)
class Habits:
    """How graphs of one task are commonly fed.

    Attributes:
        scaling: the commonest one, for a graph without evidence.
        named: returns the scaling of names in the graph, given the image's tensor.
        formerly: returns the scaling that release 0.1 chose, given the image's tensor
            and the walk by ``follow_pixels``.
        any_size: a graph that can be run on images of any size is fed any.
        rank: of an output from which on its first axis is the batch.
    """

    scaling: Scaling
    named: Callable[[Any], Scaling | None]
    formerly: Callable[[Any, list[Pixels]], Scaling]
    any_size: bool = False
    rank: int = 2


@dataclass(frozen=True)
class ScalingClues:
    """The sources of evidence for a scaling.

    Attributes:
        image: the input.
        ends: of the walk by ``follow_pixels``.
        sidecar: the operator's word.
        export: facts from the files of the export.
        habits: those of the task.
    """

    image: ImageInput
    ends: list[Pixels]
    sidecar: Sidecar
    export: Export
    habits: Habits


def choose_scaling(clues: ScalingClues) -> ScalingChoice:
    """Choose how a graph is fed.

    Raises:
        GraphError: the sidecar's numbers do not fit the input's channels.
    """
    image, sidecar = clues.image, clues.sidecar
    if image.encoded or not image.tensor.dtype.base_dtype.is_floating:
        unused = ("the sidecar's mean and scale are not used: the input takes bytes",)
        bgr = sidecar.channels == "bgr"
        guesses = unused * bool(sidecar.scaling)
        return ScalingChoice(replace(RAW, bgr=bgr), None, guesses)
    found = list(_candidates(clues))
    verdict = judge_training(clues.ends, thorough=not found)
    if verdict is not None and verdict.scaling is not None:
        found.append(verdict.scaling)
    elif (layers := known_layers(image.tensor.graph)) is not None:
        found.append(layers)
    winner, *later = found or [clues.habits.scaling]
    chosen = _apply_order(winner, sidecar, later)
    against = list(_conflicts(chosen, winner, later))
    if verdict is not None and verdict.blue_first not in {None, bool(chosen.bgr)}:
        against.append(_tint_sentence(verdict))
    evidence = Evidence(
        source=winner.source,
        why=winner.why,
        against=tuple(against),
        formerly=_former_formula(clues, chosen),
    )
    if winner.source == "sidecar":
        return ScalingChoice(chosen, evidence, ())
    sentence = (
        f"the input {image.tensor.name} is fed with {formula(chosen)}: {chosen.why}"
    )
    return ScalingChoice(chosen, evidence, (sentence,))


def _candidates(clues: ScalingClues) -> Iterator[Scaling]:
    """Return the scaling of each evidence, the strongest first; all fit the input.

    The network's statistics come after these.
    """
    for scaling in (
        _from_sidecar(clues),
        inner_scaling(clues.ends),
        _from_export(clues.export),
        clues.habits.named(clues.image.tensor),
    ):
        if scaling is None:
            continue
        if max(len(scaling.mean), len(scaling.scale)) <= clues.image.channels:
            yield scaling


def _from_sidecar(clues: ScalingClues) -> Scaling | None:
    """Return the scaling that the sidecar gives."""
    if not clues.sidecar.scaling:
        return None
    mean, scale = clues.sidecar.scaling
    if max(len(mean), len(scale)) > clues.image.channels:
        raise GraphError(
            "the sidecar's mean and scale have more numbers than the input "
            f"{clues.image.tensor.name} has channels, {clues.image.channels}"
        )
    why = "the sidecar says so"
    return Scaling(mean, scale, why=why, source="sidecar")


def _from_export(export: Export) -> Scaling | None:
    """Return the scaling that the files next to the graph give."""
    if export.mean is None or export.scale is None:
        return None
    why = f"{join_names(export.told_by)} of {export.tool} tells"
    return Scaling(export.mean, export.scale, export.bgr, None, why, "export files")


def _from_input_name(tensor: Any) -> Scaling | None:
    """Return the scaling of an input's name of the Object Detection API."""
    if not _is_raw(tensor):
        return None
    return replace(RAW, why="as in the Object Detection API", source="architecture")


def _is_raw(tensor: Any) -> bool:
    return last_part(tensor.name) in _RAW_INPUTS


DETECTORS = Habits(
    scaling=replace(RAW, why="nothing in the graph tells; most detectors take it"),
    named=_from_input_name,
    formerly=lambda tensor, ends: former_detector_scaling(ends, raw=_is_raw(tensor)),
    any_size=True,
    # Boxes may lack the batch's axis, [M, 4].
    rank=3,
)
# Of thirteen real classifiers without evidence eleven wanted 0..1, two [-1, 1].
CLASSIFIERS = Habits(
    scaling=replace(UNIT, why="nothing in the graph tells; most networks take 0..1"),
    named=lambda tensor: known_architecture(tensor.graph),
    formerly=lambda tensor, ends: former_classifier_scaling(tensor.graph, ends),
)


def _apply_order(winner: Scaling, sidecar: Sidecar, later: list[Scaling]) -> Scaling:
    """Choose the order of the channels, and turn the numbers if it is another.

    The sidecar overrules the winner's own order. If the winner has none, files of the
    export may give it, and next to a sidecar's numbers all but the statistics.
    """
    own = winner.bgr
    if own is None:
        may = {"export files"}
        if winner.source == "sidecar":
            may |= {"arithmetic", "architecture"}
        orders = (scaling.bgr for scaling in later if scaling.source in may)
        own = next((bgr for bgr in orders if bgr is not None), None)
    bgr = bool(own) if sidecar.channels is None else sidecar.channels == "bgr"
    if winner.source != "sidecar" and bgr != bool(winner.bgr):
        return replace(
            winner, bgr=bgr, mean=winner.mean[::-1], scale=winner.scale[::-1]
        )
    return replace(winner, bgr=bgr)


def _conflicts(chosen: Scaling, winner: Scaling, later: list[Scaling]) -> Iterator[str]:
    """Describe later evidence that clearly contradicts the winner."""
    for other in later:
        if winner.source == "arithmetic" and other.source == "architecture":
            # A known network behind arithmetic is fed by that arithmetic.
            continue
        if _differ(chosen, other):
            yield f"{other.source} would feed {formula(other)}: {other.why}"
        elif other.bgr is not None and other.bgr != bool(chosen.bgr):
            order = "blue first (BGR)" if other.bgr else "red first (RGB)"
            yield f"{other.source} would feed {order}: {other.why}"


def _tint_sentence(verdict: Verdict) -> str:
    """Describe a mean pixel that is that of the other order."""
    order, key = ("blue", '"bgr"') if verdict.blue_first else ("red", "3")
    return (
        f"statistics: {verdict.why}, which looks as if {order} were fed first; if "
        f'colours are mixed up, put "channels": {key} into the sidecar'
    )


def _former_formula(clues: ScalingClues, chosen: Scaling) -> str:
    """Return the formula of the last version, if this one feeds the graph otherwise."""
    if chosen.source == "sidecar" or clues.sidecar.channels is not None:
        return ""
    tensor = clues.image.tensor
    former = clues.habits.formerly(tensor, clues.ends)
    if max(len(former.mean), len(former.scale)) > clues.image.channels:
        former = SYMMETRIC
    same = bool(former.bgr) == bool(chosen.bgr) and not _differ(former, chosen)
    return "" if same else formula(former)


def _differ(one: Scaling, other: Scaling) -> bool:
    """Return whether black or white is fed clearly otherwise."""
    ends = np.array([_black_and_white(one), _black_and_white(other)])
    spread = min(abs(ends[:, 1] - ends[:, 0]))
    return bool((abs(ends[0] - ends[1]) > _CLEARLY * max(spread, 1e-9)).any())


def _black_and_white(scaling: Scaling) -> tuple[float, float]:
    """Return the values of black and white as fed, on average of the channels."""
    mean, scale = np.broadcast_arrays(
        np.asarray(scaling.mean, np.float64), np.asarray(scaling.scale, np.float64)
    )
    black, white = ((level - mean) * scale for level in (0.0, 255.0))
    return float(black.mean()), float(white.mean())
