"""The proof for somebody with a card: its expectations, on what cards could show.

Every expectation is met by good measurements and missed by each bad one. The steps
themselves are run, on the CPU and with small numbers, at the end.
"""

import contextlib
import ctypes
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks.gpu_proof import (
    __main__ as entry,
)
from benchmarks.gpu_proof import (
    findings,
    judging,
    plans,
    steps,
    worker,
)
from benchmarks.gpu_proof.findings import Check, Found
from benchmarks.gpu_proof.judging import Seen
from benchmarks.support import servers
from modelserver.engine.runners.cards import Card, Memory
from support import tiny_graphs

ROOT = Path(__file__).parents[2]
CAT = Seen("cat", 0.93, (0.1, 0.1, 0.9, 0.9))
DOG = Seen("dog", 0.7, (0.2, 0.2, 0.5, 0.5))


def judged(judge, *measured, **more):
    """The checks of a judgement."""
    found = Found()
    judge(found, *measured, **more)
    return found.checks


def missed(judge, *measured, **more):
    """The expectations that are not met."""
    return [one.expected for one in judged(judge, *measured, **more) if not one.ok]


def step(name, *checks, error=None, **more):
    """A step that finds this, or breaks with it."""

    def take(_plan, found):
        """Try something. No more of this is told."""
        found.checks += checks
        vars(found).update(more)
        if error:
            raise error

    take.__name__ = name
    return take


GOOD = step("good", Check("one is one", "1", ok=True), facts={"a": 1}, line="one")
HOPED = step("hoped", Check("it is fast", "slow", ok=False, must=False), line="slow")
WRONG = step("wrong", Check("a card", "none", ok=False), line="no card")


def take(*chosen, **more):
    """Take some steps; gives results and what was said."""
    said = []
    done = findings.take_all(chosen, None, said.append, **more)
    return done, "\n".join(said)


def test_the_proof_stops_at_what_fails():
    """With what was expected and what was seen; what is only hoped for stops nothing."""
    done, said = take(GOOD, HOPED, WRONG, GOOD)
    assert said.startswith("good: Try something\n")
    assert [one.result for one in done] == ["ok", "look", "FAILED"]
    assert "expected: a card\n  seen:     none" in said
    assert "expected: it is fast" in said
    done, _ = take(WRONG, GOOD, keep_going=True)
    assert [one.result for one in done] == ["FAILED", "ok"]


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit("no model")])
def test_a_step_that_breaks_is_a_failure_with_its_traceback(error):
    """What was found before is kept, and the file says where it broke."""
    done, said = take(GOOD, step("breaks", error=error), GOOD)
    assert [one.result for one in done] == ["ok", "FAILED"]
    assert "Traceback" in done[1].as_json()["error"]
    assert str(error) in said


def test_the_table_has_a_line_for_each_step():
    """Its name, its result, its seconds, and the most important of it."""
    done, _ = take(GOOD, step("x", skipped="only a card can show it"), HOPED)
    lines = findings.table(done).splitlines()
    assert [line.split()[1] for line in lines] == ["ok", "skipped", "look"]
    assert "only a card" in lines[1]
    assert len(findings.table(take(step("x", line="x" * 500))[0])) < 130
    json.dumps([one.as_json() for one in done])


