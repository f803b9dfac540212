"""The driver that offers more than can be answered."""

import pytest

from benchmarks import overload
from benchmarks.support import inputs, open_loop
from benchmarks.support.open_loop import Request, Sent
from benchmarks.support.servers import started


def test_goodput_counts_what_came_in_time():
    """Refusals, timeouts and probes have figures of their own."""
    sent = [Sent("detect", 0, "200", float(ms)) for ms in range(1, 11)]
    sent += [Sent("detect", 0, "503", 2.0), Sent("detect", 0, "timeout", 2000.0)]
    probes = [Sent("livez", 0, "200", 5.0)]
    row = overload.figures(sent, probes, 20.0, 2.0)
    assert row["goodput"] == 5.0
    assert row["statuses"] == {"200": 10, "503": 1, "timeout": 1}
    assert (row["p50_ms"], row["p99_ms"]) == (5.0, 10.0)
    assert (row["p99_503_ms"], row["p99_livez_ms"]) == (2.0, 5.0)


def test_rounds_are_told_by_their_medians():
    """What no round has is told as nothing."""
    rounds = [
        {"share": share, "statuses": {"200": 2}, "p99_503_ms": None, "cores": {"f": n}}
        for n, share in enumerate((0.9, 0.5, 1.0))
    ]
    rounds[0]["statuses"]["503"] = 1
    assert overload.middle(rounds) == {
        "share": 0.9,
        "statuses": {"200": 2, "503": 1},
        "p99_503_ms": None,
        "cores": {"f": 1},
    }


def test_processors_are_shared_out(monkeypatch):
    """Each half has its own; one processor has no halves."""
    monkeypatch.setattr(overload.os, "sched_getaffinity", lambda _: {5, 2, 9})
    assert overload.halves() == ({2}, {5, 9})
    monkeypatch.setattr(overload.os, "sched_getaffinity", lambda _: {5})
    with pytest.raises(SystemExit, match="cannot be shared out"):
        overload.halves()


@pytest.mark.real
def test_seconds_of_overload_are_answered_with_200_and_503_only(tmp_path, monkeypatch):
    """By a real server, which is well again at once."""
    inputs.write_do_nothing(tmp_path)
    with started(tmp_path, environ={"QUEUE_LENGTH": "2"}) as server:
        photo = inputs.photo()
        data = open_loop.post(server.port, inputs.NAME, photo)
        row = overload.one_load(server, Request("detect", data), 300.0, 2.0)
        request = Request("livez", open_loop.get("/livez"))
        idle = overload.idle_ms(server.port, request)
        monkeypatch.setattr(overload, "_CAPACITY_S", 0.5)
        photos = Request("detect", data)
        (whole,) = overload.measure(server, photos, [2.0], 1.0, rounds=1)["rows"]
        assert overload.recovery_s(server.port, request, 1000 * idle) is not None
    assert whole["share"] == whole["goodput"] / min(whole["capacity"], whole["offered"])
    assert row["statuses"].keys() <= {"200", "503"}
    assert row["livez"].keys() == {"200"}
    assert row["goodput"] > 0
    assert row["cores"].keys() == {"doors", "engine", "runners", "decoders", "load"}
