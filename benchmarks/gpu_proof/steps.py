"""The steps of the proof, in order. Each measures, and has ``judging`` look at it.

A step's name and the first words of its docstring are told to the reader.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.gpu_proof import judging, plans
from benchmarks.gpu_proof.judging import Seen
from benchmarks.support import open_loop, results
from benchmarks.support.open_loop import Request
from benchmarks.support.servers import ROOT, Server, wait
from modelserver.client import Client
from modelserver.core.contract import DETECT
from modelserver.engine.runners.cards import survey
from modelserver.engine.runners.environment import card_variables
from modelserver.tools import bench
from modelserver.tools.doctor.gpu import gpu_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.gpu_proof.findings import Found
    from benchmarks.gpu_proof.plans import Plan
    from modelserver.core.signatures import Kind

_QUERY = "index,name,uuid,driver_version,compute_cap,memory.total,mig.mode.current"
_ASK_S = 60.0
# The MiB of the card that another program leaves free: less than a process needs to
# begin with, and so little that one that runs has none left to grow.
_FULL_MIB, _TIGHT_MIB = 300, 64
_DEADLINE_S = 120.0
_AT_ONCE = 32
# So few a second that any machine can answer them.
_RATE = 5.0


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
    phases = found.facts["phases"] = plan.tuned["seconds"]
    judging.on_device(found, plan.tuned, gpu=plan.gpu)
    found.line += ", ".join(f"{name} {took:.1f}" for name, took in phases.items())


def warnings(log: str) -> list[str]:
    """Return a JSON log's warnings and errors, as lines."""
    bad = re.compile(r'"level": ?"(warn|err|crit)')
    return [line for line in log.splitlines() if bad.search(line)]


def answers(plan: Plan, found: Found) -> None:
    """Compare the answers with the CPU's, with and without TF32."""
    files = plan.files(plan.photos)
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
    untuned = plan.times(TF_CUDNN_USE_AUTOTUNE="0")
    found.facts |= {"tuned": plan.tuned, "untuned": untuned}
    judging.runs(found, plan.tuned, plan.sizes, gpu=plan.gpu)
    found.line = _ms(plan.tuned)


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
        for name, size in (("one size", plans.SIZES[0]), ("five sizes", None)):
            files = plan.files(10, size)
            found.facts[name] = measured = measure(server, "model", files, plan)
            judging.rates(found, measured)
            each = (f"{one['clients']}: {one['per_second']:.0f}" for one in measured)
            lines.append(f"{name}: " + ", ".join(each))
    found.line = f"photos/s by clients, {'; '.join(lines)}"


def measure(
    server: Server, model: str, files: list[bytes], plan: Plan
) -> list[dict[str, Any]]:
    """Measure a server with the project's own bench."""
    target = bench.Target.of(server.url, DETECT.route, model, files)
    bench.check(target)
    found = bench.measure(
        target, plan.clients, seconds=plan.seconds, rounds=plan.rounds
    )
    return [asdict(one) for one in found]


def rewriting(plan: Plan, found: Found) -> None:
    """Time the graph as it is, against the rewritten one."""
    plain = plan.times("--plain")
    found.facts |= {"plain": plain, "rewritten": plan.tuned}
    judging.rewriting(found, plain, plan.tuned)
    found.line = f"plain {_ms(plain)}"


@contextlib.contextmanager
def holding(free_mib: int, card: Mapping[str, str]) -> Iterator[int]:
    """Have another process hold all of a card but so much; gives the MiB it took."""
    command = [sys.executable, "-m", plans.WORKER, "hold", str(free_mib)]
    environ = {**os.environ, **card}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            said = next(filter(bytes.strip, process.stdout or ()), b"")
            if not said.strip().isdigit():
                raise RuntimeError("the process that was to fill the card failed")
            yield int(said)
        finally:
            process.kill()


def full(plan: Plan, found: Found) -> None:
    """Load and run a model while another program holds the card."""
    if not plan.gpu:
        found.skipped = plans.ONLY_CARD
        return
    folder = plan.folder("full", ("model", plan.detector))
    # Of several cards a server takes one that is not full, and CUDA's own order may be
    # another than the server's.
    card = next((card_variables(card.gpu) for card in survey().cards), {})
    with contextlib.ExitStack() as later:
        held = later.enter_context(contextlib.ExitStack())
        found.facts["taken"] = held.enter_context(holding(_FULL_MIB, card))
        environ = {**card, "REQUIRE_GPU": "false"}
        server = later.enter_context(plan.started(folder, environ=environ))
        before = found.facts["before"] = server.models().get("model", {})
        held.close()
        after_s = wait(lambda: _on_card(server), judging.COMPILED_S)
        with holding(_TIGHT_MIB, card):
            statuses = ask(plan, server, _AT_ONCE)
        wait(lambda: _on_card(server), judging.REPLACED_S)
        (again,) = ask(plan, server, 1)
    found.facts |= {"ready after": after_s, "runs": dict(statuses)}
    judging.full(found, before, after_s, statuses, again)
    told = f"READY {after_s:.1f} s after; {dict(statuses)}"
    found.line = f"{before.get('state')} while full, {told}"


