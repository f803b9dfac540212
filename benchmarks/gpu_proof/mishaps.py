"""The steps that do harm: a full card, killed processes, changed and removed models."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_proof import judging, photos, plans
from benchmarks.gpu_proof.outcomes import Check, Outcome
from benchmarks.support.servers import ROOT, Server, wait
from modelserver.client.errors import ClientError
from modelserver.engine.runners.cards import survey
from modelserver.engine.runners.environment import of_cards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.gpu_proof.plans import Plan

# The MiB of the card that another program leaves free: less than a process needs to
# begin with, and so little that one that runs has none left to grow.
_FULL_MIB, _TIGHT_MIB = 300, 64


def first_card() -> dict[str, str]:
    """Name the first card alone, by variables.

    Of several a server has a model go to one that is not full, and CUDA's own order may
    be another than the server's.
    """
    return next((of_cards(card.gpu) for card in survey().cards), {})


@contextlib.contextmanager
def holding(free_mib: int, card: Mapping[str, str]) -> Iterator[int]:
    """Have another process hold all of a card but so much; gives the MiB it took."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_proof.holder", str(free_mib)],
        cwd=ROOT,
        env={**os.environ, **card},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.strip().isdigit():
                raise RuntimeError("the process that was to fill the card failed")
            yield int(line)
        finally:
            process.kill()


def full(plan: Plan) -> Outcome:
    """Load and run a model while another program holds the card."""
    if not plan.gpu:
        return Outcome(skipped=plans.ONLY_CARD)
    folder = plan.folder("full", ("model", plan.detector))
    card = first_card()
    files = photos.make(plan.samples, 10)
    with contextlib.ExitStack() as later:
        held = later.enter_context(contextlib.ExitStack())
        took = held.enter_context(holding(_FULL_MIB, card))
        environ = {**card, "REQUIRE_GPU": "false"}
        server = later.enter_context(plan.started(folder, environ=environ, wait_s=120))
        before = server.models().get("model", {})
        held.close()
        after_s = wait(lambda: _on_card(server), judging.COMPILED_S)
        with holding(_TIGHT_MIB, card):
            statuses = collections.Counter(ask_at_once(server, "model", files, 32))
        wait(lambda: _on_card(server), judging.REPLACED_S)
        again = ask(server, "model", files[0])
    checks = judging.full(before, after_s, statuses, 200 if again == "200" else 0)
    facts = {"taken": took, "before": before, "ready after": after_s}
    line = f"{before.get('state')} while full, READY {after_s:.1f} s after; {statuses}"
    return Outcome({**facts, "runs": dict(statuses)}, tuple(checks), line)


def _on_card(server: Server) -> bool:
    told = server.models().get("model", {})
    return told.get("state") == "READY" and str(told.get("device")).startswith("GPU")


def ask(server: Server, model: str, data: bytes) -> str:
    """POST a photo; returns the status, or the kind of error without one."""
    try:
        with plans.client(server) as client:
            client.detect(model, data)
    except ClientError as error:
        return str(error.problem.status) if error.problem else type(error).__name__
    return "200"


def ask_at_once(
    server: Server, model: str, files: Sequence[bytes], count: int
) -> list[str]:
    """POST so many photos at a time; returns their statuses."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        turns = [files[number % len(files)] for number in range(count)]
        return list(pool.map(lambda data: ask(server, model, data), turns))


@contextlib.contextmanager
def load(
    server: Server, model: str, files: Sequence[bytes]
) -> Iterator[collections.Counter[str]]:
    """Have four clients ask for as long as this is open; gives statuses, counted."""
    counted: collections.Counter[str] = collections.Counter()
    over = threading.Event()

    def client(number: int) -> None:
        while not over.is_set():
            status = ask(server, model, files[number % len(files)])
            counted[status] += 1
            if status != "200":
                # A refused client waits, as Retry-After has it.
                over.wait(0.2)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(client, number)
        try:
            yield counted
        finally:
            over.set()


def faults(plan: Plan) -> Outcome:
    """Kill the models' processes, change a model, remove it; each under load."""
    folder = plan.folder("faults", ("model", plan.detector), ("other", plan.detector))
    files = photos.make(plan.samples, 5)
    empty = plan.held()
    facts: dict[str, Any] = {}
    checks: list[Check] = []
    with plan.started(folder, environ={"RELOAD_S": "0.5"}) as server:
        models, took = server.models(), server.ready_s
        checks += judging.ready(models, took, plan.device, judging.COMPILED_S)
        both = plan.held()
        for name, act in (("killed", _kill), ("reloaded", _change)):
            one = facts[name] = _replace(plan, server, files, act, folder)
            checks += judging.replaced(name, one, both, refusals=name == "killed")
        one = facts["removed"] = _remove(plan, server, folder, empty, both)
        checks += judging.removed(one)
    line = ", ".join(f"{name} {one['seconds']:.1f} s" for name, one in facts.items())
    memory = f"; MiB {empty} empty, {both} with two" if plan.gpu else ""
    return Outcome(facts, tuple(checks), f"{line}{memory}")


def _replace(
    plan: Plan,
    server: Server,
    files: Sequence[bytes],
    act: Callable[[Server, Path], int],
    folder: Path,
) -> dict[str, Any]:
    """Do something that has processes replaced, under load; watch the card's memory."""
    before, start = server.runners(), plan.held()
    memory = [start or 0]

    def over() -> bool:
        memory.append(plan.held() or 0)
        return _replaced(server, before, gone)

    with load(server, "other", files) as counted:
        time.sleep(0.5)
        gone = act(server, folder)
        took = wait(over, judging.REPLACED_S)
    told = {"seconds": took, "statuses": dict(counted), "before": start}
    return {**told, "most": max(memory), **memory_back(plan, start)}


def _remove(
    plan: Plan, server: Server, folder: Path, empty: int | None, both: int | None
) -> dict[str, Any]:
    """Remove one of two models; half of their memory must come back."""
    wanted = None if empty is None or both is None else empty + (both - empty) // 2
    for path in folder.glob("other.*"):
        path.unlink()
    took = wait(
        lambda: "other" not in server.models() and len(server.runners()) == 1,
        judging.REPLACED_S,
    )
    told = {"seconds": took, "gpu": plan.gpu, "before": wanted}
    return {**told, **memory_back(plan, wanted)}


def _kill(server: Server, _folder: Path) -> int:
    """Kill the processes of all models; returns how many."""
    victims = sorted(server.runners())
    for pid in victims:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(victims)


def _change(_server: Server, folder: Path) -> int:
    """Change a model's label map by a blank line: another version."""
    (labels, *_) = folder.glob("other.l*")
    with labels.open("a") as file:
        file.write("\n")
    return 1


def _replaced(server: Server, before: set[int], gone: int) -> bool:
    """Tell whether so many of the processes are others now, and all models serve."""
    now = server.runners()
    states = [one["state"] for one in server.models().values()]
    same = len(now) == len(before) and len(now - before) >= gone
    return same and bool(states) and set(states) == {"READY"}


def memory_back(plan: Plan, wanted: int | None) -> dict[str, Any]:
    """Wait until no more MiB are held; returns the seconds, and what is held."""

    def back() -> bool:
        now = plan.held()
        return wanted is None or now is None or now <= wanted + judging.BACK_MIB

    return {"back": wait(back, judging.BACK_S), "after": plan.held()}
