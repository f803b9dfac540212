"""The steps of the proof, in order. Each measures, and has ``judging`` look at it."""

from __future__ import annotations

import concurrent.futures
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_proof import cards, judging, mishaps, photos
from benchmarks.gpu_proof.judging import Seen
from benchmarks.gpu_proof.outcomes import Check, Outcome, Step
from benchmarks.gpu_proof.plans import ON_CPU, ONLY_CARD, PATIENT, work
from benchmarks.gpu_proof.servers import Server, started, warnings
from benchmarks.support import results
from modelserver import bench

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.gpu_proof.plans import Plan
    from modelserver.discovery import ModelFiles
    from modelserver.signatures import Kind


def card(plan: Plan) -> Outcome:
    """Look at the card, its driver, its nodes and who may use them."""
    facts = {"machine": results.machine(), **cards.shown()}
    if not plan.gpu:
        return Outcome(facts, skipped=ONLY_CARD)
    line = "; ".join(facts["nvidia-smi"])
    return Outcome(facts, tuple(judging.card(facts)), line)


def listing(plan: Plan) -> Outcome:
    """Ask TensorFlow for its cards, with and without the libraries opened first."""
    plain, opened = work(plan, "list"), work(plan, "list", "--preload")
    line = f"{len(opened['gpus'])} cards; alone {len(plain['gpus'])}; opened first: "
    line += ", ".join(opened["opened"]) or "nothing"
    checks = judging.listing(plain, opened, gpu=plan.gpu)
    return Outcome({"alone": plain, "opened first": opened}, tuple(checks), line)


def ready(plan: Plan) -> Outcome:
    """Start a server with an empty CUDA cache, and again; and time a load's parts."""
    folder = plan.folder("ready", ("detector", plan.detector))
    seen: dict[str, Any] = {}
    checks: list[Check] = []
    for name, limit_s in (("cold", judging.COMPILED_S), ("warm", judging.READY_S)):
        with started(folder, environ=plan.environ) as server:
            models = server.models()
            checks += judging.ready(models, server.ready_s, plan.device, limit_s)
            told = warnings(server.log)
            seen[name] = {"seconds": server.ready_s, "models": models, "warnings": told}
    told = seen["warm"]["warnings"]
    checks += [
        judging.caches(seen["cold"]["seconds"], seen["warm"]["seconds"]),
        Check(
            "no warning at the start",
            "; ".join(told[:3]) or "none",
            not told,
            must=False,
        ),
    ]
    if all(check.ok or not check.must for check in checks):
        seen["phases"] = work(plan, "phases", "detection", str(plan.detector.graph))
        checks.append(judging.on_device(seen["phases"], gpu=plan.gpu))
        parts = seen["phases"]["seconds"]
        line = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    else:
        line = "no READY"
    starts = (
        f"cold {seen['cold']['seconds']:.1f} s, warm {seen['warm']['seconds']:.1f} s"
    )
    return Outcome(seen, tuple(checks), f"{starts}; {line}")


def answers(plan: Plan) -> Outcome:
    """Compare the answers for photos with the CPU's, with and without TF32."""
    files = photos.make(plan.samples, plan.photos)
    facts: dict[str, Any] = {"photos": len(files)}
    checks: list[Check] = []
    lines = []
    kinds: dict[Kind, ModelFiles] = {
        "detection": plan.detector,
        "classification": plan.classifier,
    }
    for kind, model in kinds.items():
        folder = plan.folder("answers", ("model", model))
        cpu = _asked(folder, kind, files, {**PATIENT, **ON_CPU})
        for name, more in (
            ("as it is", {}),
            ("without TF32", {"NVIDIA_TF32_OVERRIDE": "0"}),
        ):
            ours = _asked(folder, kind, files, plan.environ | more)
            found = judging.gaps(ours, cpu)
            checks += judging.answers(found, len(files), f"{kind}, {name}")
            facts[f"{kind}, {name}"] = found._asdict()
            lines.append(f"{kind[:6]} {name} {found.confidence:.1e}/{found.box:.1e}")
    return Outcome(facts, tuple(checks), "; ".join(lines))


def _asked(
    folder: Path, kind: Kind, files: Sequence[bytes], environ: Mapping[str, str]
) -> list[list[Seen]]:
    """Have a server answer photos; on what device, ``ready`` has looked at."""
    with started(folder, kind, environ=environ) as server, server.client() as client:
        seen = []
        for data in files:
            if kind == "detection":
                found = client.detect("model", data, min_confidence=0.3)
                seen.append([Seen(one.label, one.confidence, one.box) for one in found])
            else:
                classes = client.classify("model", data, top_k=3).classes
                seen.append([Seen(one.label, one.confidence) for one in classes])
        return seen


def runs(plan: Plan) -> Outcome:
    """Time runs of 1 to 32 images, with and without cuDNN's tuning."""
    words = (
        "times",
        "detection",
        str(plan.detector.graph),
        ",".join(map(str, plan.sizes)),
    )
    tuned = work(plan, *words)
    untuned = work(plan, *words, TF_CUDNN_USE_AUTOTUNE="0")
    checks = judging.runs(tuned, plan.sizes, gpu=plan.gpu)
    plan.cache["rewritten"] = tuned
    return Outcome({"tuned": tuned, "untuned": untuned}, tuple(checks), _ms(tuned))


