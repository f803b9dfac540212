"""The server's metrics, as Prometheus reads them."""

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.core.answer_counts import AnswerCounts
from modelserver.core.metrics import (
    STAGES,
    DecoderMetrics,
    Metrics,
    ModelMetrics,
    ProcessMetrics,
)

MODEL = ModelMetrics("seals", "READY", 2, 1, 5, {"deadline": 3}, 1000, None)
THERE = [MODEL]
STATES = ("LOADING", "READY", "FAILED")


def samples(metrics):
    """Return every sample, by its name and labels."""
    text = metrics.render()[0].decode()
    return {
        (entry.name, frozenset(entry.labels.values())): entry.value
        for family in text_string_to_metric_families(text)
        for entry in family.samples
    }


def test_what_was_answered_is_counted():
    """Answers count by route, model and status; refusals by reason."""
    metrics = Metrics(lambda: THERE)
    for status in (200, 200, 503):
        metrics.count_answer("/detect", "seals", status)
    metrics.count_refusal("overloaded")
    found = samples(metrics)
    assert (
        found["modelserver_requests_total", frozenset({"/detect", "200", "seals"})] == 2
    )
    assert (
        found["modelserver_requests_total", frozenset({"/detect", "503", "seals"})] == 1
    )
    assert found["modelserver_refusals_total", frozenset({"overloaded"})] == 1


def test_doors_counts_are_added_up():
    """What several doors hand over is one sum, which a door's end does not lower."""
    metrics = Metrics(lambda: THERE)
    doors = [AnswerCounts(), AnswerCounts()]
    for door in doors:
        for status in (200, 200, 503):
            door.count_answer("/detect", "seals", status)
        door.count_refusal("overloaded")
        metrics.add(door.take())
        assert door.take() is None
    del doors
    found = samples(metrics)
    key = "modelserver_requests_total"
    assert found[key, frozenset({"/detect", "200", "seals"})] == 4
    assert found[key, frozenset({"/detect", "503", "seals"})] == 2
    assert found["modelserver_refusals_total", frozenset({"overloaded"})] == 2


def test_counts_that_could_not_be_handed_over_are_kept():
    """A door's counts wait for an engine that is away."""
    door = AnswerCounts()
    door.count_answer("/detect", "seals", 503)
    taken = door.take()
    door.count_answer("/detect", "seals", 503)
    door.count_refusal("overloaded")
    door.put_back(taken)
    counts = door.take()
    assert counts.answers == (("/detect", "seals", "503", 2),)
    assert counts.refusals == {"overloaded": 1}


def test_processes_are_told_by_their_kind():
    """Number and memory of each kind of process; no memory makes no series."""
    kinds = [ProcessMetrics("door", 2, 5000), ProcessMetrics("engine", 1, None)]
    found = samples(Metrics(lambda: THERE, processes=lambda: kinds))
    assert found["modelserver_processes", frozenset({"door"})] == 2
    key = "modelserver_process_resident_bytes"
    assert found[key, frozenset({"door"})] == 5000
    assert (key, frozenset({"engine"})) not in found


def test_an_evaluation_feeds_the_histograms():
    """An evaluation feeds stages, batch size, results and confidences."""
    metrics = Metrics(lambda: THERE)
    stages = dict(zip(STAGES, (0.0, 0.002, 0.01, 0.04, 0.0001), strict=True))
    metrics.count_evaluation("seals", stages, 2, [("Seal1", 0.93), ("Seal1", 0.85)])
    found = samples(metrics)
    for stage, seconds in stages.items():
        assert (
            found["modelserver_stage_seconds_sum", frozenset({"seals", stage})]
            == seconds
        )
    assert found["modelserver_batch_size_sum", frozenset({"seals"})] == 2
    assert found["modelserver_results_total", frozenset({"Seal1", "seals"})] == 2
    assert found["modelserver_confidence_bucket", frozenset({"0.9", "seals"})] == 1
    assert found["modelserver_confidence_bucket", frozenset({"0.95", "seals"})] == 2


def test_what_can_be_looked_up_is_looked_up_when_asked():
    """Gauges are sampled when asked for; a state is one of all states."""
    models = []
    metrics = Metrics(lambda: models, STATES)
    assert ("modelserver_queue_depth", frozenset({"seals"})) not in samples(metrics)
    models.append(MODEL)
    found = samples(metrics)
    assert found["modelserver_queue_depth", frozenset({"seals"})] == 5
    assert found["modelserver_runner_restarts_total", frozenset({"seals"})] == 2
    assert found["modelserver_reloads_failed_total", frozenset({"seals"})] == 1
    assert found["modelserver_dropped_total", frozenset({"deadline", "seals"})] == 3
    assert found["modelserver_runner_resident_bytes", frozenset({"seals"})] == 1000
    assert ("modelserver_runner_gpu_bytes", frozenset({"seals"})) not in found
    states = {
        state: found["modelserver_model_state", frozenset({state, "seals"})]
        for state in STATES
    }
    assert states == {"LOADING": 0, "READY": 1, "FAILED": 0}


