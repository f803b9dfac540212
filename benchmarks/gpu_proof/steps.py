"""The steps of the proof, in order. Each measures, and has ``judging`` look at it.

A step's name and the first words of its docstring are told to the reader.
"""

from __future__ import annotations

import concurrent.futures
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.gpu_proof import judging, photos, plans
from benchmarks.gpu_proof.judging import Seen
from benchmarks.gpu_proof.mishaps import faults, full
from benchmarks.support import results
from modelserver.client import Client
from modelserver.engine.runners.cards import survey
from modelserver.tools import bench
from modelserver.tools.doctor.gpu import gpu_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.gpu_proof.findings import Found
    from benchmarks.gpu_proof.plans import Plan
    from benchmarks.support.servers import Server
    from modelserver.core.signatures import Kind

_QUERY = "index,name,uuid,driver_version,compute_cap,memory.total,mig.mode.current"
_ASK_S = 60.0


def card(plan: Plan, found: Found) -> None:
    """Look at the card, its driver, and who may use it."""
    devices = Path("/proc/devices").read_text().splitlines()
    found.facts |= {
        "machine": results.machine(),
        "nvidia-smi": smi(f"--query-gpu={_QUERY}", "--format=csv,noheader"),
        "/proc/devices": [line.strip() for line in devices if "nvidia" in line],
        "doctor": msgspec.to_builtins(gpu_report()),
    }
    found.line = "; ".join(found.facts["nvidia-smi"])
    if plan.gpu:
        judging.card(found, found.facts)
    else:
        found.skipped = plans.ONLY_CARD


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


def listing(plan: Plan, found: Found) -> None:
    """Ask TensorFlow for its cards, with and without the libraries opened first."""
    plain, opened = plan.work("list"), plan.work("list", "--preload")
    found.facts |= {"alone": plain, "opened first": opened}
    judging.listing(found, plain, opened, gpu=plan.gpu)
    found.line = f"{len(opened['gpus'])} cards; alone {len(plain['gpus'])}; opened: "
    found.line += ", ".join(opened["opened"]) or "nothing"


def ready(plan: Plan, found: Found) -> None:
    """Start with an empty CUDA cache, and again, and time the parts of a load."""
    folder = plan.folder("ready", ("detector", plan.detector))
    seconds = []
    for name, limit_s in (("cold", judging.COMPILED_S), ("warm", judging.READY_S)):
        with plan.started(folder) as server:
            models, took, told = server.models(), server.ready_s, warnings(server.log)
        seconds.append(took)
        found.facts[name] = {"seconds": took, "models": models, "warnings": told}
        judging.ready(found, models, took, plan.device, limit_s)
    judging.caches(found, *seconds)
    found.expect_none("no warning at the start", told, must=False)
    found.line = "cold {:.1f} s, warm {:.1f} s; ".format(*seconds)
    if found.result == "FAILED":
        return
    phases = plan.work("phases", "detection", str(plan.detector.graph))
    found.facts["phases"] = phases
    judging.on_device(found, phases, gpu=plan.gpu)
    found.line += ", ".join(f"{k} {v:.1f}" for k, v in phases["seconds"].items())


def warnings(log: str) -> list[str]:
    """Return a JSON log's warnings and errors, as lines."""
    bad = re.compile(r'"level": ?"(warn|err|crit)')
    return [line for line in log.splitlines() if bad.search(line)]


def answers(plan: Plan, found: Found) -> None:
    """Compare the answers with the CPU's, with and without TF32."""
    files = photos.make(plan.samples, plan.photos)
    lines = []
    kinds: tuple[Kind, ...] = ("detection", "classification")
    for kind in kinds:
        cpu = asked(replace(plan, gpu=False), kind, files)
        for name, more in (
            ("as it is", {}),
            ("without TF32", {"NVIDIA_TF32_OVERRIDE": "0"}),
        ):
            gaps = judging.gaps(asked(plan, kind, files, **more), cpu)
            about = f"{kind}, {name}"
            found.facts[about] = gaps._asdict()
            judging.answers(found, gaps, len(files), about)
            lines.append(f"{kind[:6]} {name} {gaps.confidence:.1e}/{gaps.box:.1e}")
    found.line = "; ".join(lines)


