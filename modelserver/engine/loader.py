"""Loads models: a runner for each, on a card if there are any."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from modelserver.core import findings
from modelserver.core.errors import DeviceFailed
from modelserver.core.messages import AssignedCard, Job
from modelserver.core.opened_files import Held
from modelserver.core.signatures import RAW
from modelserver.engine.decoders import InlineDecoders, limits_of
from modelserver.engine.models import Model
from modelserver.engine.runners import environment
from modelserver.engine.runners.cards import NO_CARDS
from modelserver.engine.runners.placement import Placement, expected_bytes
from modelserver.engine.runners.process import ProcessRunner
from modelserver.runner.inline import InlineRunner
from modelserver.tasks import by_kind, labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.findings import Finding
    from modelserver.core.messages import Facts, Runner
    from modelserver.core.settings import Settings
    from modelserver.engine.decoders import Decoders
    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.loop import Loop
    from modelserver.engine.runners.cards import Card, Survey
    from modelserver.tasks.labels import LabelMap

log = logging.getLogger(__name__)

# Of a decoded image: RGB.
_PIXEL_BYTES = 3
# Room in the arena for the resized photos, next to the decoded ones.
_RESIZED_BYTES = 64 << 20


class Loader:
    """Loads models and spreads them over the cards. Thread-safe.

    Args:
        settings: the server's.
        survey: the cards that may be used.
        decoders: decode the models' photos; by default in threads of this process.
        loop: hears all runners, and resolves their futures; by default each has a
            thread of its own for that.
    """

    def __init__(
        self,
        settings: Settings,
        survey: Survey = NO_CARDS,
        decoders: Decoders | None = None,
        loop: Loop | None = None,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._decoders = decoders or InlineDecoders(limits_of(settings))
        self._no_gpu = survey.no_gpu
        cards = survey.cards
        if settings.isolation == "inline":
            cards = environment.usable_together(cards)
        self._cards = cards
        self._placement = Placement(cards)

    def __call__(self, files: ModelFiles) -> Model:
        """Load one model; blocks until it is warm.

        Raises:
            ModelError: with the reason for ``/models``.
        """
        with files.open_all() as opened:
            label_map = labels.read_labels(opened.labels)
            for warning in label_map.warnings:
                log.warning("%s: %s", files.name, warning)
            runner, facts, card = self._open_runner(opened)
        release = partial(self._placement.release, files.name, card)
        try:
            return self._make_model(files, facts, label_map, runner, release)
        except BaseException:
            runner.close()
            release()
            raise

    def _expected_bytes(self, files: ModelFiles) -> int:
        """Estimate the bytes of a card that a model will take."""
        try:
            size = files.graph.stat().st_size
        except OSError:  # gone; the load will say so
            size = 0
        return expected_bytes(size, self._settings.gpu_memory_mb)

    def _open_runner(self, files: ModelFiles) -> tuple[Runner, Facts, Card | None]:
        """Open a model's runner on the card that it is assigned."""
        card = self._placement.assign(files.name, self._expected_bytes(files))
        try:
            runner = self._make_runner(files, card)
            facts = runner.open()
        except DeviceFailed:
            self._placement.fail(files.name, card)
            raise
        except BaseException:
            self._placement.release(files.name, card)
            raise
        self._placement.confirm(files.name, card)
        return runner, facts, card

    def _make_model(
        self,
        files: ModelFiles,
        facts: Facts,
        label_map: LabelMap,
        runner: Runner,
        on_close: Callable[[], None],
    ) -> Model:
        offset = 0
        signature = facts.signature
        alignment = labels.alignment_of(label_map, signature)
        if alignment is not None:
            level = logging.WARNING if alignment.warning else logging.INFO
            log.log(level, "%s: %s", files.name, alignment.sentence)
            offset = alignment.offset
        _log_findings(files.name, facts)
        log.info(
            "%s is ready on %s after %.1f s: %d runs side by side, batches up to %d",
            files.name,
            facts.device,
            facts.load_ms / 1000,
            facts.slots,
            facts.max_batch,
        )
        return Model(
            files,
            facts,
            label_map,
            runner,
            self._settings,
            decoders=self._decoders,
            offset=offset,
            on_close=on_close,
        )

    def _make_runner(self, files: ModelFiles, card: Card | None) -> Runner:
        settings = self._settings
        job = Job(
            name=files.name,
            kind=files.kind,
            finder="" if files.kind == RAW else by_kind(files.kind).finder,
            graph=str(files.graph.absolute()),
            sidecar=str(files.sidecar.absolute()) if files.sidecar else None,
            slots=settings.slots,
            max_batch=settings.max_batch,
            card=AssignedCard(
                gpu=card.gpu if card else None,
                words=card.words if card else "",
                missing=self._no_gpu,
                required=settings.require_gpu,
                memory_mb=settings.gpu_memory_mb,
            ),
            rewrite=settings.rewrite_graphs,
            suppression_on_cpu=settings.suppression_on_cpu,
            score_floor=_score_floor(settings),
            memory_mb=settings.model_memory_mb,
            tensor_mb=settings.max_tensor_mb,
            trusted=settings.trusted_models,
            export=files.export(),
            held={
                role: path.descriptor
                for role, path in (("graph", files.graph), ("sidecar", files.sidecar))
                if isinstance(path, Held)
            },
        )
        arena_bytes = _PIXEL_BYTES * settings.max_pixels_in_flight + _RESIZED_BYTES
        if settings.isolation == "inline":
            environment.show_cards(self._cards)
            call = self._loop.soon if self._loop is not None else None
            return InlineRunner(job, arena_bytes=arena_bytes, call=call)
        return ProcessRunner(
            job,
            arena_bytes=arena_bytes,
            load_timeout_s=settings.load_timeout_s,
            gpu_load_timeout_s=settings.gpu_load_timeout_s,
            run_timeout_s=settings.run_timeout_s,
            loop=self._loop,
        )


def _log_findings(name: str, facts: Facts) -> None:
    """Log a load's notes and findings; as warnings those that may spoil answers."""
    signature = facts.signature
    guesses = [
        finding
        for finding in findings.of_guesses(name, signature)
        if finding.code == "scaling-guessed"
    ]
    warned = {finding.message for finding in guesses}
    for note in facts.notes:
        if note not in warned:
            log.info("%s: %s", name, note)
    for finding in (*guesses, *findings.of_scaling(name, signature)):
        level = _level(finding)
        log.log(level, "%s: %s; %s", name, finding.message, finding.fix)
    for finding in facts.findings:
        if finding.message not in facts.notes:
            log.log(_level(finding), "%s: %s", name, finding.message)


def _level(finding: Finding) -> int:
    return logging.INFO if finding.level == "note" else logging.WARNING


def _score_floor(settings: Settings) -> float:
    """Return the score below which nobody sees a detection; 0 if all are seen."""
    if settings.debug:
        return 0.0
    return min(settings.score_floor, settings.min_confidence)