@pytest.mark.parametrize(
    ("ours", "theirs", "confidence", "box", "unmatched"),
    [
        ([[CAT]], [[CAT]], 0, 0, 0),
        ([[CAT]], [[CAT._replace(confidence=0.9)]], 0.03, 0, 0),
        ([[CAT]], [[CAT._replace(box=(0.1, 0.1, 0.85, 0.9))]], 0, 0.05, 0),
        ([[CAT]], [[DOG]], 0, 0, 2),
        ([[CAT, DOG]], [[CAT]], 0, 0, 1),
        ([[CAT]], [[CAT, DOG]], 0, 0, 1),
        # One that is as good as at the border may be on one device alone.
        ([[CAT, DOG._replace(confidence=0.51)]], [[CAT]], 0, 0, 0),
        # Two of a kind are told apart by where they are.
        (
            [[CAT, CAT._replace(box=(0, 0, 0.1, 0.1), confidence=0.6)]],
            [[CAT._replace(box=(0, 0, 0.1, 0.1), confidence=0.6), CAT]],
            0,
            0,
            0,
        ),
        ([[Seen("cat", 0.8)]], [[Seen("cat", 0.75)]], 0.05, 0, 0),
    ],
)
def test_answers_are_compared_both_ways(ours, theirs, confidence, box, unmatched):
    """The largest differences, and what one device alone has seen."""
    found = judging.gaps(ours, theirs)
    assert found.confidence == pytest.approx(confidence)
    assert found.box == pytest.approx(box)
    assert len(found.unmatched) == unmatched
    wrong = missed(judging.answers, found, 1, "x")
    assert bool(wrong) == (confidence > 0.02 or box > 0.01 or unmatched > 0)


def test_no_answers_at_all_are_no_proof():
    """Two devices that see nothing agree about nothing."""
    assert missed(judging.answers, judging.gaps([[]], [[]]), 1, "x") == [
        "x: something is seen in the photos"
    ]


USABLE = {"/dev/nvidia0": "opens", "/dev/nvidiactl": "opens"}
DOCTOR = {"ok": True, "nodes": USABLE, "problems": ()}
SHOWN = {
    "nvidia-smi": ["0, NVIDIA L4, GPU-1, 550.54"],
    "/proc/devices": ["195 nvidia", "195 nvidiactl", "509 nvidia-uvm"],
    "doctor": DOCTOR,
}
SHUT = {**USABLE, "/dev/nvidia0": "does NOT open for this user"}
WSL = {"doctor": {**DOCTOR, "nodes": {"/dev/dxg": "opens"}}, "/proc/devices": []}
LACKS = {"ok": False, "nodes": USABLE, "problems": ["libcuda.so.1 is missing."]}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, 0),
        ({"/proc/devices": ["195 nvidia-frontend", "509 nvidia-uvm"]}, 0),
        (WSL, 0),
        ({"nvidia-smi": ["failed: 9", "NVIDIA-SMI has failed"]}, 1),
        ({"nvidia-smi": []}, 1),
        ({"/proc/devices": ["195 nvidia"]}, 1),
        ({"doctor": {**DOCTOR, "nodes": SHUT}}, 1),
        ({"doctor": LACKS}, 2),
        ({"doctor": {**DOCTOR, "nodes": {}}, "/proc/devices": []}, 2),
    ],
)
def test_the_card_is_judged_by_what_the_system_shows(change, wrong):
    """Drivers of both namings and WSL are right; each thing that is missing is told."""
    assert len(missed(judging.card, {**SHOWN, **change})) == wrong


L4 = {"gpus": [{"device_name": "L4"}], "opened": [], "said": []}
NONE = {"gpus": [], "opened": [], "said": ["Cannot dlopen some GPU libraries"]}


@pytest.mark.parametrize(
    ("plain", "opened", "must", "hoped"),
    [
        (NONE, {**L4, "opened": ["libcusolver.so.11"]}, True, True),
        (L4, L4, True, True),
        # A later TensorFlow that needs no preload: worth a look, and the card is there.
        (L4, {**L4, "opened": ["libcusolver.so.11"]}, True, False),
        (NONE, NONE, False, False),
    ],
)
def test_tensorflow_lists_a_card_or_says_why_not(plain, opened, must, hoped):
    """The reason that TensorFlow gives is in what was seen."""
    first, second = judged(judging.listing, plain, opened, gpu=True)
    assert (first.ok, second.ok, second.must) == (must, hoped, False)
    assert must or "Cannot dlopen" in first.seen
    (none,) = judged(judging.listing, plain, opened, gpu=False)
    assert none.ok == (not opened["gpus"])


SERVES = {"state": "READY", "device": "GPU 0: NVIDIA L4", "reason": None}


