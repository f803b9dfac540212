"""Limits on a model's process."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from modelserver.core import process_limits
from modelserver.core.messages import Job

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def job_of(graph="gone.pb", memory_mb=0):
    return Job(
        name="m", kind="detection", graph=str(graph), sidecar=None, memory_mb=memory_mb
    )


def test_what_a_load_may_use_follows_the_graphs_size(tmp_path):
    """A load may use 4096 MiB and three times the file."""
    graph = tmp_path / "m.pb"
    graph.write_bytes(bytes(5 * MIB))
    assert process_limits.load_limit(job_of(graph)) == (4096 + 15) * MIB
    assert process_limits.load_limit(job_of()) == 4096 * MIB


def test_a_model_that_serves_may_use_more_for_each_slot():
    """Each slot adds to the limit, as each run has tensors of its own."""
    assert process_limits.serving_limit(job_of(), 4) == (4096 + 4 * 1024) * MIB


def test_the_operators_figure_holds_for_both():
    """MODEL_MEMORY_MB is the limit for loading and serving alike."""
    job = job_of(memory_mb=700)
    assert (
        process_limits.load_limit(job)
        == process_limits.serving_limit(job, 64)
        == 700 * MIB
    )


def test_the_memory_of_a_process_is_what_it_alone_uses():
    """Shared pages do not count; a process that is gone uses none."""
    own = process_limits.private_bytes(os.getpid())
    assert own > 1 * MIB
    held = bytearray(os.urandom(1) * (64 * MIB))
    assert process_limits.private_bytes(os.getpid()) > own + 32 * MIB
    assert len(held) == 64 * MIB
    assert process_limits.private_bytes(2**22 + 1) == 0


@pytest.fixture
def system(monkeypatch):
    """Stand for the kernel's limits: all are unlimited, and none is set."""
    state = {}
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda what: state.get(what, endless))
    monkeypatch.setattr(
        resource, "setrlimit", lambda what, pair: state.update({what: pair})
    )
    return state


def test_limits_are_set_for_a_load_and_lifted_after_it(system):
    """Address space is limited above the mapped part; files stay forbidden."""
    endless = resource.RLIM_INFINITY
    process_limits.limit_loading(100 * MIB)
    soft, hard = system[resource.RLIMIT_AS]
    assert hard == endless
    assert soft > 100 * MIB + process_limits._statm("self")[1]
    process_limits.lift_loading()
    assert system[resource.RLIMIT_AS] == (endless, endless)
    assert system[resource.RLIMIT_FSIZE] == (0, endless)
    process_limits.lift_all()
    assert system[resource.RLIMIT_FSIZE] == (endless, endless)


def test_a_lower_limit_of_the_operators_stays(system):
    """A lower limit that the operator set is not raised."""
    system[resource.RLIMIT_AS] = (5 * MIB, 5 * MIB)
    process_limits.limit_loading(100 * MIB)
    assert system[resource.RLIMIT_AS] == (5 * MIB, 5 * MIB)
    process_limits.lift_loading()
    assert system[resource.RLIMIT_AS] == (5 * MIB, 5 * MIB)


def test_without_proc_address_space_is_not_limited(system, monkeypatch):
    """Without /proc no limit is set, as any figure would be wrong."""
    monkeypatch.setattr(process_limits, "_statm", lambda _pid: (0, 0, 0))
    process_limits.limit_loading(100 * MIB)
    assert resource.RLIMIT_AS not in system


@pytest.mark.process
def test_the_kernel_keeps_to_them(tmp_path):
    """The kernel refuses core, file and memory; afterwards memory is free."""
    code = f"""
import resource, sys
from modelserver.core import process_limits as limits
limits.forbid_core_dumps()
limits.limit_loading(50 << 20)
try:
    # Beyond the limit and the address space that is allowed for threads.
    bytearray((50 + 73 * limits.os.cpu_count()) << 20)
except MemoryError:
    print("full")
limits.lift_loading()
held = bytearray((50 + 73 * limits.os.cpu_count()) << 20)
try:
    with open({str(tmp_path / "file")!r}, "wb") as file:
        file.write(b"x")
except OSError:
    print("no file")
print(resource.getrlimit(resource.RLIMIT_CORE))
limits.lift_all()
with open({str(tmp_path / "file")!r}, "wb") as file:
    file.write(b"x")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["full", "no file", "(0, 0)"]
