"""The fuzzers' targets hold for their seeds and some mutations, and find a fault."""

import random
import sys

import pytest

from benchmarks import fuzz
from benchmarks.support import fuzzing
from benchmarks.support.fuzz_targets import TARGETS, Target

TRIES = 100


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_some_mutations_cause_declared_errors_only(name):
    """As they will for hours."""
    target, dice = TARGETS[name], random.Random(name)  # noqa: S311 - the same each time
    seeds = target.seeds()
    assert sum(map(len, seeds)) < fuzzing.CORPUS_BYTES
    for data in seeds:
        target.check(data)
    for _ in range(TRIES):
        target.check(fuzzing.mutate(dice, dice.choice(seeds), seeds))


def test_a_fault_is_found_and_its_input_kept(tmp_path):
    """The loop keeps what reaches a new line, and stops at what is a fault."""

    def check(data):
        if b"!" in data:
            raise ZeroDivisionError

    fuzzing.save(tmp_path, b"any bytes, and ?")
    with pytest.raises(ZeroDivisionError):
        fuzzing.loop(Target(list, check), tmp_path, seconds=60)
    (found,) = tmp_path.glob("crash-*")
    assert b"!" in found.read_bytes()


def test_who_traces_already_goes_on_after_a_check():
    """Else all that tests run afterwards would count as not covered."""
    calls = []

    def measurement(frame, *_event):
        calls.append(frame.f_code.co_name)

    def later():
        pass

    before = sys.gettrace()
    sys.settrace(measurement)
    try:
        fuzzing.traced(lambda _data: None, b"")
        later()
    finally:
        sys.settrace(before)
    assert "later" in calls


@pytest.mark.real
def test_a_parser_is_fuzzed_for_some_time(tmp_path):
    """By the loop, if there is no atheris; findings are told."""
    done = fuzz.fuzz("messages", 1.0, tmp_path, sys.executable)
    assert done["finding"] is None
    assert done["tries"] > 0
    assert fuzz.broken({"messages": done}) == []
    done["finding"] = "ZeroDivisionError"
    assert fuzz.broken({"messages": done}) == ["messages: ZeroDivisionError"]
