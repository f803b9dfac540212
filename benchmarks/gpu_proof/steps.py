"""The steps of the proof, in order. Each measures, and has ``judging`` look at it."""

from __future__ import annotations

import concurrent.futures
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.gpu_proof import judging, mishaps, photos, plans
from benchmarks.gpu_proof.judging import Seen
from benchmarks.gpu_proof.outcomes import Check, Outcome, Step
from benchmarks.support import results
from modelserver.engine.runners.cards import survey
from modelserver.tools import bench
from modelserver.tools.doctor.gpu import gpu_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.gpu_proof.plans import Plan
    from benchmarks.support.servers import Server
    from modelserver.core.signatures import Kind

_QUERY = "index,name,uuid,driver_version,compute_cap,memory.total,mig.mode.current"
_ASK_S = 60.0


def card(plan: Plan) -> Outcome:
    """Look at the card, its driver, its nodes and who may use them."""
    devices = Path("/proc/devices").read_text().splitlines()
    facts = {
        "machine": results.machine(),
        "nvidia-smi": smi(f"--query-gpu={_QUERY}", "--format=csv,noheader"),
        "/proc/devices": [line.strip() for line in devices if "nvidia" in line],
        "doctor": msgspec.to_builtins(gpu_report()),
    }
    if not plan.gpu:
        return Outcome(facts, skipped=plans.ONLY_CARD)
    return Outcome(facts, tuple(judging.card(facts)), "; ".join(facts["nvidia-smi"]))


def smi(*arguments: str) -> list[str]:
    """Ask nvidia-smi; returns the failure, and any words, if it fails."""
    command = ["nvidia-smi", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"failed: {error}"]
    lines = done.stdout.splitlines()
    return lines if done.returncode == 0 else [f"failed: {done.returncode}", *lines]


def listing(plan: Plan) -> Outcome:
    """Ask TensorFlow for its cards, with and without the libraries opened first."""
    plain, opened = plan.work("list"), plan.work("list", "--preload")
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
        with plan.started(folder) as server:
            models, took, told = server.models(), server.ready_s, warnings(server.log)
        checks += judging.ready(models, took, plan.device, limit_s)
        seen[name] = {"seconds": took, "models": models, "warnings": told}
    cold_s, warm_s = seen["cold"]["seconds"], seen["warm"]["seconds"]
    words = "; ".join(told[:3]) or "none"
    checks.append(judging.caches(cold_s, warm_s))
    checks.append(Check("no warning at the start", words, not told, must=False))
    line = "no READY"
    if all(check.ok or not check.must for check in checks):
        seen["phases"] = plan.work("phases", "detection", str(plan.detector.graph))
        checks.append(judging.on_device(seen["phases"], gpu=plan.gpu))
        parts = seen["phases"]["seconds"]
        line = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    line = f"cold {cold_s:.1f} s, warm {warm_s:.1f} s; {line}"
    return Outcome(seen, tuple(checks), line)


def warnings(log: str) -> list[str]:
    """Return a JSON log's warnings and errors, as lines."""
    bad = re.compile(r'"level": ?"(warn|err|crit)')
    return [line for line in log.splitlines() if bad.search(line)]


def answers(plan: Plan) -> Outcome:
    """Compare the answers for photos with the CPU's, with and without TF32."""
    files = photos.make(plan.samples, plan.photos)
    facts: dict[str, Any] = {"photos": len(files)}
    checks: list[Check] = []
    lines = []
    kinds: tuple[Kind, ...] = ("detection", "classification")
    for kind in kinds:
        cpu = asked(replace(plan, gpu=False), kind, files)
        for name, more in (
            ("as it is", {}),
            ("without TF32", {"NVIDIA_TF32_OVERRIDE": "0"}),
        ):
            found = judging.gaps(asked(plan, kind, files, **more), cpu)
            checks += judging.answers(found, len(files), f"{kind}, {name}")
            facts[f"{kind}, {name}"] = found._asdict()
            lines.append(f"{kind[:6]} {name} {found.confidence:.1e}/{found.box:.1e}")
    return Outcome(facts, tuple(checks), "; ".join(lines))


