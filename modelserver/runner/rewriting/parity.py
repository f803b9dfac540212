"""Compare a rewritten graph's answers with those of the untouched one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.tasks.detection import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature

    Array = NDArray[Any]
    Outputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Tolerance:
    """How far two answers to one image may be apart and still be the same.

    Attributes:
        score, box: the largest difference of a score, and of a box's side.
        faint: detections below this score may be others, as far as ``others`` allows:
            where boxes overlap, the last bits decide which one suppression keeps.
        others: the share of detections that faint ones may be others of.
    """

    score: float
    box: float
    faint: float = 0.0
    others: float = 0.0


# The same arithmetic on the same device, in another order.
EQUAL = Tolerance(1e-4, 1e-3)
# Another device, whose arithmetic has fewer bits; a golden image allows as much.
# With weights of TF32's mantissa up to 4 of the default detector's 100 detections are
# others, all of them below .1; the default classifier's scores move by .001.
NEAR = Tolerance(0.02, 0.01, faint=0.1, others=0.1)
# Two sizes for a graph that takes any, of both orientations.
_ANY_SIZES = ((480, 640), (400, 300))
_SEED = 20


def sample_images(
    signature: Signature, more: tuple[tuple[int, int], ...] = ()
) -> list[NDArray[np.uint8]]:
    """Make the images that graphs are compared on.

    Args:
        signature: which sizes and channels they take.
        more: heights and widths of more images for a graph that takes any size.

    Returns:
        uint8 [height, width, channels] each, the same at every call: a scene and noise,
        of the graph's size, and a second size if it takes any.
    """
    sizes = (signature.size,) if signature.size else (*_ANY_SIZES, *more)
    random = np.random.default_rng(_SEED)
    first, *others = (_paint_scene(size, signature.channels, random) for size in sizes)
    return [first, random.integers(0, 256, first.shape, np.uint8), *others]


def _paint_scene(
    size: tuple[int, int], channels: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Paint a scene with a photo's statistics: a sky, shapes with edges, grain."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    y, x = rows[..., None] / size[0], columns[..., None] / size[1]
    image = 200 - 90 * y + 20 * np.sin(5 * x + np.arange(channels))
    for _ in range(24):
        top, left = random.uniform(-0.1, 1, 2)
        radius = random.uniform(0.02, 0.25)
        wide = random.uniform(0.5, 2)
        across, down = (x - left) / (radius * wide), (y - top) * wide / radius
        inside = across**2 + down**2 < 1
        if random.random() < 0.5:  # noqa: PLR2004 - as many boxes as discs
            inside = (abs(across) < 1) & (abs(down) < 1)
        shade = 1 - 0.4 * down * random.uniform(-1, 1)
        image = np.where(inside, random.uniform(0, 255, channels) * shade, image)
    image += random.normal(0, 4, image.shape)
    pixels: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return pixels


def first_difference(
    before: Outputs,
    after: Outputs,
    signature: Signature,
    score_floor: float,
    tolerance: Tolerance = EQUAL,
) -> str | None:
    """Compare two answers to one image.

    Args:
        before, after: the arrays by role, without the batch axis or with one of 1.
        signature: of both graphs.
        score_floor: detections below it are not compared.
        tolerance: how far they may be apart.

    Returns:
        ``None`` if they agree, else the first difference, for the log. A detection
        whose score is as near to the floor as scores may differ may be missing;
        detections are compared as a set, as equal scores have no order. A classifier's
        best class must be the same, or as good.
    """
    if "boxes" in before:
        return _compare_detections(before, after, score_floor, tolerance)
    for role in before:
        old, new = (
            _read_scores(each[role], signature, tolerance) for each in (before, after)
        )
        difference = _compare_scores(old, new, tolerance)
        if difference is not None:
            return difference
    return None


def _read_scores(output: Array, signature: Signature, tolerance: Tolerance) -> Array:
    """Return an output's scores; logits as probabilities, but for ``EQUAL``."""
    scores = np.asarray(output, np.float64).reshape(-1)
    if not signature.softmax or tolerance is EQUAL or not np.isfinite(scores).all():
        return scores
    powers: Array = np.exp(scores - scores.max(initial=-np.inf))
    shares: Array = powers / powers.sum()
    return shares


def _compare_scores(old: Array, new: Array, tolerance: Tolerance) -> str | None:
    """Compare a classifier's scores."""
    if old.shape != new.shape:
        return f"{old.size} scores became {new.size}"
    if not np.array_equal(np.isfinite(old), np.isfinite(new)):
        return "other scores are no numbers"
    old, new = old[np.isfinite(old)], new[np.isfinite(new)]
    if not old.size:
        return None
    gap = np.abs(old - new)
    worst = int(gap.argmax())
    if gap[worst] > tolerance.score:
        return f"score {worst} was {old[worst]:.6g} and is {new[worst]:.6g}"
    best, now = int(old.argmax()), int(new.argmax())
    if best != now and old[best] - old[now] > tolerance.score:
        return f"the best class was {best} and is {now}"
    return None


def _read_detections(
    outputs: Outputs, score_floor: float, margin: float
) -> tuple[Array, float]:
    """Return an image's detections as rows of score, class and box.

    Returns:
        Those that are near the floor or above, and the score from which on a detection
        that the other graph found must be among them: if all rows are taken, one near
        the lowest may have been crowded out.
    """
    scores = np.asarray(outputs["scores"], np.float64).reshape(-1, 1)
    classes = np.asarray(outputs["classes"], np.float64).reshape(-1, 1)
    boxes = np.asarray(outputs["boxes"], np.float64).reshape(-1, 4)
    rows = np.concatenate([scores, classes, boxes], axis=1)[: counted(outputs)]
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows = rows[rows[:, 0] >= score_floor - margin]
    lowest = score_floor
    if len(rows) == len(scores) > 0:
        lowest = max(lowest, rows[:, 0].min())
    return rows, lowest + margin


def _compare_detections(
    before: Outputs, after: Outputs, score_floor: float, tolerance: Tolerance
) -> str | None:
    """Find each detection of either graph among the other's."""
    old, new = (
        _read_detections(outputs, score_floor, tolerance.score)
        for outputs in (before, after)
    )
    for (rows, _), (others, lowest), what in ((old, new, "gone"), (new, old, "new")):
        lone = [
            row for row in _find_unmatched(rows, others, tolerance) if row[0] >= lowest
        ]
        faint = sum(row[0] < tolerance.faint for row in lone)
        if lone and (faint < len(lone) or faint > tolerance.others * len(rows)):
            row = max(lone, key=lambda row: float(row[0]))
            box = ", ".join(f"{side:.4f}" for side in row[2:])
            return f"class {row[1]:g}, score {row[0]:.6f}, box [{box}] is {what}"
    return None


def _find_unmatched(rows: Array, others: Array, tolerance: Tolerance) -> list[Array]:
    """Return the detections that have none near them; each is near one at most."""
    free = np.ones(len(others), bool)
    lone = []
    for row in rows:
        gap = np.abs(others - row)
        same = free & (gap[:, 0] <= tolerance.score) & (gap[:, 1] == 0)
        same &= (gap[:, 2:] <= tolerance.box).all(axis=1)
        if same.any():
            free[np.flatnonzero(same)[gap[same, 0].argmin()]] = False
        else:
            lone.append(row)
    return lone
