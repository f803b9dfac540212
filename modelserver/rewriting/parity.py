"""Whether a rewritten graph answers as the untouched one does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from modelserver.signatures import Signature

    Array = NDArray[Any]
    Outputs = Mapping[str, NDArray[np.generic]]

SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 1e-3
# Two sizes for a graph that takes any, of both orientations.
_ANY_SIZES = ((480, 640), (400, 300))
_SEED = 20


def sample_images(signature: Signature) -> list[NDArray[np.uint8]]:
    """Make the images that both graphs are compared on.

    Returns:
        uint8 [height, width, channels] each, the same at every call: a scene and noise,
        of the graph's size, and a second size where it takes any.
    """
    sizes = (signature.size,) if signature.size else _ANY_SIZES
    random = np.random.default_rng(_SEED)
    first, *others = (_scene(size, signature.channels, random) for size in sizes)
    return [first, random.integers(0, 256, first.shape, np.uint8), *others]


def _scene(
    size: tuple[int, int], channels: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Paint what has a photo's statistics: a sky, shapes with edges, shades, grain."""
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
    before: Outputs, after: Outputs, signature: Signature, score_floor: float
) -> str | None:
    """Compare the outputs of two graphs for one image.

    Args:
        before, after: the arrays by role, without the batch axis or with one of 1.
        signature: of both graphs.
        score_floor: detections below it are not compared.

    Returns:
        ``None`` where they agree, else the first difference, for the log. Scores may
        differ by 1e-4, and a detection that near to the floor may be missing; boxes by
        1e-3; detections are compared as a set, as equal scores have no order. A
        classifier's best class must be the same, or as good.
    """
    if signature.kind == "classification":
        return _scores_difference(before["scores"], after["scores"])
    return _detections_difference(before, after, score_floor)


def _scores_difference(before: Any, after: Any) -> str | None:
    """Compare a classifier's scores."""
    old, new = (np.asarray(a, np.float64).reshape(-1) for a in (before, after))
    if old.shape != new.shape:
        return f"{old.size} scores became {new.size}"
    if not np.array_equal(np.isfinite(old), np.isfinite(new)):
        return "other scores are no numbers"
    old, new = old[np.isfinite(old)], new[np.isfinite(new)]
    if not old.size:
        return None
    gap = np.abs(old - new)
    worst = int(gap.argmax())
    if gap[worst] > SCORE_TOLERANCE:
        return f"score {worst} was {old[worst]:.6g} and is {new[worst]:.6g}"
    best, now = int(old.argmax()), int(new.argmax())
    if best != now and old[best] - old[now] > SCORE_TOLERANCE:
        return f"the best class was {best} and is {now}"
    return None


def _detections(outputs: Outputs, score_floor: float) -> tuple[Array, float]:
    """Give an image's detections as rows of score, class and box.

    Returns:
        Those that are near the floor or above, and the score from which on a detection
        that the other graph found must be among them: where all places are taken, one
        near the lowest may have been crowded out.
    """
    scores = np.asarray(outputs["scores"], np.float64).reshape(-1, 1)
    classes = np.asarray(outputs["classes"], np.float64).reshape(-1, 1)
    boxes = np.asarray(outputs["boxes"], np.float64).reshape(-1, 4)
    rows = np.concatenate([scores, classes, boxes], axis=1)
    if "count" in outputs:
        rows = rows[: int(np.asarray(outputs["count"]).reshape(-1)[0])]
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows = rows[rows[:, 0] >= score_floor - SCORE_TOLERANCE]
    least = score_floor
    if len(rows) == len(scores) > 0:
        least = max(least, rows[:, 0].min())
    return rows, least + SCORE_TOLERANCE


def _detections_difference(
    before: Outputs, after: Outputs, score_floor: float
) -> str | None:
    """Find each detection of either graph among the other's."""
    old, new = _detections(before, score_floor), _detections(after, score_floor)
    for (rows, _), (others, least), what in ((old, new, "gone"), (new, old, "new")):
        free = np.ones(len(others), bool)
        for row in rows:
            gap = np.abs(others - row)
            same = free & (gap[:, 0] <= SCORE_TOLERANCE) & (gap[:, 1] == 0)
            same &= (gap[:, 2:] <= BOX_TOLERANCE).all(axis=1)
            if same.any():
                free[np.flatnonzero(same)[gap[same, 0].argmin()]] = False
            elif row[0] >= least:
                box = ", ".join(f"{side:.4f}" for side in row[2:])
                return f"class {row[1]:g}, score {row[0]:.6f}, box [{box}] is {what}"
    return None