def asked(
    plan: Plan, kind: Kind, files: Sequence[bytes], **environ: str
) -> list[list[Seen]]:
    """Have a server answer photos; on what device, ``ready`` has looked at."""
    model = plan.detector if kind == "detection" else plan.classifier
    folder = plan.folder("answers", ("model", model))
    seen = []
    with (
        plan.started(folder, kind, environ=environ) as server,
        plans.client(server) as client,
    ):
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
    tuned = plan.times()
    untuned = plan.times(TF_CUDNN_USE_AUTOTUNE="0")
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
    lines = []
    with plan.started(folder) as server:
        for name, size in (("one size", photos.SIZES[0]), ("five sizes", None)):
            files = photos.make(plan.samples, 10, size)
            facts[name] = measured = measure(server, "model", files, plan)
            checks += judging.rates(measured)
            each = (f"{one['clients']}: {one['per_second']:.0f}" for one in measured)
            lines.append(f"{name}: " + ", ".join(each))
    line = f"photos/s by clients, {'; '.join(lines)}"
    return Outcome(facts, tuple(checks), line)


def measure(
    server: Server, model: str, files: list[bytes], plan: Plan
) -> list[dict[str, Any]]:
    """Measure a server with the project's own bench."""
    target = bench.Target.of(server.url, bench.PATHS["detection"], model, files)
    bench.check(target)
    found = bench.measure(
        target, plan.clients, seconds=plan.seconds, rounds=plan.rounds
    )
    return [asdict(one) for one in found]


def rewriting(plan: Plan) -> Outcome:
    """Time the graph as it is, against the rewritten one."""
    rewritten = plan.cache.get("rewritten") or plan.times()
    plain = plan.times("--plain")
    checks = judging.rewriting(plain, rewritten)
    facts = {"plain": plain, "rewritten": rewritten}
    return Outcome(facts, tuple(checks), f"plain {_ms(plain)}")


def two(plan: Plan) -> Outcome:
    """Count photos a second of one model alone, and of two at once."""
    folder = plan.folder("two", ("one", plan.detector), ("two", plan.detector))
    files = photos.make(plan.samples, 10, photos.SIZES[0])
    few = replace(plan, clients=(min(8, max(plan.clients)),))
    with plan.started(folder) as server:
        (alone,) = measure(server, "one", files, few)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            every = pool.map(lambda name: measure(server, name, files, few), MODELS)
            both = [one for (one,) in every]
    rate = sum(one["per_second"] for one in both)
    checks = (
        judging.no_errors([alone, *both]),
        judging.together(alone["per_second"], rate),
    )
    line = f"{rate:.0f} photos/s, one alone {alone['per_second']:.0f}"
    return Outcome({"alone": alone, "both": both}, checks, line)


def choices(plan: Plan) -> Outcome:
    """Start with CUDA_VISIBLE_DEVICES as people write it, and REQUIRE_GPU."""
    folder = plan.folder("choices", ("model", plan.detector))
    name = "CUDA_VISIBLE_DEVICES"
    facts: dict[str, Any] = {}
    checks = []
    values = {"": False, "-1": False, "NoDevFiles": False}
    if plan.gpu:
        values |= {"0": True} | {one.gpu: True for one in survey().cards[:1]}
    for value, usable in values.items():
        environ = {"REQUIRE_GPU": "true", name: value}
        with plan.started(folder, environ=environ) as server:
            code, log = server.process.poll(), server.log
        facts[value] = {"code": code, "log": log[-500:]}
        checks.append(judging.refused(name, value, code, log, usable=usable))
    line = ", ".join(f"{value!r}: {one['code']}" for value, one in facts.items())
    return Outcome(facts, tuple(checks), f"exit codes {line}")


MODELS = ("one", "two")
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
