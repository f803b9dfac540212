"""The expectations, as functions of measurements. Nothing here asks a machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.core.errors import START_FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.gpu_proof.findings import Found

# The most that two devices' answers may differ by, as for golden images: confidence,
# and a box's corners as shares of the photo's sides.
CONFIDENCE, BOX = 0.02, 0.01
# Answers this sure count; just below one device may have some that the other has not.
SURE = 0.5
# A load on a card whose kernels are ready, and the longest of any card.
READY_S, COMPILED_S = 120.0, 600.0
# A run that was warmed up has no tuning left: its first is like its third, but for
# this.
FIRST_FACTOR, FIRST_MS = 5.0, 250.0
# Memory of an ended process: how soon it must be back, and the MiB that may be others'.
BACK_S, BACK_MIB = 10.0, 200
# The longest that a killed, changed or removed model may take to be another or gone.
REPLACED_S = 120.0


class Seen(NamedTuple):
    """One answer of a photo: a label, how sure, and where (none for a classifier)."""

    label: str
    confidence: float
    box: tuple[float, ...] = ()


class Gaps(NamedTuple):
    """How far the answers of two devices are from each other.

    Attributes:
        confidence, box: the largest differences.
        compared: how many answers.
        unmatched: those that one device alone has, as sentences.
    """

    confidence: float
    box: float
    compared: int
    unmatched: tuple[str, ...]


def gaps(ours: Sequence[Sequence[Seen]], theirs: Sequence[Sequence[Seen]]) -> Gaps:
    """Compare the answers for some photos, both ways round."""
    confidence = box = 0.0
    compared, unmatched = 0, []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        ways = [(seen, other, "GPU") for seen in one]
        ways += [(seen, one, "CPU") for seen in other]
        for seen, others, who in ways:
            if seen.confidence < SURE + CONFIDENCE:
                continue
            same = [each for each in others if each.label == seen.label]
            if not same:
                told = f"{seen.label} {seen.confidence:.3f} on {who} only"
                unmatched.append(f"photo {number}: {told}")
                continue
            apart, nearest = min((_apart(seen, each), each) for each in same)
            compared += 1
            confidence = max(confidence, abs(seen.confidence - nearest.confidence))
            box = max(box, apart)
    return Gaps(confidence, box, compared, tuple(unmatched))


def _apart(one: Seen, other: Seen) -> float:
    pairs = zip(one.box, other.box, strict=True)
    return max((abs(a - b) for a, b in pairs), default=0.0)


def answers(found: Found, seen: Gaps, photos: int, about: str) -> None:
    """Judge the answers of the card against the CPU's."""
    same = f"{about}: the same labels for {photos} photos"
    found.expect_none(same, seen.unmatched, "the same labels")
    something = f"{about}: something is seen in the photos"
    found.expect(something, f"{seen.compared} answers", seen.compared > 0)
    found.expect_at_most(f"{about}: confidence within", CONFIDENCE, seen.confidence)
    found.expect_at_most(f"{about}: boxes within", BOX, seen.box)


def card(found: Found, shown: Mapping[str, Any]) -> None:
    """Judge the reports of driver, kernel and doctor."""
    lines, doctor = shown["nvidia-smi"], shown["doctor"]
    listed = bool(lines) and not lines[0].startswith("failed")
    found.expect("nvidia-smi lists a card", "; ".join(lines) or "nothing", listed)
    named = {line.split()[-1] for line in shown["/proc/devices"]}
    found.expect(
        "/proc/devices names the driver's devices, nvidia-uvm among them",
        ", ".join(sorted(named)) or "none",
        ("nvidia-uvm" in named and bool({"nvidia", "nvidia-frontend"} & named))
        or "/dev/dxg" in doctor["nodes"],
    )
    shut = [f"{name} {told}" for name, told in doctor["nodes"].items() if "NOT" in told]
    found.expect(
        "this user may read and write the card's nodes",
        ", ".join(shut) or f"{len(doctor['nodes'])} nodes",
        bool(doctor["nodes"]) and not shut,
    )
    found.expect_none("doctor gpu finds nothing wrong", doctor["problems"])
    found.expect("TensorFlow uses a card", str(doctor["ok"]), doctor["ok"])