def test_memory_on_a_gpu_is_told_where_there_is_one():
    """Memory on a GPU is a family of its own."""
    metrics = Metrics(lambda: [MODEL._replace(gpu_bytes=7)])
    assert samples(metrics)["modelserver_runner_gpu_bytes", frozenset({"seals"})] == 7


def test_labels_without_end_become_other():
    """Ten thousand labels make a hundred series, and one more."""
    metrics = Metrics(lambda: THERE)
    for index in range(1000):
        metrics.count_evaluation("seals", {}, 1, [(f"label {index}", 0.5)])
    named = [key for key in samples(metrics) if key[0] == "modelserver_results_total"]
    assert len(named) == 101
    assert (
        samples(metrics)["modelserver_results_total", frozenset({"(other)", "seals"})]
        == 900
    )


def test_a_value_counts_where_its_bound_is_the_value_itself():
    """Bounds belong to their buckets; larger values are in the last."""
    metrics = Metrics(lambda: THERE)
    for seconds in (0.001, 0.0011, 31):
        metrics.count_evaluation("seals", {"run": seconds}, 1, [])
    found = samples(metrics)
    key = "modelserver_stage_seconds_bucket"
    counts = {
        bound: found[key, frozenset({"seals", "run", bound})]
        for bound in ("0.001", "0.0025", "30.0", "+Inf")
    }
    assert list(counts.values()) == [1, 2, 2, 3]
    assert found["modelserver_stage_seconds_count", frozenset({"seals", "run"})] == 3


def test_what_was_counted_for_a_model_goes_with_it():
    """A removed model's series go, so that scrapes do not grow."""
    models = list(THERE)
    metrics = Metrics(lambda: models)
    metrics.count_answer("/detect", "seals", 200)
    metrics.count_answer("/detect", "", 400)
    metrics.count_evaluation("seals", {"run": 1}, 1, [("Seal1", 0.5)])
    assert any("seals" in labels for _, labels in samples(metrics))
    models.clear()
    found = samples(metrics)
    assert not any("seals" in labels for _, labels in found)
    assert found["modelserver_requests_total", frozenset({"/detect", "", "400"})] == 1


def test_a_model_that_came_while_somebody_looked_keeps_its_numbers():
    """A model that came during a scrape keeps its counts."""
    looks = [[], THERE]

    def look():
        metrics.count_evaluation("seals", {"run": 1}, 1, [])
        return looks.pop(0)

    metrics = Metrics(look)
    samples(metrics)
    count = samples(metrics)["modelserver_batch_size_count", frozenset({"seals"})]
    assert count == 2


def test_counting_from_many_threads_loses_nothing():
    """A thousand counts from many threads are all there."""
    metrics = Metrics(lambda: THERE)

    door = AnswerCounts()

    def count():
        for number in range(250):
            metrics.count_evaluation("seals", {"run": 1}, 1, [("Seal1", 0.5)])
            metrics.count_answer("/detect", "seals", 200)
            door.count_answer("/detect", "seals", 404)
            if number % 25 == 0 and (counts := door.take()):
                metrics.add(counts)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if counts := door.take():
        metrics.add(counts)
    found = samples(metrics)
    key = "modelserver_requests_total"
    assert found[key, frozenset({"/detect", "200", "seals"})] == 1000
    assert found[key, frozenset({"/detect", "404", "seals"})] == 1000
    assert found["modelserver_batch_size_count", frozenset({"seals"})] == 1000
    assert found["modelserver_results_total", frozenset({"Seal1", "seals"})] == 1000


def test_two_apps_have_numbers_of_their_own():
    """Two apps count apart, and the scraper's Accept decides the format."""
    first, other = Metrics(list), Metrics(list)
    first.count_answer("/detect", "", 404)
    assert not any(
        key[0] == "modelserver_requests_total" and value
        for key, value in samples(other).items()
    )
    assert "openmetrics" in first.render("application/openmetrics-text")[1]
    assert first.render()[1].startswith("text/plain")


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ["x", "1.x", "", "9" * 5000, "0.0.4", "1.0.0"])
def test_a_version_that_is_none_is_answered_in_plain_text(kind, version):
    """An Accept header with an invalid version is no error."""
    content, content_type = Metrics(list).render(f"{kind}; version={version}")
    assert content
    if version in {"x", "1.x"}:
        assert content_type.startswith("text/plain; version=0.0.4")


def test_decoders_are_told_by_what_they_do():
    """Where none is a process there is no series of theirs."""
    decoders = DecoderMetrics(1, 2, 3, 4, {"crash": 5})
    found = samples(Metrics(lambda: THERE, decoders=lambda: decoders))
    states = {
        state: found["modelserver_decoders", frozenset({state})]
        for state in ("idle", "busy", "costly")
    }
    assert states == {"idle": 1, "busy": 2, "costly": 3}
    assert found["modelserver_decodes_waiting", frozenset()] == 4
    assert found["modelserver_decoder_ends_total", frozenset({"crash"})] == 5
    names = {name for name, _ in samples(Metrics(lambda: THERE))}
    assert not any("decode" in name for name in names)
