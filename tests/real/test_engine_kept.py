"""An arbiter, doors and an engine: what each one's death and each signal does."""

import os
import re
import signal
from pathlib import Path

import pytest

from modelserver.core.errors import START_FAILED
from modelserver.web.server import engine_keeper
from support.kept_servers import BOTH, keep
from support.servers import alive, children, wait_for

__all__ = ["keep"]  # a fixture

pytestmark = pytest.mark.real
WAYS = pytest.mark.parametrize("way", BOTH)


def names():
    """All that lies where the socket was made, by other servers, too."""
    return set(Path(engine_keeper._MEMORY).glob("modelserver-*"))


@WAYS
def test_the_engine_is_the_arbiters_and_serves_all_doors(way, keep):
    """Doors reach one engine, which is in a session of its own and knows its tasks."""
    before = names()
    server = keep(way).wait()
    assert server.get("/engine") == str(server.engine)
    assert os.getsid(server.engine) == server.engine
    assert all(os.getsid(door) == server.process.pid for door in server.doors)
    assert f"engine {server.engine} detection\n" in server.out
    wait_for(lambda: names() <= before, "no name is left")


@WAYS
def test_a_killed_engine_is_started_again(way, keep):
    """The doors stay, and new ones find the new engine at the same address."""
    server = keep(way).wait()
    first, doors = server.engine, server.doors
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.engines not in ([first], []), "there is another")
    assert server.doors == doors
    assert server.get("/pid") in map(str, doors)
    assert f"the engine (process {first}) ended by SIGKILL" in server.errors
    for door in doors:
        os.kill(door, signal.SIGKILL)
    wait_for(lambda: not set(server.doors) & set(doors), "the doors are gone")
    server.wait()
    assert server.get("/engine") == str(server.engine)
    assert server.end() == 0


@WAYS
def test_deaths_leave_no_descriptor_behind(way, keep):
    """In the arbiter and in doors that outlive an engine and another door."""
    server = keep(way).wait()
    stays, *_, goes = server.doors
    pids = [server.process.pid, stays]
    before = [descriptors(pid) for pid in pids]
    for _ in range(2):
        engine = server.engine
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda gone=engine: server.engines not in ([gone], []), "another")
        server.wait()
    os.kill(goes, signal.SIGKILL)
    wait_for(lambda: goes not in server.doors, "it is gone")
    server.wait()
    wait_for(lambda: [descriptors(pid) for pid in pids] == before, "as many as before")


def descriptors(pid):
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_killed_door_is_replaced(keep):
    """The engine and the other door do not notice."""
    server = keep().wait()
    engine, (first, second) = server.engine, server.doors
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: first not in server.doors, "it is gone")
    server.wait()
    assert second in server.doors
    assert server.get("/engine") == str(engine) == str(server.engine)


def test_a_stopped_engine_is_not_dead(keep):
    """Nobody starts a second one next to it, and it goes on; the end does not wait."""
    server = keep().wait()
    engine = server.engine
    os.kill(engine, signal.SIGSTOP)
    server.send(signal.SIGTTIN)  # a turn of the arbiter's loop
    server.doors_wanted = 3
    wait_for(lambda: len(server.family()) == 5, "there is a door more")
    assert server.engines == [engine]
    os.kill(engine, signal.SIGCONT)
    server.wait()
    os.kill(engine, signal.SIGSTOP)
    assert server.end() == 0
    assert "the engine does not end and is killed" in server.errors
    assert not alive(engine)


@WAYS
def test_an_engine_that_cannot_start_ends_the_server(way, keep, tmp_path):
    """Its code is the server's, its sentence is there once."""
    (tmp_path / "fault").write_text("refuse")
    server = keep(way)
    assert server.process.wait(60) == START_FAILED
    assert server.errors.count("modelserver: The engine is broken.\n") == 1
    assert "Traceback" not in server.errors
    wait_for(server.is_free, "the port is free")


@WAYS
@pytest.mark.parametrize("fault", ["FAIL_APP", "FAIL_START"])
def test_doors_that_cannot_start_end_the_server(way, fault, keep):
    """Two that fail for one reason end it as one does."""
    server = keep(way, **{fault: "1"})
    assert server.process.wait(60) == START_FAILED
    assert "modelserver: The" in server.errors
    assert "Traceback" not in server.errors


def test_an_engine_that_dies_again_and_again_is_waited_for(keep):
    """At the third death it takes a second; the doors answer, and it comes back."""
    server = keep().wait()
    server.fault.write_text("die")
    os.kill(server.engine, signal.SIGKILL)
    wait_for(lambda: "started again in 2 s" in server.errors, "it is waited for")
    ends = re.findall(r"ended by (.*); it is started again (.*?) \[", server.errors)
    assert ends[:4] == [
        ("SIGKILL", "at once"),
        ("exit code 1", "at once"),
        ("exit code 1", "in 1 s"),
        ("exit code 1", "in 2 s"),
    ]
    assert server.get("/pid") in map(str, server.doors)
    server.fault.unlink()
    server.wait()
    assert server.end() == 0