def listing(
    found: Found, plain: Mapping[str, Any], opened: Mapping[str, Any], *, gpu: bool
) -> None:
    """Judge TensorFlow's list of cards, plain and with the libraries opened first."""
    seen = len(opened["gpus"])
    if not gpu:
        found.expect("without a card TensorFlow lists none", f"{seen}", seen == 0)
        return
    reason = "; ".join(opened["said"][-2:]) or "it says nothing"
    told = f"{seen} cards" if seen else f"none; {reason}"
    found.expect("TensorFlow lists a card, its libraries opened first", told, seen > 0)
    needed = ", ".join(opened["opened"]) or "none"
    found.hope(
        "TensorFlow alone lists none where a library had to be opened first",
        f"{len(plain['gpus'])} cards alone; opened first: {needed}",
        bool(plain["gpus"]) != bool(opened["opened"]),
    )


def ready(
    found: Found, models: Mapping[str, Any], seconds: float, device: str, limit_s: float
) -> None:
    """Judge a start: every model READY, on the device, soon enough."""
    bad = [
        f"{name} {one['state']} on {one['device']}: {one['reason']}"
        for name, one in models.items()
        if one["state"] != "READY" or not str(one["device"]).startswith(device)
    ]
    if not models:
        bad = ["no model, or no server"]
    found.expect_none(f"every model is READY on a {device}", bad, "all of them")
    found.expect_at_most("READY within", limit_s, seconds, " s")


def caches(found: Found, cold_s: float, warm_s: float) -> None:
    """Judge a second start with CUDA's cache of the first: it compiles nothing."""
    found.hope(
        "a start with CUDA's cache is no slower than one without",
        f"{warm_s:.1f} s, without {cold_s:.1f} s",
        warm_s <= cold_s * 1.2 + 3.0,
    )


def runs(
    found: Found, told: Mapping[str, Any], sizes: Sequence[int], *, gpu: bool
) -> None:
    """Judge the times of runs by the number of images in them."""
    on_device(found, told, gpu=gpu)
    done = {one["size"]: one for one in told["runs"]}
    answered = {size: one["answers"] for size, one in done.items()}
    wanted = [size for size in sizes if size <= told["max_batch"]]
    short = [str(size) for size in wanted if answered.get(size) != size]
    found.expect_none("each run answers every image", short, "it does")
    slow = [
        f"{size}: {one['ms'][0]:.0f} ms, then {one['ms'][-1]:.0f}"
        for size, one in done.items()
        if one["ms"][0] > one["ms"][-1] * FIRST_FACTOR + FIRST_MS
    ]
    tuned = "the first run of a size needs no tuning: the load did it"
    found.expect_none(tuned, slow, "none does", must=False)
    alike = "a batch answers as its images alone, within"
    found.expect_at_most(alike, CONFIDENCE, told["gap"])
    if gpu and len(done) > 1:
        small, large = min(done), max(done)
        each = [done[size]["ms"][-1] / size for size in (small, large)]
        cheaper = f"an image of {large} takes less than one of {small}"
        seen = f"{each[1]:.2f} ms, {each[0]:.2f} ms"
        found.hope(cheaper, seen, each[1] < each[0])


def on_device(found: Found, told: Mapping[str, Any], *, gpu: bool) -> None:
    """Judge where a process of the proof itself has run a model."""
    device, seen = "GPU" if gpu else "CPU", str(told["device"])
    found.expect(f"the graph is run on a {device}", seen, seen.startswith(device))


def rates(found: Found, figures: Sequence[Mapping[str, Any]]) -> None:
    """Judge photos a second: no error, and more clients are not answered less."""
    no_errors(found, figures)
    every = [one["per_second"] for one in figures] or [0.0]
    found.hope(
        "the most clients are answered as fast as any number, within a tenth",
        f"{every[-1]:.1f} photos/s, best {max(every):.1f}",
        max(every) > 0 and every[-1] >= max(every) * 0.9,
    )


def no_errors(found: Found, figures: Iterable[Mapping[str, Any]]) -> None:
    """Judge a load's answers."""
    told = ((one["clients"], one["errors"]) for one in figures)
    bad = [f"{clients} clients: {errors}" for clients, errors in told if errors]
    found.expect_none("every answer is a 200", bad, "all are")


