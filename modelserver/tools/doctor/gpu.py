"""This machine's NVIDIA cards, from the driver up to TensorFlow.

The first report to read if a card is not used. Imports no TensorFlow: that is asked in
a process of its own, as a model's process would ask it.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import cuda
from modelserver.engine.runners import cards, probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelserver.core.cuda import Build, Library
    from modelserver.engine.runners.cards import Card, Survey

_KERNEL = Path("/proc/driver/nvidia/version")
# The variables that decide about cards and their use.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "LD_LIBRARY_PATH",
    "CUDA_CACHE_PATH",
    "CUDA_CACHE_DISABLE",
    "NVIDIA_TF32_OVERRIDE",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_CUDNN_USE_AUTOTUNE",
    "REQUIRE_GPU",
    "GPU_MEMORY_MB",
)
# The driver's words, and a remedy, which its own words lack.
_REMEDIES = (
    (
        r"CUDA_ERROR_UNKNOWN|CUDA_ERROR_999|\b999\b",
        (
            "Most often the module nvidia_uvm or its node is missing: as root, "
            "`modprobe nvidia-uvm && nvidia-modprobe -c 0 -u`; docs/gpu.md."
        ),
    ),
    (
        r"mismatch",
        (
            "The driver was upgraded and the loaded module is the old one: restart the "
            "machine."
        ),
    ),
    (
        r"Driver Not Loaded|NVML_ERROR_DRIVER_NOT_LOADED",
        (
            "`modprobe nvidia`, as root; after a new kernel the driver's module must "
            "be built for it."
        ),
    ),
    (
        r"(?i)insufficient permissions|NO_PERMISSION|not permitted",
        (
            "This user needs the nodes' group, a container its card (docker run "
            "--gpus), a unit its drop-in (deploy/)."
        ),
    ),
    (
        r"(?i)INSUFFICIENT_DRIVER|driver version is insufficient",
        "The driver is older than this TensorFlow's CUDA needs: upgrade it.",
    ),
    (
        r"CUDA_ERROR_OUT_OF_MEMORY|out of memory",
        "Another program holds the card's memory: nvidia-smi lists them.",
    ),
)
_ANEW = "`script/bootstrap --gpu` makes an environment with all of it."


class LibraryReport(msgspec.Struct, frozen=True, kw_only=True):
    """One library that TensorFlow asks for.

    Attributes:
        name, package, needed, how, path, detail: as in ``cuda.Library``.
        version: of the installed package; empty for the driver's and for none.
    """

    name: str
    package: str
    needed: bool
    how: str
    version: str = ""
    path: str = ""
    detail: str = ""


class CardReport(msgspec.Struct, frozen=True, kw_only=True):
    """One card that this process may use.

    Attributes:
        gpu: as ``CUDA_VISIBLE_DEVICES`` names it.
        words: such as ``GPU 0: NVIDIA L4, 21.0 of 22.5 GiB free``.
        tensorflow: TensorFlow's name for it; empty if TensorFlow does not use it.
        reason: why it does not.
    """

    gpu: str
    words: str
    tensorflow: str = ""
    reason: str = ""


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of this machine's NVIDIA cards.

    Attributes:
        ok: TensorFlow uses a card.
        system: the machine, Python, and the kernel's part of the driver.
        nodes: paths of the cards in ``/dev``, and whether they open.
        environment: the variables that decide about cards, if they are set.
        tensorflow: version and build, in words.
        libraries: the driver's, then CUDA's.
        cards: those that may be used, whether TensorFlow uses them or not.
        problems: each with its remedy, most fundamental first.
    """

    ok: bool
    system: dict[str, str]
    nodes: dict[str, str]
    environment: dict[str, str]
    tensorflow: str
    libraries: tuple[LibraryReport, ...]
    cards: tuple[CardReport, ...]
    problems: tuple[str, ...]


def gpu_report(environ: Mapping[str, str] = os.environ) -> GpuReport:
    """Look at the driver, the libraries and the cards, and ask TensorFlow for each.

    Blocks: about ten seconds a card. Libraries stay open in this process.
    """
    survey = cards.survey(environ)
    found = cuda.check()
    memory = cards.memory(survey.cards)
    shown = tuple(
        _card(card, cards.describe(card, memory[card.gpu])) for card in survey.cards
    )
    used = any(card.tensorflow for card in shown)
    problems = _problems(survey, found, shown, environ)
    return GpuReport(
        ok=used,
        system=_system(),
        nodes=_nodes(),
        environment={name: environ[name] for name in VARIABLES if name in environ},
        tensorflow=_tensorflow(found.build),
        libraries=tuple(map(_library, found.libraries)),
        cards=shown,
        problems=tuple(dict.fromkeys(map(_add_remedy, filter(None, problems)))),
    )