def asked(
    plan: Plan, kind: Kind, files: Sequence[bytes], **environ: str
) -> list[list[Seen]]:
    """Have a server answer photos; on what device, ``ready`` has looked at."""
    model = plan.detector if kind == "detection" else plan.classifier
    folder = plan.folder("answers", ("model", model))
    seen = []
    with (
        plan.started(folder, kind, environ) as server,
        Client(server.url, retries=0, timeout=120.0) as client,
    ):
        for data in files:
            if kind == "detection":
                boxes = client.detect("model", data, min_confidence=0.3)
                seen.append([Seen(one.label, one.confidence, one.box) for one in boxes])
            else:
                classes = client.classify("model", data, top_k=3).classes
                seen.append([Seen(one.label, one.confidence) for one in classes])
    return seen


def runs(plan: Plan, found: Found) -> None:
    """Time runs by the number of images, with and without cuDNN's tuning."""
    tuned = plan.cache["rewritten"] = plan.times()
    untuned = plan.times(TF_CUDNN_USE_AUTOTUNE="0")
    found.facts |= {"tuned": tuned, "untuned": untuned}
    judging.runs(found, tuned, plan.sizes, gpu=plan.gpu)
    found.line = _ms(tuned)


def _ms(told: Mapping[str, Any]) -> str:
    parts = (
        f"{one['size']}: {one['ms'][0]:.0f}/{one['ms'][-1]:.1f}" for one in told["runs"]
    )
    return "images: first/third run in ms  " + ", ".join(parts)


def rates(plan: Plan, found: Found) -> None:
    """Count photos a second by the number of clients, of one size and of five."""
    folder = plan.folder("rates", ("model", plan.detector))
    lines = []
    with plan.started(folder) as server:
        for name, size in (("one size", photos.SIZES[0]), ("five sizes", None)):
            files = photos.make(plan.samples, 10, size)
            found.facts[name] = measured = measure(server, "model", files, plan)
            judging.rates(found, measured)
            each = (f"{one['clients']}: {one['per_second']:.0f}" for one in measured)
            lines.append(f"{name}: " + ", ".join(each))
    found.line = f"photos/s by clients, {'; '.join(lines)}"


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


def rewriting(plan: Plan, found: Found) -> None:
    """Time the graph as it is, against the rewritten one."""
    rewritten = plan.cache.get("rewritten") or plan.times()
    plain = plan.times("--plain")
    found.facts |= {"plain": plain, "rewritten": rewritten}
    judging.rewriting(found, plain, rewritten)
    found.line = f"plain {_ms(plain)}"


def two(plan: Plan, found: Found) -> None:
    """Ask two models at once, and one of them alone."""
    names = ("one", "two")
    folder = plan.folder("two", *((name, plan.detector) for name in names))
    files = photos.make(plan.samples, 10, photos.SIZES[0])
    few = replace(plan, clients=(min(8, max(plan.clients)),))
    with plan.started(folder) as server:
        (alone,) = measure(server, "one", files, few)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            every = pool.map(lambda name: measure(server, name, files, few), names)
            both = [one for (one,) in every]
    rate = sum(one["per_second"] for one in both)
    found.facts |= {"alone": alone, "both": both}
    judging.no_errors(found, [alone, *both])
    judging.together(found, alone["per_second"], rate)
    found.line = f"{rate:.0f} photos/s, one alone {alone['per_second']:.0f}"


def choices(plan: Plan, found: Found) -> None:
    """Start with CUDA_VISIBLE_DEVICES as people write it, and REQUIRE_GPU."""
    folder = plan.folder("choices", ("model", plan.detector))
    values = {"": False, "-1": False, "NoDevFiles": False}
    if plan.gpu:
        values |= {"0": True} | {one.gpu: True for one in survey().cards[:1]}
    for value, usable in values.items():
        environ = {"REQUIRE_GPU": "true", "CUDA_VISIBLE_DEVICES": value}
        with plan.started(folder, environ=environ) as server:
            code, log = server.process.poll(), server.log
        found.facts[value] = {"code": code, "log": log[-500:]}
        judging.choice(found, value, code, log, usable=usable)
    codes = (f"{value!r}: {one['code']}" for value, one in found.facts.items())
    found.line = f"exit codes {', '.join(codes)}"


STEPS = (
    card,
    listing,
    ready,
    answers,
    runs,
    rates,
    rewriting,
    full,
    faults,
    two,
    choices,
)