def rewriting(
    found: Found, plain: Mapping[str, Any], rewritten: Mapping[str, Any]
) -> None:
    """Judge whether rewritten graphs are worth it on this device."""
    slow = {one["size"]: one["ms"][-1] for one in plain["runs"]}
    fast = {one["size"]: one["ms"][-1] for one in rewritten["runs"]}
    lost = [
        f"{size}: {fast[size]:.2f} ms rewritten, {slow[size]:.2f} ms plain"
        for size in fast
        if size in slow and fast[size] > slow[size] * 1.05
    ]
    expected = "a rewritten graph is not slower than the plain one"
    found.expect_none(expected, lost, "it is not", must=False)


def full(
    found: Found,
    before: Mapping[str, Any],
    after_s: float,
    statuses: Mapping[str, int],
    again: str,
) -> None:
    """Judge a card that another program holds.

    Args:
        before: the model in ``/models`` while it was full.
        after_s: seconds from the end of the other program to READY.
        statuses: of photos that were sent while it was full, by how often.
        again: status of one that was sent after that.
    """
    reason, device = str(before.get("reason")), str(before.get("device"))
    blamed = "MODEL_MEMORY_MB" in reason or "died" in reason
    told = device if before.get("state") == "READY" else reason
    found.expect(
        "on a full card a load fails as the card's fault, or finds room",
        f"{before.get('state')} on {device}: {reason}",
        "GPU" in told and not blamed,
    )
    back = "the model comes by itself once there is room, within"
    found.expect_at_most(back, COMPILED_S, after_s, " s")
    allowed = "a run on a full card is answered with 200 or 503"
    found.expect(allowed, str(dict(statuses)), set(statuses) <= {"200", "503"})
    found.expect("answers are 200 again once there is room", again, again == "200")


def back(
    found: Found, what: str, before: int | None, after: int | None, seconds: float
) -> None:
    """Judge whether a process's memory on the card came back."""
    expected = f"{what}: its memory comes back within {BACK_S:g} s"
    if before is None or after is None:
        untold = "the driver does not tell memory here"
        found.hope(expected, untold, ok=False)
    else:
        seen = f"{after} MiB held, {before} before, after {seconds:.1f} s"
        ok = after <= before + BACK_MIB and seconds <= BACK_S
        found.expect(expected, seen, ok)


def replaced(found: Found, what: str, told: Mapping[str, Any], *, gpu: bool) -> None:
    """Judge models that were killed, reloaded or removed.

    Args:
        told: seconds, statuses of others meanwhile, and the card's memory before, after
            and in how many seconds.
    """
    undisturbed(found, what, told["statuses"], refusals=what == "killed")
    over = f"{what}: others serve, or it is gone, within"
    found.expect_at_most(over, REPLACED_S, told["seconds"], " s")
    if gpu:
        back(found, what, told["before"], told["after"], told["back"])


def undisturbed(
    found: Found, what: str, statuses: Mapping[str, int], *, refusals: bool
) -> None:
    """Judge the answers while something happened: no 500, and only allowed refusals."""
    allowed = ("200", "503") if refusals else ("200",)
    ok = set(statuses) <= set(allowed) and statuses.get("200", 0) > 0
    which = " or ".join(allowed)
    expected = f"{what}: photos are answered meanwhile, each with {which}"
    found.expect(expected, str(dict(statuses)), ok)


def together(found: Found, alone: float, both: float) -> None:
    """Judge two models at once against one: they share, and lose little."""
    share = both / alone if alone else math.nan
    found.hope(
        "two models at once answer as many photos as one, but for a third",
        f"{both:.1f} photos/s, one alone {alone:.1f}",
        share >= 2 / 3,
    )


def choice(
    found: Found, value: str, code: int | None, log: str, *, usable: bool
) -> None:
    """Judge a start with a choice of cards in the environment and REQUIRE_GPU."""
    last = (log.splitlines() or ["nothing"])[-1][:200]
    seen = f"exit code {code}: {last}" if code is not None else "it serves"
    wanted = None if usable else START_FAILED
    does = "serves" if usable else "with REQUIRE_GPU is refused"
    found.expect(f"CUDA_VISIBLE_DEVICES={value!r} {does}", seen, code == wanted)
