"""From answers to figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.tools import bench
from support.bench_servers import TIMING, stand_in

OK = 200


def seen(*samples, clients=2, seconds=1.0):
    """A round; a sample is its milliseconds, or its status and them."""
    pairs = [one if isinstance(one, tuple) else (OK, one) for one in samples]
    made = (bench.Sample(status, 0.5, ms, TIMING.encode()) for status, ms in pairs)
    return bench.Round(clients, seconds, tuple(made))


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    st.integers(1, 100).map(lambda percent: percent / 100),
)
def test_a_quantile_is_the_smallest_value_that_does(values, share):
    """At least that share of the values is not above it, and less than that share is below it."""
    found = bench.quantile(values, share)
    needed = round(share * len(values), 9)
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


def test_no_values_have_no_quantile():
    """The quantile is None rather than a zero that looks fast."""
    assert bench.quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (TIMING, {"decode": 1.5, "queue": 0.25, "run": 20.0, "post": 0.1}),
        ("run;dur=3", {"run": 3.0}),
        ("cdn-cache; desc=HIT, total;dur=2.5", {}),
        ("", {}),
    ],
)
def test_stages_are_read_from_the_header(header, found):
    """The stages of an evaluation come in its order, and other entries are passed over."""
    assert bench.stages(header.encode()) == found
    assert list(bench.stages(header.encode())) == list(found)


def test_a_summary_has_the_rounds_medians():
    """Each figure is the median of the rounds' own, so one bad round changes nothing."""
    rounds = [seen(10, 20), seen(11, 21, 31), seen(*[5000] * 9, seconds=9)]
    found = bench.summarise(rounds)
    assert (found.clients, found.answers, found.errors) == (2, 14, {})
    assert found.per_second == 2
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (21, 31, 31)
    assert found.stages["run"] == 20


def test_a_summary_counts_what_was_no_200():
    """Other answers are counted by status, and are neither throughput nor latency."""
    found = bench.summarise([seen(10, (503, 1)), seen(10, (503, 1), (0, 1), (500, 1))])
    assert found.errors == {"500": 1, "503": 2, "no answer": 1}
    assert found.per_second == 1
    assert found.p50_ms == 10


def test_a_summary_of_nothing_has_no_latency():
    """A model slower than its round, or a server that refuses all, has no latency."""
    found = bench.summarise([seen(seconds=0.0)])
    assert (found.answers, found.per_second, found.p50_ms) == (0, 0.0, None)
    assert found.stages == {}


def test_rounds_take_turns(monkeypatch):
    """All counts are warmed up and then measured again and again, one after the other."""
    ran, steps = [], []

    def run(_target, clients, seconds):
        ran.append((clients, seconds))
        return seen(10, clients=clients, seconds=seconds)

    monkeypatch.setattr(bench, "run", run)
    found = bench.measure(
        None,
        [1, 8],
        seconds=4,
        rounds=2,
        progress=lambda *step: steps.append(step),
    )
    assert ran == [(1, 1), (8, 1), (1, 4), (8, 4), (1, 4), (8, 4)]
    assert [(one.clients, one.answers) for one in found] == [(1, 2), (8, 2)]
    assert steps[0] == (0, 6, "1 client, warming up")
    assert steps[5] == (5, 6, "8 clients, round 2 of 2")


def test_a_server_is_measured():
    """A measurement goes from requests to figures, without a fake."""
    with stand_in() as server:
        target = bench.Target.of(server.url, "/detect", "net", [b"photo"])
        (one,) = bench.measure(target, [2], seconds=0.1, rounds=2)
    assert one.answers > 0
    assert one.errors == {}
    assert one.p50_ms <= one.p90_ms <= one.p99_ms
    assert one.stages == {"decode": 1.5, "queue": 0.25, "run": 20.0, "post": 0.1}
