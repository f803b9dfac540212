"""Weigh what tells how a graph wants its pixels; the first evidence that speaks wins.

In this order: the sidecar, arithmetic in the graph, the export's other files, a known
architecture's node names, the network's own statistics, and the commonest habit. What
a later one says against the winner is told, so that nobody needs to trust the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import GraphError
from modelserver.core.signatures import Evidence
from modelserver.runner.graphs.former_defaults import fed_before
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
from modelserver.runner.graphs.statistics import Verdict, trained_with
from modelserver.runner.graphs.traversal import last_part, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.exports import Export
    from modelserver.core.signatures import Kind, Sidecar
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
class Settled:
    """What a graph is fed, what decided it, and a sentence for each guess."""

    scaling: Scaling
    evidence: Evidence | None
    guesses: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What a scaling is told from.

    Attributes:
        image: the input.
        ends: what ``follow_pixels`` gave for it.
        sidecar: what the operator says.
        export: what the files of the export tell.
        kind: the task.
    """

    image: ImageInput
    ends: list[Pixels]
    sidecar: Sidecar
    export: Export
    kind: Kind


def settle(facts: Facts) -> Settled:
    """Settle how a graph is fed.

    Raises:
        GraphError: the sidecar's numbers do not fit the input's channels.
    """
    image, sidecar = facts.image, facts.sidecar
    if image.encoded or not image.tensor.dtype.base_dtype.is_floating:
        unused = ("the sidecar's mean and scale are not used: the input takes bytes",)
        bgr = sidecar.channels == "bgr"
        said = unused * bool(sidecar.scaling)
        return Settled(replace(RAW, bgr=bgr), None, said)
    found = list(_found(facts))
    verdict = trained_with(facts.ends, thorough=not found)
    if verdict is not None and verdict.scaling is not None:
        found.append(verdict.scaling)
    elif (layers := known_layers(image.tensor.graph)) is not None:
        found.append(layers)
    winner, *later = found or [_habit(facts.kind)]
    told = _ordered(winner, sidecar, later)
    against = list(_against(told, winner, later))
    if verdict is not None and verdict.blue_first not in {None, bool(told.bgr)}:
        against.append(_tinted(verdict))
    evidence = Evidence(
        source=winner.source,
        why=winner.why,
        against=tuple(against),
        formerly=_formerly(facts, told),
    )
    if winner.source == "sidecar":
        return Settled(told, evidence, ())
    sentence = f"the input {image.tensor.name} is fed with {formula(told)}: {told.why}"
    return Settled(told, evidence, (sentence,))


def _found(facts: Facts) -> Iterator[Scaling]:
    """Give what each evidence says, the strongest first; all fit the input.

    The network's statistics are asked after these.
    """
    for scaling in (
        _of_sidecar(facts),
        inner_scaling(facts.ends),
        _of_export(facts.export),
        _of_names(facts),
    ):
        if scaling is None:
            continue
        if max(len(scaling.mean), len(scaling.scale)) <= facts.image.channels:
            yield scaling


def _of_sidecar(facts: Facts) -> Scaling | None:
    """Give what the operator says."""
    if not facts.sidecar.scaling:
        return None
    mean, scale = facts.sidecar.scaling
    if max(len(mean), len(scale)) > facts.image.channels:
        raise GraphError(
            "the sidecar's mean and scale have more numbers than the input "
            f"{facts.image.tensor.name} has channels, {facts.image.channels}"
        )
    why = "the sidecar says so"
    return Scaling(mean, scale, why=why, source="sidecar")


def _of_export(export: Export) -> Scaling | None:
    """Give what the files beside the graph tell."""
    if export.mean is None or export.scale is None:
        return None
    why = f"{listed(export.told_by)} of {export.tool} tells"
    return Scaling(export.mean, export.scale, export.bgr, None, why, "export files")


