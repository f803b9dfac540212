"""The expectations, as functions of measurements. Nothing here asks a machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.gpu_proof.outcomes import Check
from modelserver.web.server.config import START_FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
REFUSALS = frozenset({"503"})
OK = 200


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


def _none(
    expected: str, bad: Iterable[str], fine: str = "none", *, must: bool = True
) -> Check:
    """Expect that nothing is bad."""
    seen = list(bad)
    return Check(expected, "; ".join(seen[:5]) or fine, not seen, must)


def _at_most(expected: str, limit: float, seen: float, unit: str = "") -> Check:
    return Check(f"{expected} {limit:g}{unit}", f"{seen:.4g}{unit}", seen <= limit)


def answers(found: Gaps, photos: int, about: str) -> list[Check]:
    """Judge the answers of the card against the CPU's."""
    same = f"{about}: the same labels for {photos} photos"
    return [
        _none(same, found.unmatched, "the same labels"),
        Check(
            f"{about}: something is seen in the photos",
            f"{found.compared} answers",
            found.compared > 0,
        ),
        _at_most(f"{about}: confidence within", CONFIDENCE, found.confidence),
        _at_most(f"{about}: boxes within", BOX, found.box),
    ]


def card(shown: Mapping[str, Any]) -> list[Check]:
    """Judge what the driver, the kernel and the doctor show."""
    lines, nodes = shown["nvidia-smi"], shown["doctor"]["nodes"]
    named = {line.split()[-1] for line in shown["/proc/devices"]}
    listed = bool(lines) and not lines[0].startswith("failed")
    shut = [f"{name} {told}" for name, told in nodes.items() if "NOT" in told]
    driver = "nvidia-uvm" in named and bool({"nvidia", "nvidia-frontend"} & named)
    checks = [
        Check("nvidia-smi lists a card", "; ".join(lines) or "nothing", listed),
        Check(
            "/proc/devices names the driver's devices, nvidia-uvm among them",
            ", ".join(sorted(named)) or "none",
            driver or "/dev/dxg" in nodes,
        ),
        Check(
            "this user may read and write the card's nodes",
            ", ".join(shut) or f"{len(nodes)} nodes",
            bool(nodes) and not shut,
        ),
        _none("doctor gpu finds nothing wrong", shown["doctor"]["problems"]),
    ]
    used = shown["doctor"]["ok"]
    return [*checks, Check("TensorFlow uses a card", "yes" if used else "no", used)]


def listing(
    plain: Mapping[str, Any], opened: Mapping[str, Any], *, gpu: bool
) -> list[Check]:
    """Judge what TensorFlow lists as it is, and with the libraries opened first."""
    seen = len(opened["gpus"])
    if not gpu:
        return [Check("without a card TensorFlow lists none", f"{seen}", seen == 0)]
    reason = "; ".join(opened["said"][-2:]) or "it says nothing"
    told = f"{seen} cards" if seen else f"none; {reason}"
    needed = ", ".join(opened["opened"]) or "none"
    return [
        Check("TensorFlow lists a card, its libraries opened first", told, seen > 0),
        Check(
            "TensorFlow alone lists none where a library had to be opened first",
            f"{len(plain['gpus'])} cards alone; opened first: {needed}",
            bool(plain["gpus"]) != bool(opened["opened"]),
            must=False,
        ),
    ]


def ready(
    models: Mapping[str, Any], seconds: float, device: str, limit_s: float
) -> list[Check]:
    """Judge a start: every model READY, on the device, soon enough."""
    bad = [
        f"{name} {one['state']} on {one['device']}: {one['reason']}"
        for name, one in models.items()
        if one["state"] != "READY" or not str(one["device"]).startswith(device)
    ]
    if not models:
        bad = ["no model, or no server"]
    return [
        _none(f"every model is READY on a {device}", bad, "all of them"),
        _at_most("READY within", limit_s, seconds, " s"),
    ]


def caches(cold_s: float, warm_s: float) -> Check:
    """Judge a second start with CUDA's cache of the first: it compiles nothing."""
    return Check(
        "a start with CUDA's cache is no slower than one without",
        f"{warm_s:.1f} s, without {cold_s:.1f} s",
        warm_s <= cold_s * 1.2 + 3.0,
        must=False,
    )


def runs(told: Mapping[str, Any], sizes: Sequence[int], *, gpu: bool) -> list[Check]:
    """Judge the times of runs by the number of images in them."""
    done = {one["size"]: one for one in told["runs"]}
    wanted = [size for size in sizes if size <= told["max_batch"]]
    short = [
        str(size)
        for size in wanted
        if size not in done or done[size]["answers"] != size
    ]
    slow = [
        f"{size}: {one['ms'][0]:.0f} ms, then {one['ms'][-1]:.0f}"
        for size, one in done.items()
        if one["ms"][0] > one["ms"][-1] * FIRST_FACTOR + FIRST_MS
    ]
    tuned = "the first run of a size needs no tuning: the load did it"
    alike = "a batch answers as its images alone, within"
    checks = [
        on_device(told, gpu=gpu),
        _none("each run answers every image", short, "it does"),
        _none(tuned, slow, "none does", must=False),
        _at_most(alike, CONFIDENCE, told["gap"]),
    ]
    if gpu and len(done) > 1:
        small, large = min(done), max(done)
        each = [done[size]["ms"][-1] / size for size in (small, large)]
        expected = f"an image of {large} takes less than one of {small}"
        seen = f"{each[1]:.2f} ms, {each[0]:.2f} ms"
        checks.append(Check(expected, seen, each[1] < each[0], must=False))
    return checks


