"""The chaos and the soak: what they work out, seconds of them, and all of them."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import chaos, soak
from benchmarks.support import inputs, open_loop, servers
from benchmarks.support.open_loop import BROKEN, TIMEOUT, Request, Sent

ROOT = Path(__file__).parents[2]
EVENT = {"event": "kill", "at": 0.0, "recovery_s": 1.0}
GROWTH = {"first": 1, "last": 1, "per_minute": 0.0}


def driver(name, out, *arguments):
    """Run a driver; its result and what it complained about."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--out", out]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    return json.loads(out.read_text()), done


def sent(kind, status, at=0.0):
    """A request and what became of it."""
    return Sent(kind, at, status, 5.0)


def run_of(*windows):
    """A chaos in which other answers were right at some times."""
    return chaos.Chaos(None, Path(), b"", 0, windows=list(windows))


def test_a_failed_request_of_an_untouched_model_counts():
    """Of the victim, a 503 does not; a broken connection does for all."""
    found = chaos.failures(
        run_of(),
        [
            sent("bystander", "200"),
            sent("bystander", "503"),
            sent("changing", BROKEN),
            sent("victim", "503"),
            sent("victim", "500"),
        ],
    )
    assert found == {
        "bystander": {"503": 1},
        "changing": {BROKEN: 1},
        "victim": {"500": 1},
    }


def test_a_full_disk_is_an_answer_while_it_is_full():
    """507 then, and only then."""
    sent_at = [sent("bystander", "507", at) for at in (1.0, 5.0, 9.0)]
    full = chaos.Window(4.0, 6.0, {"507"})
    found = chaos.failures(run_of(full), sent_at)
    assert found["bystander"] == {"507": 2}


def test_only_who_was_under_way_at_a_door_may_lose_a_connection():
    """Not those who came before or after it went, and with no other status."""
    moment = chaos.Window(4.0, 4.5, {BROKEN})
    long = Sent("bystander", 1.0, BROKEN, 3500.0)
    others = [sent("bystander", BROKEN, at) for at in (3.0, 5.0)]
    found = chaos.failures(run_of(moment), [long, *others, sent("bystander", "503", 4)])
    assert found["bystander"] == {BROKEN: 2, "503": 1}


class Processes:
    """Stands for a server's processes of one kind; each signal replaces one."""

    def __init__(self, *pids):
        self.there = set(pids)

    def kill(self, pid, _number):
        self.there = self.there - {pid} | {pid + 100}


def test_a_process_that_is_struck_is_replaced(monkeypatch):
    """One of its kind is hit, and its requests are excused from then on."""
    doors = Processes(1, 2)
    monkeypatch.setattr(chaos.os, "kill", doors.kill)
    run = run_of()
    run.server = SimpleNamespace(doors=lambda: doors.there)
    assert run.kill_door()["recovery_s"] < 1
    assert len(doors.there & {101, 102}) == 1
    assert [window.also for window in run.windows] == [{BROKEN, TIMEOUT}]


def result(**changed):
    """A chaos in which nothing broke, but for what is changed."""
    nothing = {"failures": {"bystander": {}}, "events": [EVENT], "harm": []}
    facts = {"before": {"runners": 3}, "after": {"runners": 3}}
    return {**nothing, **facts, **changed}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"failures": {"bystander": {"503": 1}}}, ["bystander: {'503': 1}"]),
        ({"events": [EVENT | {"recovery_s": None}]}, ["no recovery from kill"]),
        ({"events": [EVENT | {"recovery_s": None, "skipped": "no disk"}]}, []),
        ({"events": [EVENT | {"serving": ["x"]}]}, ["served: ['x']"]),
        ({"events": [EVENT | {"statuses": {"500": 1}}]}, ["kill answered 500"]),
        (
            {"after": {"runners": 4}},
            ["models' processes: 3 before, 4 after"],
        ),
        ({"harm": ["left behind: a"]}, ["left behind: a"]),
    ],
)
def test_what_broke_is_told(changed, words):
    """In words; nothing where nothing did."""
    assert chaos.broken(result(**changed)) == words


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_another_version_is_another_file_of_the_same_graph(graph, number):
    """It grows by a field, which the next version replaces."""
    one = inputs.another_version(graph, number)
    assert one != graph
    assert len(inputs.another_version(one, number + 1)) <= len(one) + 1


