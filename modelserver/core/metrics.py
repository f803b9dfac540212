"""The server's metrics, in Prometheus's text format.

The engine counts evaluations; doors count answers and hand their counts over; gauges
are sampled when the metrics are asked for. Labels have few values, whatever clients
send: a model's name only if there is such a model, and of each model's own labels only
the first hundred. The counts of a model go when the model goes.

The library's own counters take a lock for each number, some thirty for one answer; here
one lock is taken for all of them, and the library writes them out.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from modelserver.core.process_limits import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from modelserver.core.messages.requests import Counts

STAGES = ("wait", "decode", "queue", "run", "post")
_OTHER = "(other)"
_MOST_LABELS = 100
# Seconds. From a do-nothing graph to the default REQUEST_TIMEOUT_S.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Kind, name, attribute of ``ModelMetrics``, sentence.
_OF_A_MODEL = (
    (GaugeMetricFamily, "queue_depth", "waiting", "Images that wait for a slot."),
    (
        CounterMetricFamily,
        "runner_restarts",
        "restarts",
        "How often a model's process was replaced after a death.",
    ),
    (
        CounterMetricFamily,
        "reloads_failed",
        "reloads_failed",
        "How often new files did not replace the version that serves.",
    ),
    (
        GaugeMetricFamily,
        "runner_resident_bytes",
        "resident_bytes",
        "Memory of a model's process.",
    ),
    (
        GaugeMetricFamily,
        "runner_gpu_bytes",
        "gpu_bytes",
        "Memory that a model's process holds on its GPU.",
    ),
    (
        GaugeMetricFamily,
        "gpu_fallback",
        "gpu_fallback",
        "1 where there is a GPU and the model runs on the CPU.",
    ),
)


class ModelMetrics(NamedTuple):
    """The sampled metrics of a model.

    Attributes:
        state: its life state, in words.
        restarts: how often its process was replaced after a death.
        reloads_failed: how often new files did not replace the version that serves.
        waiting: images that wait for a slot.
        dropped: images that were not run, by reason.
        resident_bytes: memory of its process, ``None`` if it has none.
        gpu_bytes: memory it holds on its GPU, ``None`` if it has none.
        gpu_fallback: 1 if it runs on the CPU though there is a GPU, 0 if it does not;
            ``None`` on a machine without any.
    """

    name: str
    state: str
    restarts: int
    reloads_failed: int
    waiting: int
    dropped: Mapping[str, int]
    resident_bytes: int | None = None
    gpu_bytes: int | None = None
    gpu_fallback: int | None = None


class ProcessMetrics(NamedTuple):
    """The sampled metrics of the processes of one kind, but for those of models.

    Attributes:
        kind: such as ``door``.
        number: how many there are.
        resident_bytes: memory of all of them, ``None`` if it cannot be read.
    """

    kind: str
    number: int
    resident_bytes: int | None

    @classmethod
    def of(cls, kind: str, pids: Sequence[int]) -> ProcessMetrics:
        """Sample some processes now; one that has just ended has no memory."""
        memory = sum(resident_bytes(pid) or 0 for pid in pids)
        return cls(kind, len(pids), memory or None)


class DecoderMetrics(NamedTuple):
    """The sampled metrics of the decoders that are processes.

    Attributes:
        idle: processes that do nothing.
        busy: at a job, less those that are ``costly``.
        costly: at a job that takes long.
        waiting: jobs that wait.
        ended: processes that ended or were killed, by reason.
    """

    idle: int
    busy: int
    costly: int
    waiting: int
    ended: Mapping[str, int]


class Evaluations(NamedTuple):
    """What was counted of a model; see ``messages.questions.ModelStatistics``."""

    images: int
    runs: int
    failed: int
    seconds: dict[str, float]
    age_s: float | None


class _Tally:
    """A histogram: how many values there were up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound with the values at or below it, as Prometheus has them."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class _ModelCounts:
    """The counts of one model."""

    def __init__(self) -> None:
        self.stages = {stage: _Tally(_SECONDS) for stage in STAGES}
        self.batch = _Tally(_BATCHES)
        self.confidence = _Tally(_CONFIDENCES)
        self.found: Counter[str] = Counter()
        # An image's share of its run.
        self.runs = 0.0
        self.at = 0.0

    def add_result(self, label: str, confidence: float) -> None:
        if label not in self.found and len(self.found) >= _MOST_LABELS:
            label = _OTHER
        self.found[label] += 1
        self.confidence.add(confidence)