def on_device(told: Mapping[str, Any], *, gpu: bool) -> Check:
    """Judge where a process of the proof itself has run a model."""
    device, seen = "GPU" if gpu else "CPU", str(told["device"])
    return Check(f"the graph is run on a {device}", seen, seen.startswith(device))


def rates(figures: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Judge photos a second: no error, and more clients are not answered less."""
    best = max((one["per_second"] for one in figures), default=0.0)
    last = figures[-1]["per_second"] if figures else 0.0
    return [
        no_errors(figures),
        Check(
            "the most clients are answered as fast as any number, within a tenth",
            f"{last:.1f} photos/s, best {best:.1f}",
            best > 0 and last >= best * 0.9,
            must=False,
        ),
    ]


def no_errors(figures: Iterable[Mapping[str, Any]]) -> Check:
    """Judge a load's answers."""
    bad = [
        f"{one['clients']} clients: {one['errors']}" for one in figures if one["errors"]
    ]
    return _none("every answer is a 200", bad, "all are")


def rewriting(plain: Mapping[str, Any], rewritten: Mapping[str, Any]) -> list[Check]:
    """Judge whether rewritten graphs are worth it on this device."""
    fast, slow = (
        {one["size"]: one["ms"][-1] for one in each["runs"]}
        for each in (rewritten, plain)
    )
    lost = [
        f"{size}: {fast[size]:.2f} ms rewritten, {slow[size]:.2f} ms plain"
        for size in fast
        if size in slow and fast[size] > slow[size] * 1.05
    ]
    expected = "a rewritten graph is not slower than the plain one"
    return [_none(expected, lost, "it is not", must=False)]


def full(
    before: Mapping[str, Any], after_s: float, statuses: Mapping[str, int], again: int
) -> list[Check]:
    """Judge a card that another program holds.

    Args:
        before: what ``/models`` said of the model while it was full.
        after_s: seconds from the end of the other program to READY.
        statuses: of photos that were sent while it was full, by how often.
        again: status of one that was sent after that.
    """
    reason, device = str(before.get("reason")), str(before.get("device"))
    blamed = "MODEL_MEMORY_MB" in reason or "died" in reason
    told = device if before.get("state") == "READY" else reason
    back = "the model comes by itself once there is room, within"
    return [
        Check(
            "on a full card a load fails as the card's fault, or finds room",
            f"{before.get('state')} on {device}: {reason}",
            "GPU" in told and not blamed,
        ),
        _at_most(back, COMPILED_S, after_s, " s"),
        Check(
            "a run on a full card is answered with 200 or 503",
            str(dict(statuses)),
            not set(statuses) - {"200"} - REFUSALS,
        ),
        Check("answers are 200 again once there is room", str(again), again == OK),
    ]


def back(what: str, before: int | None, after: int | None, seconds: float) -> Check:
    """Judge whether a process's memory on the card came back."""
    expected = f"{what}: its memory comes back within {BACK_S:g} s"
    if before is None or after is None:
        untold = "the driver does not tell memory here"
        return Check(expected, untold, ok=False, must=False)
    seen = f"{after} MiB held, {before} before, after {seconds:.1f} s"
    return Check(expected, seen, after <= before + BACK_MIB and seconds <= BACK_S)


def replaced(
    what: str, told: Mapping[str, Any], both: int | None, *, refusals: bool
) -> list[Check]:
    """Judge a process that had to be replaced by another.

    Args:
        told: seconds, statuses and the card's memory before, at most and after.
        both: MiB held by two models; ``None`` where there is no card, or none is told.
    """
    checks = [
        undisturbed(what, told["statuses"], refusals=refusals),
        _at_most(f"{what}: others serve within", REPLACED_S, told["seconds"], " s"),
    ]
    if both is not None:
        checks.append(back(what, told["before"], told["after"], told["back"]))
    return checks


def removed(told: Mapping[str, Any]) -> list[Check]:
    """Judge the removal of one of two models."""
    checks = [_at_most("removed: it is gone in", REPLACED_S, told["seconds"], " s")]
    if told["gpu"]:
        checks.append(back("removed", told["before"], told["after"], told["back"]))
    return checks


def undisturbed(what: str, statuses: Mapping[str, int], *, refusals: bool) -> Check:
    """Judge the answers while something happened: no 500, and only allowed refusals."""
    allowed = {"200", *REFUSALS} if refusals else {"200"}
    ok = not set(statuses) - allowed and statuses.get("200", 0) > 0
    which = "200 or 503" if refusals else "200"
    expected = f"{what}: photos are answered meanwhile, each with {which}"
    return Check(expected, str(dict(statuses)), ok)


def together(alone: float, both: float) -> Check:
    """Judge two models at once against one: they share, and lose little."""
    share = both / alone if alone else math.nan
    return Check(
        "two models at once answer as many photos as one, but for a third",
        f"{both:.1f} photos/s, one alone {alone:.1f}",
        share >= 2 / 3,
        must=False,
    )


def refused(
    name: str, value: str, code: int | None, log: str, *, usable: bool
) -> Check:
    """Judge a start with a choice of cards in the environment and REQUIRE_GPU."""
    last = (log.splitlines() or ["nothing"])[-1][:200]
    seen = f"exit code {code}: {last}" if code is not None else "it serves"
    if usable:
        return Check(f"{name}={value!r} serves", seen, code is None)
    refusal = f"{name}={value!r} with REQUIRE_GPU is refused"
    return Check(refusal, seen, code == START_FAILED)