def test_growth_is_told_after_the_warm_up():
    """First, last and slope; the most is of the whole time."""
    noted = [(float(n), {"rss_mb": 90.0 if n == 0 else 10.0 + n}) for n in range(11)]
    assert soak.growth(noted, 10.0)["rss_mb"] == {
        "first": 12.0,
        "last": 20.0,
        "most": 90.0,
        "per_minute": pytest.approx(60.0),
    }


def test_a_soak_that_missed_a_bar_says_so():
    """A status that the kind of request may not have, and memory that grows."""
    requests = {
        "valid": {"statuses": {"200": 9, "503": 1}},
        "garbage": {"statuses": {"400": 1, "500": 1}},
    }
    fine = {"requests": requests, "rss_mb": GROWTH, "harm": []}
    assert soak.broken(fine) == ["garbage: 500"]
    grown = fine | {"requests": {}, "rss_mb": GROWTH | {"per_minute": 1.5}}
    assert len(soak.broken(grown)) == 1


def test_times_are_of_the_answers_with_200():
    """Statuses are of all."""
    figures = open_loop.tally([sent("a", "200"), sent("a", BROKEN)])["a"]
    assert figures["statuses"] == {"200": 1, BROKEN: 1}
    assert figures["p99_ms"] == 5.0


def test_files_left_behind_and_errors_logged_are_told(tmp_path):
    """Those that are as they should be are passed over."""
    (tmp_path / "tmp").mkdir()
    uploads = tmp_path / "pics"
    uploads.mkdir()
    (uploads / "a.jpg").touch()
    lines = ['{"level":"info"}', '{"level": "error", "model": "x"}', "Traceback"]
    (tmp_path / "stderr").write_text("\n".join(lines))
    server = servers.Server(None, tmp_path, uploads, small_disk=False)
    assert server.harm(re.compile("x").search) == [
        "left behind: a.jpg",
        "in the log: Traceback",
    ]
    assert len(server.harm()) == 3


def test_a_cut_request_is_not_whole():
    """And never empty: a client connects to say something."""
    for seed in range(50):
        one = inputs.cut(1, "m", b"photo", random.Random(seed))  # noqa: S311 - a load
        assert 0 < one.cut < len(one.data)


def test_dropped_models_have_labels_and_are_not_alike(tmp_path):
    """So that it is the graph that is refused."""
    names = inputs.drop_models(tmp_path, b"graph" * 100)
    files = {(tmp_path / f"{name}.frozen.pb").read_bytes() for name in names}
    assert len(files) == len(names)
    assert all((tmp_path / f"{name}.label_map.pbtxt").exists() for name in names)


def test_every_kind_of_a_soaks_requests_comes():
    """In the shares that were chosen, more or less."""
    choose = soak.chooser(1, "m", inputs.photo((64, 48)))
    kinds = {choose(number).kind for number in range(1000)}
    assert kinds == set(soak._ANSWERS)
    assert isinstance(choose(0), Request)


@pytest.mark.real
def test_twenty_seconds_of_chaos(tmp_path):
    """Every fault once, at a small load: what was not touched did not fail."""
    found, done = driver(
        "chaos", tmp_path / "chaos.json", "--minutes", "0.3", "--pause", "0.5",
        "--measure", "1", "--rate", "30",
    )  # fmt: skip
    assert found["broken"] == [], done.stderr
    done_once = {event["event"] for event in found["events"]}
    assert done_once == {fault.__name__ for fault in run_of().faults()}
    assert done.returncode == 0


@pytest.mark.real
def test_seconds_of_a_soak(tmp_path):
    """All kinds of requests are answered as they should be; nothing is left."""
    found, _ = driver(
        "soak", tmp_path / "soak.json", "--minutes", "0.1", "--measure", "1",
        "--rate", "40",
    )  # fmt: skip
    assert [word for word in found["broken"] if "memory" not in word] == []
    assert found["requests"]["valid"]["statuses"]["200"] > 0


@pytest.mark.slow
def test_ten_minutes_of_chaos(tmp_path):
    """At 70 % load; ``CHAOS_MINUTES`` makes it another time."""
    minutes = os.environ.get("CHAOS_MINUTES", "10")
    found, done = driver("chaos", tmp_path / "chaos.json", "--minutes", minutes)
    assert found["broken"] == [], done.stderr


@pytest.mark.slow
def test_a_ten_minute_soak(tmp_path):
    """Memory stays under the bar; ``SOAK_MINUTES`` makes it another time."""
    minutes = os.environ.get("SOAK_MINUTES", "10")
    found, done = driver("soak", tmp_path / "soak.json", "--minutes", minutes)
    assert found["broken"] == [], done.stderr