def _of_names(facts: Facts) -> Scaling | None:
    """Give what the input's name and those of a known architecture tell."""
    if facts.kind == "classification":
        return known_architecture(facts.image.tensor.graph)
    if last_part(facts.image.tensor.name) in _RAW_INPUTS:
        why = "as in the Object Detection API"
        return replace(RAW, why=why, source="architecture")
    return None


def _habit(kind: Kind) -> Scaling:
    """Give what is commonest where nothing tells.

    Of thirteen real classifiers that came to this, eleven wanted 0..1, two [-1, 1].
    """
    if kind == "detection":
        return replace(RAW, why="nothing in the graph tells; most detectors take it")
    return replace(UNIT, why="nothing in the graph tells; most networks take 0..1")


def _ordered(winner: Scaling, sidecar: Sidecar, later: list[Scaling]) -> Scaling:
    """Settle the order of the channels, and turn the numbers where it is another.

    The sidecar overrules the winner's own order. Where the winner has none, files of
    the export may tell it, and beside a sidecar's numbers all but the statistics.
    """
    own = winner.bgr
    if own is None:
        may = {"export files"}
        if winner.source == "sidecar":
            may |= {"arithmetic", "architecture"}
        orders = (one.bgr for one in later if one.source in may)
        own = next((bgr for bgr in orders if bgr is not None), None)
    bgr = bool(own) if sidecar.channels is None else sidecar.channels == "bgr"
    if winner.source != "sidecar" and bgr != bool(winner.bgr):
        return replace(
            winner, bgr=bgr, mean=winner.mean[::-1], scale=winner.scale[::-1]
        )
    return replace(winner, bgr=bgr)


def _against(told: Scaling, winner: Scaling, later: list[Scaling]) -> Iterator[str]:
    """Say what later evidence clearly says otherwise."""
    for one in later:
        if winner.source == "arithmetic" and one.source == "architecture":
            # A known network behind arithmetic is fed by that arithmetic.
            continue
        if _differ(told, one):
            yield f"{one.source} would feed {formula(one)}: {one.why}"
        elif one.bgr is not None and one.bgr != bool(told.bgr):
            order = "blue first (BGR)" if one.bgr else "red first (RGB)"
            yield f"{one.source} would feed {order}: {one.why}"


def _tinted(verdict: Verdict) -> str:
    """Say that the mean pixel is that of the other order."""
    order, key = ("blue", '"bgr"') if verdict.blue_first else ("red", "3")
    return (
        f"statistics: {verdict.why}, which looks as if {order} were fed first; if "
        f'colours are mixed up, put "channels": {key} into the sidecar'
    )


def _formerly(facts: Facts, told: Scaling) -> str:
    """Say how the last version fed it, where it is fed otherwise now."""
    if told.source == "sidecar" or facts.sidecar.channels is not None:
        return ""
    tensor = facts.image.tensor
    raw = last_part(tensor.name) in _RAW_INPUTS
    was = fed_before(tensor.graph, facts.ends, facts.kind, raw=raw)
    if max(len(was.mean), len(was.scale)) > facts.image.channels:
        was = SYMMETRIC
    same = bool(was.bgr) == bool(told.bgr) and not _differ(was, told)
    return "" if same else formula(was)


def _differ(one: Scaling, other: Scaling) -> bool:
    """Tell whether black or white is fed clearly otherwise."""
    ends = np.array([_ends(one), _ends(other)])
    spread = min(abs(ends[:, 1] - ends[:, 0]))
    return bool((abs(ends[0] - ends[1]) > _CLEARLY * max(spread, 1e-9)).any())


def _ends(scaling: Scaling) -> tuple[float, float]:
    """Give what black and white become, on average of the channels."""
    mean, scale = np.broadcast_arrays(
        np.asarray(scaling.mean, np.float64), np.asarray(scaling.scale, np.float64)
    )
    black, white = ((level - mean) * scale for level in (0.0, 255.0))
    return float(black.mean()), float(white.mean())