class Metrics:
    """One app's metrics. Thread-safe.

    Args:
        models: samples every model, when the metrics are asked for.
        states: every life state there is.
        processes: samples the other processes.
        decoders: samples the decoders; ``None`` if they are no processes.
    """

    def __init__(
        self,
        models: Callable[[], Iterable[ModelMetrics]],
        states: Iterable[str] = (),
        processes: Callable[[], Iterable[ProcessMetrics]] = tuple,
        decoders: Callable[[], DecoderMetrics | None] = lambda: None,
    ) -> None:
        self._models = models
        self._states = tuple(states)
        self._processes = processes
        self._decoders = decoders
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Families(self._collect))
        self._lock = threading.Lock()
        self._answered: Counter[tuple[str, ...]] = Counter()
        self._refused: Counter[tuple[str, ...]] = Counter()
        self._own: dict[str, _ModelCounts] = {}

    def count_answer(
        self, route: str, model: str, status: int, dialect: str = ""
    ) -> None:
        """Count an answer.

        Args:
            route: as the app defines it, not as the client wrote it; empty for a
                request of no route.
            model: of an existing model; empty if the request named none.
            dialect: of the request; empty for this server's own.
        """
        # An empty label is none, to Prometheus.
        labels = (route, model, str(int(status)), *filter(None, (dialect,)))
        with self._lock:
            self._answered[labels] += 1

    def count_refusal(self, reason: str) -> None:
        """Count a refusal by its problem's type."""
        with self._lock:
            self._refused[(reason,)] += 1

    def add(self, counts: Counts) -> None:
        """Add what a door has counted.

        They are kept as one sum, so that none falls if a door ends.
        """
        with self._lock:
            for route, model, status, number in counts.answers:
                self._answered[route, model, status] += number
            for route, model, status, dialect, number in counts.in_dialects:
                self._answered[route, model, status, dialect] += number
            for reason, number in counts.refusals.items():
                self._refused[(reason,)] += number

    def count_evaluation(
        self,
        model: str,
        seconds: Mapping[str, float],
        batch: int,
        results: Iterable[tuple[str, float]],
    ) -> None:
        """Count an evaluation.

        Args:
            seconds: by stage, of ``STAGES``.
            batch: images in the run.
            results: label and confidence of each.
        """
        with self._lock:
            own = self._own.get(model)
            if own is None:
                own = self._own[model] = _ModelCounts()
            for stage, value in seconds.items():
                own.stages[stage].add(value)
            own.batch.add(batch)
            own.runs += 1 / batch
            own.at = time.monotonic()
            for label, confidence in results:
                own.add_result(label, confidence)

    def evaluations(self, model: str) -> Evaluations:
        """Return what was counted of a model's evaluations."""
        with self._lock:
            own = self._own.get(model) or _ModelCounts()
            return Evaluations(
                images=sum(own.batch.counts),
                runs=round(own.runs),
                failed=sum(
                    number
                    for (_, name, status, *_), number in self._answered.items()
                    if name == model and status >= "400"
                ),
                seconds={stage: tally.sum for stage, tally in own.stages.items()},
                age_s=time.monotonic() - own.at if own.runs else None,
            )

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics, and their content type.

        Args:
            accept: the client's ``Accept`` header.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none, such as "x"
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def _collect(self) -> Iterator[Metric]:
        with self._lock:
            counted = {*self._own, *(key[1] for key in self._answered)} - {""}
        models = list(self._models())
        yield from _sample_families(models, self._states)
        yield from _process_families(list(self._processes()))
        yield from _decoder_families(self._decoders())
        with self._lock:
            # A model that came after the look may have been counted since.
            self._forget(counted - {model.name for model in models})
            families = [*self._requests(), *_count_families(self._own)]
        yield from families

    def _forget(self, gone: set[str]) -> None:
        """Drop the counts of models that are gone."""
        for name in gone:
            self._own.pop(name, None)
        for key in [key for key in self._answered if key[1] in gone]:
            del self._answered[key]

    def _requests(self) -> Iterator[Metric]:
        yield _family(
            CounterMetricFamily,
            "requests",
            "Requests that were answered.",
            ("route", "model", "status", "dialect"),
            self._answered,
        )
        yield _family(
            CounterMetricFamily,
            "refusals",
            "Requests that were refused, by the type of the problem.",
            ("reason",),
            self._refused,
        )