@pytest.mark.parametrize(
    ("models", "seconds", "wrong"),
    [
        ({"a": SERVES}, 10, 0),
        ({"a": SERVES, "b": {**SERVES, "device": "CPU"}}, 10, 1),
        ({"a": {**SERVES, "state": "FAILED", "reason": "full", "device": None}}, 10, 1),
        ({}, 10, 1),
        ({"a": SERVES}, math.inf, 1),
    ],
)
def test_a_start_is_judged_by_every_model(models, seconds, wrong):
    """READY, on the card, in time; no model at all is a failure, too."""
    assert len(missed(judging.ready, models, seconds, "GPU", 120)) == wrong


@pytest.mark.parametrize(("cold", "warm", "ok"), [(90, 9, True), (9, 30, False)])
def test_a_kept_cache_must_not_cost_time(cold, warm, ok):
    """A start that compiles again would be slower than it should."""
    assert (missed(judging.caches, cold, warm) == []) is ok


def told(sizes, third=lambda size: 5 + size, first=lambda size: 6 + size, **more):
    """What the worker tells of its runs."""
    runs = [{"size": n, "ms": [first(n), third(n)], "answers": n} for n in sizes]
    device = "GPU 0: NVIDIA L4"
    return {"runs": runs, "max_batch": 32, "gap": 0.0, "device": device, **more}


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (told([32, 8, 1]), 0),
        (told([8, 1], max_batch=8), 0),
        (told([8, 1]), 1),
        (told([32, 8, 1], first=lambda _: 4000), 1),
        (told([32, 8, 1], gap=0.1), 1),
        (told([32, 8, 1], device="CPU"), 1),
        (told([32, 8, 1], third=lambda size: 5 * size**1.1), 1),
    ],
)
def test_runs_are_judged_by_size(seen, wrong):
    """Each answered, none tuned late, a batch like its images, and cheaper for each."""
    assert len(missed(judging.runs, seen, (32, 8, 1), gpu=True)) == wrong


def figures(*rates, errors=None):
    """What the load gives for 1, 2, 3 ... clients."""
    return [
        {"clients": number, "per_second": rate, "errors": errors or {}}
        for number, rate in enumerate(rates, 1)
    ]


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (figures(10, 50, 60), 0),
        (figures(10, 60, 50), 1),
        (figures(10, 60, errors={"503": 2}), 1),
        (figures(0, 0), 1),
        ([], 1),
    ],
)
def test_rates_must_not_fall_with_clients(seen, wrong):
    """And every answer must be one."""
    assert len(missed(judging.rates, seen)) == wrong


def test_a_rewritten_graph_that_is_slower_is_worth_a_look():
    """It is told for each size, and does not end the proof."""
    slow = told([8, 1], third=lambda size: 10 + size)
    assert missed(judging.rewriting, slow, told([8, 1])) == []
    (check,) = judged(judging.rewriting, told([8, 1]), slow)
    assert (check.ok, check.must) == (False, False)
    assert "8: 18.00 ms rewritten, 13.00 ms plain" in check.seen


FAILED = {"state": "FAILED", "reason": "GPU 0 has too little memory free."}


@pytest.mark.parametrize(
    ("before", "after", "statuses", "again", "wrong"),
    [
        (FAILED, 20, {"200": 3, "503": 9}, "200", 0),
        ({"state": "READY", "device": "GPU 0: X"}, 0, {"200": 12}, "200", 0),
        ({"state": "READY", "device": "CPU"}, 0, {"200": 12}, "200", 1),
        ({"state": "FAILED", "reason": "The graph has no output."}, 9, {}, "200", 1),
        ({}, 9, {}, "200", 1),
        ({**FAILED, "reason": "The process died: MODEL_MEMORY_MB"}, 9, {}, "200", 1),
        (FAILED, math.inf, {}, "200", 1),
        (FAILED, 20, {"500": 1}, "200", 1),
        (FAILED, 20, {"timeout": 1}, "timeout", 2),
    ],
)
def test_a_full_card_is_nobodys_fault(before, after, statuses, again, wrong):
    """Told as the card's, over when there is room, and never a 500."""
    assert len(missed(judging.full, before, after, statuses, again)) == wrong