def test_doors_come_and_go_at_the_operators_signal(keep):
    """SIGTTIN adds a door, SIGTTOU ends the oldest; the engine stays."""
    server = keep().wait()
    engine, doors = server.engine, server.doors
    server.send(signal.SIGTTIN)
    server.doors_wanted = 3
    server.wait()
    assert set(doors) < set(server.doors)
    server.send(signal.SIGTTOU)
    server.doors_wanted = 2
    wait_for(lambda: len(server.doors) == 2, "one has gone")
    assert len(set(doors) & set(server.doors)) == 1
    assert server.engine == engine


@WAYS
def test_sighup_reaches_the_engine_alone(way, keep):
    """It looks at the model folder; no process is replaced."""
    server = keep(way).wait()
    family = server.family()
    server.send(signal.SIGHUP)
    wait_for(lambda: "rescan\n" in server.out, "it looks")
    assert server.family() == family


@WAYS
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda one: one.name
)
def test_the_engine_is_the_last_to_go(way, number, keep):
    """Every way to end the arbiter ends the doors first, with a clean code."""
    server = keep(way).wait()
    family = server.family()
    assert server.end(number) == 0
    assert not any(map(alive, family))
    ends = [
        line.split()[0] for line in server.out.splitlines() if "started" not in line
    ]
    assert ends.index("closed") < ends.index("engine", 1)
    assert server.out.count("engine over\n") == 1
    assert "Traceback" not in server.errors
    assert "is killed" not in server.errors


@WAYS
def test_ctrl_c_is_for_the_arbiter(way, keep):
    """Ctrl-C, even twice, reaches arbiter and doors; the engine ends after them."""
    server = keep(way).wait()
    family = server.family()
    os.killpg(server.process.pid, signal.SIGINT)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(60) == 0
    assert not any(map(alive, family))
    assert server.out.count("engine over\n") == 1
    assert "Traceback" not in server.errors


@WAYS
def test_a_signal_to_every_process_ends_every_process(way, keep):
    """A service manager may send SIGTERM to all at once; the engine is not first."""
    server = keep(way).wait()
    family = server.family()
    for pid in family:
        os.kill(pid, signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert not any(map(alive, family))
    assert server.out.count("engine over\n") == 1


@WAYS
def test_nothing_outlives_a_killed_arbiter(way, keep):
    """Neither a process that is stopped, nor the port, nor a file is left."""
    before = names()
    server = keep(way).wait()
    family = server.family()
    for pid in (server.engine, server.doors[0]):
        os.kill(pid, signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(map(alive, family)), "all are gone")
    wait_for(server.is_free, "the port is free")
    wait_for(lambda: names() <= before, "no name is left")


def test_a_hung_door_is_replaced(keep):
    """Gunicorn's timeout ends a door that no longer turns; the engine stays."""
    server = keep(options="--timeout 2").wait()
    engine, hung = server.engine, server.doors[0]
    os.kill(hung, signal.SIGSTOP)
    wait_for(lambda: hung not in server.doors, "it is gone")
    server.wait()
    assert "WORKER TIMEOUT" in server.errors
    assert server.get("/engine") == str(engine)


def test_an_app_whose_tasks_nobody_knows_is_served_by_one_worker(keep):
    """The models are in that worker then, and SIGTTIN is refused."""
    server = keep("gunicorn", doors=3, NO_TASKS="1")
    wait_for(lambda: len(server.doors) == 1, "it is there")
    assert server.get("/engine") == "none"
    assert server.engines == []
    assert "One worker holds the models itself" in server.errors
    server.send(signal.SIGTTIN)
    wait_for(lambda: "a second worker was refused" in server.errors, "it is refused")
    assert server.end() == 0


def test_a_new_arbiter_takes_over_with_an_engine_of_its_own(keep):
    """Gunicorn's SIGUSR2, then SIGQUIT to the old one: the port is never without."""
    server = keep().wait()
    old = server.family()
    server.send(signal.SIGUSR2)
    wait_for(lambda: len(server.started) == 2, "there is another engine")
    (new,) = set(children(server.process.pid)) - set(old)
    wait_for(lambda: len(children(new)) == 3, "it has doors of its own")
    try:
        assert server.end(signal.SIGQUIT) == 0
        assert not any(map(alive, old))
        assert server.get("/engine") == str(server.started[1])
        family = [new, *children(new)]
    finally:
        os.kill(new, signal.SIGTERM)
    wait_for(lambda: not any(map(alive, family)), "all are gone")
    wait_for(server.is_free, "the port is free")