class _Families(Collector):
    """Asks for all families when they are rendered, not when it is registered."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Return nothing: there are no models yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        return self._collect()


def _count_families(own: Mapping[str, _ModelCounts]) -> Iterator[Metric]:
    """Return the families of the models' counts."""
    seconds = _histogram(
        "stage_seconds",
        "How long each stage of an evaluation took.",
        ("model", "stage"),
        {
            (m, s): tally
            for m, counts in own.items()
            for s, tally in counts.stages.items()
        },
    )
    batch = _histogram(
        "batch_size",
        "Images that were run together.",
        ("model",),
        {(model,): counts.batch for model, counts in own.items()},
    )
    found = _family(
        CounterMetricFamily,
        "results",
        "Detections, or best classes, by label.",
        ("model", "label"),
        {(m, name): n for m, counts in own.items() for name, n in counts.found.items()},
    )
    confidence = _histogram(
        "confidence",
        "Confidences of detections or of best classes.",
        ("model",),
        {(model,): counts.confidence for model, counts in own.items()},
    )
    return iter((seconds, batch, found, confidence))


def _sample_families(
    models: Sequence[ModelMetrics], states: Sequence[str]
) -> Iterator[Metric]:
    """Return the families of the models' sampled metrics."""
    yield _family(
        GaugeMetricFamily,
        "model_state",
        "1 for the life stage that a model is in.",
        ("model", "state"),
        {(m.name, s): int(s == m.state) for m in models for s in states},
    )
    yield _family(
        CounterMetricFamily,
        "dropped",
        "Images that were never run, by reason.",
        ("model", "reason"),
        {(m.name, why): n for m in models for why, n in m.dropped.items()},
    )
    for kind, name, attribute, sentence in _OF_A_MODEL:
        values: dict[tuple[str, ...], int | None] = {
            (model.name,): getattr(model, attribute) for model in models
        }
        yield _family(kind, name, sentence, ("model",), values)


def _decoder_families(decoders: DecoderMetrics | None) -> Iterator[Metric]:
    """Return the families of the decoders' sampled metrics; without any, no series."""
    states, ended = ("idle", "busy", "costly"), decoders.ended if decoders else {}
    yield _family(
        GaugeMetricFamily,
        "decoders",
        "Decoders by what they do; a costly photo is one that takes long.",
        ("state",),
        {(state,): getattr(decoders, state) for state in states} if decoders else {},
    )
    yield _family(
        GaugeMetricFamily,
        "decodes_waiting",
        "Photos that wait for a decoder or for room.",
        (),
        {(): decoders.waiting} if decoders else {},
    )
    yield _family(
        CounterMetricFamily,
        "decoder_ends",
        "Decoders that ended or were killed, by reason.",
        ("reason",),
        {(reason,): number for reason, number in ended.items()},
    )


def _process_families(processes: Sequence[ProcessMetrics]) -> Iterator[Metric]:
    """Return the families of the processes' sampled metrics."""
    yield _family(
        GaugeMetricFamily,
        "processes",
        "Processes of the server, without those of models.",
        ("process",),
        {(one.kind,): one.number for one in processes},
    )
    yield _family(
        GaugeMetricFamily,
        "process_resident_bytes",
        "Memory of all processes of a kind.",
        ("process",),
        {(one.kind,): one.resident_bytes for one in processes},
    )


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    sentence: str,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, ...], int | None],
) -> Metric:
    """Make a family of one value a series; ``None`` makes no series."""
    family = kind(f"modelserver_{name}", sentence, labels=labels)
    for key in sorted(values):
        if (value := values[key]) is not None:
            family.add_metric(key, value)
    return family


def _histogram(
    name: str,
    sentence: str,
    labels: tuple[str, ...],
    tallies: Mapping[tuple[str, ...], _Tally],
) -> Metric:
    family = HistogramMetricFamily(f"modelserver_{name}", sentence, labels=labels)
    for key, tally in sorted(tallies.items()):
        family.add_metric(key, tally.buckets(), tally.sum)
    return family
