"""The check of all models of a folder, loaded and run as the server does it.

Each model runs in a process of its own, so a crash is a finding and no more.
"""

from __future__ import annotations

import shlex
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import (
    DeviceFailed,
    LabelMapError,
    ModelCrashed,
    ModelError,
    RequestError,
    SidecarError,
)
from modelserver.core.findings import found
from modelserver.core.pixels import encode_png
from modelserver.engine import model_findings, self_test
from modelserver.engine.discovery import discover
from modelserver.engine.evaluations import examine
from modelserver.engine.loader import Loader
from modelserver.engine.runners.cards import NO_CARDS
from modelserver.tasks import TASKS, by_kind, labels
from modelserver.tools.doctor.reports import FolderReport, ModelReport, Photo, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.core.findings import Finding
    from modelserver.core.settings import Settings
    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.models import Model
    from modelserver.engine.runners.cards import Survey
    from modelserver.tools.doctor.kept_checks import KeptChecks

ROUNDS = 3
_TOP = 5
_NOISE = (480, 640, 3)
_LEVELS = ("error", "warning", "note")


def noise() -> Photo:
    """Return the photo for models without another one."""
    pixels = np.random.default_rng(0).integers(0, 256, _NOISE, np.uint8)
    return Photo("noise", encode_png(pixels))


def _golden_image(files: ModelFiles) -> Photo | None:
    """Read a model's golden image; ``None`` without one, or if it cannot be read.

    The self test reports the one that cannot be read.
    """
    if files.image is None:
        return None
    try:
        return Photo(files.image.name, files.image.read_bytes())
    except OSError:
        return None


def check_folder(
    settings: Settings,
    photo: Photo | None = None,
    sample: Photo | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    survey: Survey = NO_CARDS,
    kept: KeptChecks | None = None,
) -> FolderReport:
    """Load and run every model of ``MODEL_FOLDER`` and report the findings.

    Args:
        settings: the server's, so that models are checked as they will be served.
        photo: to run the models on; their golden images by default.
        sample: for the models without one; noise by default.
        progress: called before each model and at the end.
        survey: the cards to run them on; on the CPU without any.
        kept: results of earlier checks, and where to keep these.
    """
    folder = Path(settings.model_folder)
    models, findings = _discover(folder)
    reports = []
    for done, files in enumerate(models):
        if progress:
            progress(done, len(models), f"checking {files.name}")
        shown = photo or _golden_image(files) or sample or noise()
        report, more = _look(files, settings, shown, survey, kept)
        reports.append(report)
        findings += more
    if progress:
        progress(len(models), len(models), f"checked {len(models)} models")
    findings.sort(key=lambda finding: _LEVELS.index(finding.level))
    return FolderReport(
        folder=str(folder),
        ok=not any(finding.level == "error" for finding in findings),
        models=tuple(sorted(reports, key=lambda report: (report.name, report.kind))),
        findings=tuple(findings),
    )


def _discover(folder: Path) -> tuple[list[ModelFiles], list[Finding]]:
    """Find the models of all tasks, and the folder's own findings."""
    discoveries = [discover(folder, task) for task in TASKS.values()]
    models = [files for discovery in discoveries for files in discovery.models]
    warnings = [line for discovery in discoveries for line in discovery.warnings]
    findings = [
        found("not-frozen", "", foreign.sentence, foreign.fix)
        for foreign in discoveries[0].foreign
    ]
    if not models:
        findings.append(found("no-models", "", warnings[0], "see docs/models.md"))
    # Each kind warns of the same file; that one kind is absent is no finding.
    findings += [
        found("folder", "", line)
        for line in dict.fromkeys(warnings)
        if not line.startswith(("There is no ", "The model folder "))
    ]
    return models, findings


def _look(
    files: ModelFiles,
    settings: Settings,
    photo: Photo,
    survey: Survey,
    kept: KeptChecks | None,
) -> tuple[ModelReport, Sequence[Finding]]:
    """Return a model's kept result; check it if there is none, and keep that."""
    if kept is None:
        return _check(files, settings, photo, survey)
    key = kept.key(files, photo)
    result = kept.find(key)
    if result is None:
        result = _check(files, settings, photo, survey)
        # A file that changed meanwhile may have been read before or after.
        if kept.key(files, photo) == key:
            kept.keep(key, *result)
    return result