def _ms(told: Mapping[str, Any]) -> str:
    parts = (
        f"{one['size']}: {one['ms'][0]:.0f}/{one['ms'][-1]:.1f}" for one in told["runs"]
    )
    return "images: first/third run in ms  " + ", ".join(parts)


def rates(plan: Plan) -> Outcome:
    """Count photos a second by the number of clients, of one size and of five."""
    folder = plan.folder("rates", ("model", plan.detector))
    facts: dict[str, Any] = {}
    checks: list[Check] = []
    with started(folder, environ=plan.environ) as server:
        for name, size in (("one size", photos.SIZES[0]), ("five sizes", None)):
            files = photos.make(plan.samples, 10, size)
            measured = measure(server, "model", files, plan)
            facts[name] = measured
            checks += judging.rates(measured)
    line = "; ".join(
        f"{name}: "
        + ", ".join(f"{one['clients']}: {one['per_second']:.0f}" for one in each)
        for name, each in facts.items()
    )
    return Outcome(facts, tuple(checks), f"photos/s by clients, {line}")


def measure(
    server: Server, model: str, files: list[bytes], plan: Plan
) -> list[dict[str, Any]]:
    """Measure a server with the project's own bench."""
    target = bench.Target.of(server.url, bench.PATHS["detection"], model, files)
    bench.check(target)
    found = bench.measure(
        target, plan.clients, seconds=plan.seconds, rounds=plan.rounds
    )
    return [{"clients": one.clients, **results.figures(one)} for one in found]


def rewriting(plan: Plan) -> Outcome:
    """Time the graph as it is, against the rewritten one."""
    words = (
        "times",
        "detection",
        str(plan.detector.graph),
        ",".join(map(str, plan.sizes)),
    )
    rewritten = plan.cache.get("rewritten") or work(plan, *words)
    plain = work(plan, *words, "--plain")
    checks = judging.rewriting(plain, rewritten)
    line = f"plain {_ms(plain)}"
    return Outcome({"plain": plain, "rewritten": rewritten}, tuple(checks), line)


def two(plan: Plan) -> Outcome:
    """Count photos a second of one model alone, and of two at once."""
    folder = plan.folder("two", ("one", plan.detector), ("two", plan.detector))
    files = photos.make(plan.samples, 10, photos.SIZES[0])
    few = replace(plan, clients=(min(8, max(plan.clients)),))
    with started(folder, environ=plan.environ) as server:
        alone = measure(server, "one", files, few)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            both = list(
                pool.map(lambda name: measure(server, name, files, few), ("one", "two"))
            )
    sums = [
        sum(one["per_second"] for one in each)
        for each in ([alone[0]], [one[0] for one in both])
    ]
    bad = [one["errors"] for one in (*alone, *both[0], *both[1]) if one["errors"]]
    checks = (
        Check("every answer is a 200", str(bad or "all are"), not bad),
        judging.together(*sums),
    )
    line = f"{sums[1]:.0f} photos/s, one alone {sums[0]:.0f}"
    return Outcome({"alone": alone, "both": both}, checks, line)


def choices(plan: Plan) -> Outcome:
    """Start with CUDA_VISIBLE_DEVICES as people write it, and REQUIRE_GPU."""
    folder = plan.folder("choices", ("model", plan.detector))
    facts: dict[str, Any] = {}
    checks = []
    values = {"": False, "-1": False, "NoDevFiles": False}
    if plan.gpu:
        values |= {"0": True, _uuid(): True}
    for value, usable in values.items():
        environ = {**plan.environ, "REQUIRE_GPU": "true", "CUDA_VISIBLE_DEVICES": value}
        with started(folder, environ=environ) as server:
            code, log = server.code, server.log
        facts[value] = {"code": code, "log": log[-500:]}
        checks.append(
            judging.refused("CUDA_VISIBLE_DEVICES", value, code, log, usable=usable)
        )
    line = ", ".join(f"{value!r}: {one['code']}" for value, one in facts.items())
    return Outcome(facts, tuple(checks), f"exit codes {line}")


def _uuid() -> str:
    (first, *_) = cards.smi("--query-gpu=uuid", "--format=csv,noheader") or ["0"]
    return first.strip() if first.startswith("GPU-") else "0"


STEPS = (
    Step("card", "the card, its driver, and who may use it", card),
    Step("listing", "what TensorFlow lists, with and without the preload", listing),
    Step("ready", "a cold and a warm start, and the parts of a load", ready),
    Step("answers", "the answers against the CPU's", answers),
    Step("runs", "times of runs by the number of images", runs),
    Step("rates", "photos a second by the number of clients", rates),
    Step("rewriting", "the graph rewritten, and as it is", rewriting),
    Step("full", "a card that another program holds", mishaps.full),
    Step("faults", "a killed process, a reload, a removal", mishaps.faults),
    Step("two", "two models at once", two),
    Step("choices", "CUDA_VISIBLE_DEVICES as people write it", choices),
)


def place() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for what the proof makes."""
    return tempfile.TemporaryDirectory(prefix="gpu-proof-")