def _on_card(server: Server) -> bool:
    told = server.models().get("model", {})
    return told.get("state") == "READY" and str(told.get("device")).startswith("GPU")


def ask(plan: Plan, server: Server, count: int) -> Counter[str]:
    """POST so many photos at a time; returns their statuses, counted."""
    requests = _requests(plan, server, "model", count)
    sent = open_loop.at_once(server.port, requests, _DEADLINE_S)
    return Counter(one.status for one in sent)


def _requests(plan: Plan, server: Server, model: str, count: int) -> list[Request]:
    files = plan.files(count)
    return [Request(model, open_loop.post(server.port, model, one)) for one in files]


def faults(plan: Plan, found: Found) -> None:
    """Kill processes, change a model, remove it; each under load."""
    folder = plan.folder("faults", ("model", plan.detector), ("other", plan.detector))
    empty = plan.held()
    with plan.started(folder, environ={"RELOAD_S": "0.5"}) as server:
        models, took = server.models(), server.ready_s
        judging.ready(found, models, took, plan.device, judging.COMPILED_S)
        both = plan.held()
        for name, asked, act in (
            ("killed", "other", _kill),
            ("reloaded", "other", _change),
            ("removed", "model", _remove),
        ):
            requests = _requests(plan, server, asked, 5)
            wanted = plan.held()
            if name == "removed" and empty is not None and both is not None:
                wanted = empty + (both - empty) // 2
            turn = open_loop.in_turn(requests)
            with open_loop.offer(server.port, _RATE, turn, _DEADLINE_S) as sent:
                time.sleep(0.5)
                over = act(server, folder)
                took = wait(over, judging.REPLACED_S)
            told = {"seconds": took, "before": wanted, **memory_back(plan, wanted)}
            told["statuses"] = dict(Counter(one.status for one in sent))
            found.facts[name] = told
            judging.replaced(found, name, told, gpu=plan.gpu)
    found.line = ", ".join(f"{k} {v['seconds']:.1f} s" for k, v in found.facts.items())
    if plan.gpu:
        found.line += f"; MiB {empty} empty, {both} with two"


def _kill(server: Server, _folder: Path) -> Callable[[], bool]:
    """Kill the processes of all models; returns a condition: others serve."""
    before = server.runners()
    for pid in before:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return lambda: _serve(server, before, fresh=len(before))


def _change(server: Server, folder: Path) -> Callable[[], bool]:
    """Change a model's label map by a blank line: another version."""
    before = server.runners()
    (labels, *_) = folder.glob("other.l*")
    with labels.open("a") as file:
        file.write("\n")
    return lambda: _serve(server, before, fresh=1)


def _remove(server: Server, folder: Path) -> Callable[[], bool]:
    """Remove one of two models; returns a condition: its process is gone."""
    for path in folder.glob("other.*"):
        path.unlink()
    return lambda: "other" not in server.models() and len(server.runners()) == 1


def _serve(server: Server, before: set[int], fresh: int) -> bool:
    """Tell whether so many of the processes are others now, and all models serve."""
    now = server.runners()
    states = {one["state"] for one in server.models().values()}
    replaced = len(now) == len(before) and len(now - before) >= fresh
    return replaced and states == {"READY"}


def memory_back(plan: Plan, wanted: int | None) -> dict[str, Any]:
    """Wait until no more MiB are held; returns the seconds, and what is held."""

    def back() -> bool:
        now = plan.held()
        return wanted is None or now is None or now <= wanted + judging.BACK_MIB

    return {"back": wait(back, judging.BACK_S), "after": plan.held()}


def two(plan: Plan, found: Found) -> None:
    """Ask two models at once, and one of them alone."""
    names = ("one", "two")
    folder = plan.folder("two", *((name, plan.detector) for name in names))
    files = plan.files(10, plans.SIZES[0])
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


_SPEED = (runs, rates, rewriting)
STEPS = (card, listing, ready, answers, *_SPEED, full, faults, two, choices)
