"""The steps that do harm: a full card, killed processes, changed and removed models."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_proof import judging, photos, plans
from benchmarks.support import open_loop
from benchmarks.support.open_loop import Request
from benchmarks.support.servers import ROOT, Server, wait
from modelserver.engine.runners.cards import survey
from modelserver.engine.runners.environment import of_cards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from benchmarks.gpu_proof.findings import Found
    from benchmarks.gpu_proof.plans import Plan

# The MiB of the card that another program leaves free: less than a process needs to
# begin with, and so little that one that runs has none left to grow.
_FULL_MIB, _TIGHT_MIB = 300, 64
_DEADLINE_S = 120.0
_AT_ONCE = 32
# So few a second that any machine can answer them.
_RATE = 5.0


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
    card = next((of_cards(card.gpu) for card in survey().cards), {})
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
    files = photos.make(plan.samples, count)
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
