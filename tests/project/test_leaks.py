"""The driver that looks for leaks: how it counts, and a short run of it."""

import argparse

import pytest

from benchmarks import leaks
from benchmarks.support import inputs, results
from benchmarks.support.servers import started


def test_the_growth_is_that_of_the_line_through_the_notes():
    """Whatever one note is off."""
    notes = [(number, {"MB": 50 + number / 100}) for number in range(0, 1000, 100)]
    assert leaks.growth(notes) == {"MB": 9.0}
    assert leaks.growth(notes[:1]) == {"MB": 0.0}


def test_what_must_not_be_is_told():
    """A process that grows, a 500, an answer that never comes, a file left behind."""
    grew = {"doors MB": 3.5, "doors threads": 5.0, "engine descriptors": 1.0}
    kinds = {
        "good": {"statuses": ["200", "503"], "grew": {"engine MB": 0.5}},
        "bad": {"statuses": ["500", "timeout"], "grew": grew},
    }
    assert leaks.broken({"harm": ["left behind: x"], "kinds": kinds}) == [
        "left behind: x",
        "bad: ['500', 'timeout']",
        "bad: doors MB grew by 3.5",
        "bad: doors threads grew by 5.0",
    ]


@pytest.mark.real
def test_each_kind_is_sent_and_answered_as_it_must_be(tmp_path):
    """Over thirty kinds; photos of each format are answered, none with a 500."""
    given = argparse.Namespace(folder=None, photo=None, model=None, cheap=8, dear=8)
    with results.subject(given) as (files, _), started(files.graph.parent) as server:
        done = leaks.run(server, files.name, inputs.photo((320, 200)), given)
    statuses = {name: one["statuses"] for name, one in done["kinds"].items()}
    assert len(statuses) > 31
    photos = [
        name for name in statuses if name.startswith(("photo", "page", "picture"))
    ]
    assert {name: statuses[name] for name in photos} == {n: ["200"] for n in photos}
    assert statuses["half a photo, ended"] == ["422"]
    assert not [found for found in leaks.broken(done) if "500" in found]
    assert done["harm"] == []