def _check(
    files: ModelFiles, settings: Settings, photo: Photo, survey: Survey
) -> tuple[ModelReport, list[Finding]]:
    """Check one model."""
    report = ModelReport(name=files.name, kind=files.kind, serves=False)
    try:
        label_map = labels.read_labels(files.labels)
        model = Loader(settings, survey)(files)
    except ModelError as err:
        return report, [_failure(files, err)]
    try:
        signature = model.facts.signature
        classes = signature.classes or _classes(files)
        findings = model_findings.of_model(files, signature, label_map, classes)
        timing, failed = _run(files, model, settings, photo)
    finally:
        model.close()
    report = ModelReport(
        name=files.name,
        kind=files.kind,
        serves=not failed,
        device=model.facts.device,
        load_ms=model.facts.load_ms,
        signature=signature,
        labels=len(label_map.names),
        classes=classes,
        timing=timing,
    )
    return report, [*model.facts.findings, *findings, *failed]


def _failure(files: ModelFiles, err: ModelError) -> Finding:
    """Return the finding for a model that cannot be loaded, with its remedy."""
    name, sentence = files.name, str(err)
    if isinstance(err, LabelMapError):
        return found(
            "labels-unreadable", name, sentence, "docs/models.md says what to do"
        )
    if isinstance(err, SidecarError):
        return found("sidecar", name, sentence, "docs/sidecar.md lists the keys")
    if isinstance(err, DeviceFailed):
        fix = "python -m modelserver doctor gpu shows what the card lacks"
        return found("gpu-failed", name, sentence, fix)
    if isinstance(err, ModelCrashed):
        return found(
            *("crashed", name, sentence),
            "see the log; the graph or the memory of this machine is at fault",
        )
    if "it uses the op" in sentence:
        return found("op-refused", name, sentence, "export it for inference")
    graph = shlex.quote(str(files.graph))
    fix = (
        f"see what it holds: python -m modelserver inspect {graph} --kind {files.kind}"
    )
    if "SavedModel" in sentence or "Keras" in sentence:
        fix = "python -m modelserver import makes a frozen graph of it"
    return found("graph-refused", name, sentence, fix)


def _classes(files: ModelFiles) -> int | None:
    """Return the number of classes of a model whose signature does not hold it.

    The graph was loaded in a process of its own before, so it is safe to read here.
    """
    # It alone brings TensorFlow into this process.
    from modelserver.tools.doctor.inspection import inspect  # noqa: PLC0415

    return inspect(files.graph, by_kind(files.kind)).classes


def _run(
    files: ModelFiles, model: Model, settings: Settings, photo: Photo
) -> tuple[Timing | None, list[Finding]]:
    """Run a model on its golden image and on a photo."""
    timeout_s = settings.load_timeout_s
    failed = []
    try:
        self_test.check(files, model, settings.min_confidence, timeout_s)
    except ModelError as err:
        failed.append(
            found(
                *("golden-failed", files.name, str(err)),
                "see that graph, label map and scaling are the right ones, or that "
                f"{files.name}.expected.json is",
            )
        )
    try:
        tries = [_time(model, photo, timeout_s) for _ in range(ROUNDS)]
    except (RequestError, FutureTimeoutError, ValueError, KeyError) as err:
        message = f"it cannot be run on {photo.name}: {err or 'it took too long'}"
        fix = "see the log, and that the photo is one"
        return None, [*failed, found("run-failed", files.name, message, fix)]
    return min(tries, key=lambda timing: timing.run_ms), failed


def _time(model: Model, photo: Photo, timeout_s: float) -> Timing:
    """Run a model once, as for a request, and time it."""
    task = by_kind(model.files.kind)
    examined = examine(task, model, photo.data, timeout_s)
    return Timing(
        photo=photo.name,
        decode_ms=examined.decode_ms,
        run_ms=examined.run_ms,
        answers=tuple(task.scores(examined.found)[:_TOP]),
    )


def answers_of(
    model: Model, photo: Photo, timeout_s: float
) -> Sequence[tuple[str, float]]:
    """Run a model on a photo, as for a request.

    Returns:
        Every label with its confidence, best first.
    """
    task = by_kind(model.files.kind)
    return task.scores(examine(task, model, photo.data, timeout_s).found)