def _card(card: Card, words: str) -> CardReport:
    """Have TensorFlow try a card."""
    answer = probe.ask_one(card)
    name = ", ".join(answer.names)
    return CardReport(gpu=card.gpu, words=words, tensorflow=name, reason=answer.reason)


def _problems(
    survey: Survey,
    found: cuda.Report,
    shown: tuple[CardReport, ...],
    environ: Mapping[str, str],
) -> Iterator[str]:
    """Yield the problems with their remedies; the first is the one to begin with."""
    if survey.unwanted:
        value = environ.get("CUDA_VISIBLE_DEVICES", "")
        yield (
            f"CUDA_VISIBLE_DEVICES={value!r} says that no card is to be used; unset it,"
            " or name cards as nvidia-smi -L does."
        )
    elif not survey.cards and not survey.problems:
        yield (
            "Nothing of NVIDIA's is seen here: no driver and no card. If this machine "
            "has one, install its driver until nvidia-smi lists it; a container needs "
            "docker run --gpus all."
        )
    yield from survey.problems
    yield cuda.hindrance()
    if sentence := found.sentence:
        # The driver's libraries come with the driver, all others with packages.
        packages = not found.build.cuda or any(
            library.package.startswith("nvidia-") for library in found.lacking
        )
        yield f"{sentence} {_ANEW}" if packages else sentence
    for card in shown:
        if card.reason:
            yield f"{card.words.partition(',')[0]}: {card.reason}"


def _add_remedy(sentence: str) -> str:
    """Add a remedy to a sentence that quotes the driver, which gives none."""
    for words, remedy in _REMEDIES:
        if re.search(words, sentence):
            return f"{sentence.rstrip()} {remedy}"
    return sentence


def _system() -> dict[str, str]:
    kernel = cards.driver()
    try:
        module = _KERNEL.read_text("utf-8", "replace").splitlines()[0]
    except (OSError, IndexError):
        module = "not loaded, or not shown here"
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "driver": kernel or "NVML does not tell",
        "kernel module": module,
    }


def _nodes() -> dict[str, str]:
    return {
        str(path): "opens" if cuda.opens(path) else "does NOT open for this user"
        for path in cuda.device_nodes()
    }


def _tensorflow(build: Build) -> str:
    if not build.folder:
        return "not installed"
    version = _version("tensorflow") or _version("tensorflow-cpu") or "?"
    if build.told and not build.cuda:
        return f"{version}, built for the CPU only"
    kernels = ", ".join(build.capabilities) or "not told"
    return f"{version}, built with CUDA {build.cuda or '?'}; kernels for {kernels}"


def _library(library: Library) -> LibraryReport:
    installed = library.package.startswith("nvidia-")
    return LibraryReport(
        version=_version(library.package) if installed else "",
        **msgspec.structs.asdict(library),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


_HOW = {
    "runpath": "found by TensorFlow",
    "path": "from LD_LIBRARY_PATH",
    "wheel": "in its package; TensorFlow alone would not find it, the server opens it",
    "opened": "in its package; TensorFlow alone would not find it, the server opens it",
    "system": "of the system",
    "missing": "MISSING",
    "broken": "BROKEN",
}


def gpu_lines(report: GpuReport) -> Iterator[str]:
    """Yield a report as plain lines, to be read and to be sent."""
    yield from (f"{name:<14}{value}" for name, value in report.system.items())
    yield f"{'TensorFlow':<14}{report.tensorflow}"
    yield from _section("nodes", (f"{k}  {v}" for k, v in report.nodes.items()))
    yield from _section(
        "environment", (f"{k}={v!r}" for k, v in report.environment.items())
    )
    yield from _section("libraries", map(_library_line, report.libraries))
    yield from _section("cards", map(_card_line, report.cards))
    if report.problems:
        yield "what is wrong"
        for number, sentence in enumerate(report.problems, 1):
            yield f"  {number}. {sentence}"
    yield "TensorFlow uses a card." if report.ok else "TensorFlow uses no card."


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield a title and its lines; with "none" if there are no lines."""
    found = [f"  {line}" for line in lines]
    yield title if found else f"{title:<14}none"
    yield from found


def _library_line(library: LibraryReport) -> str:
    package = " ".join(filter(None, (library.package, library.version)))
    missing = library.how == "missing"
    state = _HOW.get(library.how, library.how)
    if missing and not library.needed:
        state = "missing, and not needed"
    detail = f" ({library.detail})" if library.detail and not missing else ""
    return f"{library.name:<24}{state}{detail}  [{package}] {library.path}".rstrip()


def _card_line(card: CardReport) -> str:
    if card.tensorflow:
        return f"{card.words} [{card.gpu}]; TensorFlow: {card.tensorflow}"
    return f"{card.words} [{card.gpu}]; TensorFlow does NOT use it: {card.reason}"