@pytest.mark.parametrize(
    ("before", "after", "seconds", "ok", "must"),
    [
        (1000, 1100, 1, True, True),
        (1000, 2000, 10, False, True),
        (1000, 1000, 30, False, True),
        (None, 1000, 1, False, False),
    ],
)
def test_memory_comes_back_or_that_is_told(before, after, seconds, ok, must):
    """Where the driver does not tell, as in some containers, that is said."""
    (check,) = judged(judging.back, "killed", before, after, seconds)
    assert (check.ok, check.must) == (ok, must)


@pytest.mark.parametrize(
    ("statuses", "refusals", "ok"),
    [
        ({"200": 9}, False, True),
        ({"200": 9, "503": 1}, True, True),
        ({"200": 9, "503": 1}, False, False),
        ({"200": 9, "500": 1}, True, False),
        ({"200": 9, "Unreachable": 1}, True, False),
        ({"503": 9}, True, False),
    ],
)
def test_photos_are_answered_meanwhile(statuses, refusals, ok):
    """A killed process may cost 503s, a reload none, and nothing a 500."""
    assert (missed(judging.undisturbed, "x", statuses, refusals=refusals) == []) is ok


def test_what_was_replaced_or_removed_is_judged():
    """In time; with a card its memory too, without one not."""
    seen = {"seconds": 5, "statuses": {"200": 1}, "before": 9, "after": 9, "back": 1}
    assert missed(judging.replaced, "killed", seen, gpu=True) == []
    assert len(judged(judging.replaced, "killed", seen, gpu=False)) == 2
    late = {**seen, "seconds": math.inf, "after": 9000}
    assert len(missed(judging.replaced, "removed", late, gpu=True)) == 2
    assert len(missed(judging.replaced, "removed", late, gpu=False)) == 1
    refused = {**seen, "statuses": {"200": 1, "503": 1}}
    assert missed(judging.replaced, "killed", refused, gpu=True) == []
    for name in ("reloaded", "removed"):
        assert len(missed(judging.replaced, name, refused, gpu=True)) == 1


def test_two_models_share_a_card():
    """They may lose a third; nothing at all is no measurement."""
    assert missed(judging.together, 100, 80) == []
    assert missed(judging.together, 100, 50)
    assert missed(judging.together, 0, 0)


def test_a_choice_of_cards_is_refused_or_serves():
    """With the code of a setting that is wrong, or not at all."""
    assert missed(judging.choice, "-1", 3, "why", usable=False) == []
    assert missed(judging.choice, "-1", None, "", usable=False)
    assert missed(judging.choice, "-1", 1, "Traceback", usable=False)
    assert missed(judging.choice, "GPU-1", None, "", usable=True) == []
    assert missed(judging.choice, "GPU-1", 3, "why", usable=True)


class FakeCuda:
    """CUDA's runtime library with a card of so many MiB free; parts above fail."""

    def __init__(self, free, most=256, code=0):
        self.free, self.most, self.code = free, most, code

    def cudaMemGetInfo(self, free, total):  # noqa: N802 - the library's name
        """Tell what is free."""
        free._obj.value = self.free * plans.MIB
        return self.code

    def cudaMalloc(self, pointer, size):  # noqa: N802 - the library's name
        """Take some."""
        size = size.value
        if size > min(self.most, self.free) * plans.MIB:
            return 2
        self.free -= size / plans.MIB
        return 0


@pytest.mark.parametrize(("free", "most"), [(1000, 256), (1000, 100), (10, 256)])
def test_the_holder_leaves_what_it_is_told(free, most):
    """In large parts, then in smaller ones, as memory lies in pieces."""
    library = FakeCuda(free, most)
    taken = worker.take(library, 64)
    assert taken == max(0, free - 64)
    assert library.free == free - taken


def test_a_card_that_cannot_be_asked_is_an_error():
    """The code of CUDA is in the sentence."""
    with pytest.raises(SystemExit, match="fails with 999"):
        worker.take(FakeCuda(100, code=999), 10)
    assert isinstance(ctypes.c_size_t().value, int)


def test_fifty_photos_are_made_of_the_samples(tmp_path):
    """Each another, the same ones each time, of one size or of five."""
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        Image.linear_gradient("L").convert("RGB").save(tmp_path / name)
        Image.new("RGB", (300, 200), colour).save(tmp_path / name)
    with Image.open(tmp_path / "a.png") as photo:
        photo.paste("white", (50, 50, 120, 90))
        photo.save(tmp_path / "a.png")
    made = plans.make_photos(tmp_path, 50)
    assert made == plans.make_photos(tmp_path, 50)
    assert len(set(made)) > 20
    sizes = {Image.open(io.BytesIO(data)).size for data in made}
    assert sizes == set(plans.SIZES)
    same = {
        Image.open(io.BytesIO(one)).size
        for one in plans.make_photos(tmp_path, 9, (8, 6))
    }
    assert same == {(8, 6)}
    with pytest.raises(SystemExit, match="no photo"):
        plans.make_photos(tmp_path / "none", 1)


@pytest.mark.process
def test_an_nvidia_smi_that_fails_is_told(tmp_path, monkeypatch):
    """Its words are kept; one that is not there is a failure, too."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert steps.smi("-L")[0].startswith("failed: ")
    tool = tmp_path / "nvidia-smi"
    for code, lines in ((0, ["card"]), (9, ["failed: 9", "card"])):
        tool.write_text(f"#!/bin/sh\necho card\nexit {code}\n")
        tool.chmod(0o755)
        assert steps.smi("-L") == lines


def test_memory_is_told_by_the_driver_or_not_at_all(place, tmp_path, monkeypatch):
    """Of all cards together; one that does not tell makes the sum worthless."""
    plan = replace(plan_of(place, tmp_path), gpu=True)
    two = [Card(f"GPU-{n}", f"GPU {n}", "some", n) for n in range(2)]
    monkeypatch.setattr(plans, "survey", lambda: SimpleNamespace(cards=two))
    used = Memory(free=3 * plans.MIB, total=8 * plans.MIB)
    for second, held in ((used, 10), (None, None)):
        told = {"GPU-0": used, "GPU-1": second}
        monkeypatch.setattr(plans, "memory", lambda _cards, told=told: told)
        assert plan.held() == held
    assert replace(plan, gpu=False).held() is None


def test_warnings_are_found_in_a_log():
    """Of a log in JSON lines, whatever stands between."""
    lines = [
        '{"level": "info", "event": "a"}',
        "odd",
        '{"event":"b","level":"warning"}',
    ]
    assert steps.warnings("\n".join(lines)) == [lines[2]]


def test_the_phases_are_parts_of_a_load():
    """The methods that are timed are there: a renamed one would tell nothing."""
    from modelserver.runner.sessions import ModelSession

    for method in worker.PHASES:
        assert callable(getattr(ModelSession, method))


def test_every_step_is_a_part_of_the_proof():
    """Those of the issue, each once, and options know them."""
    names = [step.__name__ for step in steps.STEPS]
    assert len(set(names)) == len(names) == 11
    assert entry.arguments(["--skip", "full", "two"]).skip == ["full", "two"]
    with pytest.raises(SystemExit):
        entry.arguments(["--only", "nonsense"])


@pytest.fixture
def place(tmp_path):
    """A model folder of two small models, and a sample."""
    folder, samples = tmp_path / "nets", tmp_path / "samples"
    folder.mkdir()
    samples.mkdir()
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    names = "".join(f'item {{ id: {n} name: "n{n}" }}\n' for n in range(1, 256))
    (folder / "echo.label_map.pbtxt").write_text(names)
    tiny_graphs.write(folder / "colour.pb", tiny_graphs.classifier())
    (folder / "colour.labels.txt").write_text("\n".join(tiny_graphs.COLOURS))
    Image.new("RGB", (64, 48), (200, 30, 30)).save(samples / "red.png")
    return folder, samples


def plan_of(place, tmp_path, **more):
    """A plan for the CPU, with the smallest numbers."""
    from benchmarks.support.results import find

    folder, samples = place
    few = {"photos": 2, "sizes": (2, 1), "clients": (1,), "seconds": 0.1, "rounds": 1}
    return plans.Plan(
        gpu=False,
        samples=samples,
        detector=find(folder, "detection"),
        classifier=find(folder, "classification"),
        place=tmp_path,
        **{**few, **more},
    )


def test_a_card_is_demanded_where_one_is_to_be_proved(place, tmp_path):
    """A server that falls back to the CPU must not pass for one on a card."""
    plan = plan_of(place, tmp_path)
    assert plan.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert plan.environ["REQUIRE_GPU"] == "false"
    on_card = plans.Plan(**{**vars(plan), "gpu": True})
    assert on_card.environ["REQUIRE_GPU"] == "true"
    assert on_card.device == "GPU"
    assert {
        path.name for path in plan.folder("x", ("new", plan.detector)).iterdir()
    } == {
        "new.frozen.pb",
        "new.label_map.pbtxt",
    }


def test_the_card_that_is_filled_is_the_one_that_is_served_on(
    place, tmp_path, monkeypatch
):
    """Of several the server would take an empty one, and nothing would be proved."""
    seen = []

    @contextlib.contextmanager
    def holding(_free_mib, card):
        seen.append(card["CUDA_VISIBLE_DEVICES"])
        yield 1

    @contextlib.contextmanager
    def started(_folder, *, environ, **_):
        seen.append(environ["CUDA_VISIBLE_DEVICES"])
        yield SimpleNamespace(models=dict)

    two = [Card(f"GPU-{n}", f"GPU {n}", "some", n) for n in range(2)]
    monkeypatch.setattr(steps, "survey", lambda: SimpleNamespace(cards=two))
    monkeypatch.setattr(steps, "holding", holding)
    monkeypatch.setattr(servers, "started", started)
    monkeypatch.setattr(steps, "wait", lambda *_: 1.0)
    monkeypatch.setattr(steps, "ask", lambda *_: {"200": 1})
    plan = plan_of(place, tmp_path)
    found = Found()
    steps.full(replace(plan, gpu=True), found)
    assert found.checks[-1].ok
    assert seen == ["GPU-0"] * 3


@pytest.mark.process
def test_a_worker_that_fails_is_told_by_its_last_words(place, tmp_path):
    """Not by a traceback of ours about JSON."""
    with pytest.raises(RuntimeError, match=r"ended with 1: .*dance"):
        plan_of(place, tmp_path).work("dance")


@pytest.mark.process
def test_without_a_card_what_needs_one_is_skipped(place, tmp_path):
    """And says so."""
    plan = plan_of(place, tmp_path)
    for step in (steps.card, steps.full):
        found = Found()
        step(plan, found)
        assert found.skipped == plans.ONLY_CARD


@pytest.mark.slow
def test_the_proof_runs_on_the_cpu(place, tmp_path):
    """From the command, through real servers, to the table and the file."""
    folder, samples = place
    out = tmp_path / "proof.json"
    words = ["--cpu", "--quick", "--out", out, "--folder", folder, "--samples", samples]
    words += ["--only", "card", "ready", "rates", "full", "faults"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_proof", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    taken = json.loads(out.read_text())["steps"]
    assert done.returncode == 0, done.stdout + done.stderr
    results = {one["step"]: one["result"] for one in taken}
    assert results.pop("card") == results.pop("full") == "skipped"
    assert set(results.values()) <= {"ok", "look"}
    assert set(taken[1]["facts"]["phases"]) >= {"import", "load", "warm-up"}
    harmed = next(one for one in taken if one["step"] == "faults")["facts"]
    assert set(harmed) == {"killed", "reloaded", "removed"}
    assert all(one["statuses"]["200"] > 0 for one in harmed.values())


@pytest.mark.real
def test_runs_and_answers_are_measured_on_the_cpu(place, tmp_path):
    """The worker's own way to the graph, and answers by HTTP that are alike."""
    plan = plan_of(place, tmp_path)
    found = Found()
    steps.runs(plan, found)
    assert [one.expected for one in found.checks if one.must and not one.ok] == []
    assert [one["size"] for one in found.facts["tuned"]["runs"]] == [2, 1]
    seen = steps.asked(plan, "detection", plan.files(2))
    assert all(seen)
