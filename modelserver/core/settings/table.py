"""Every setting: its name, default, converter, unit and sentence, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import SettingError
from modelserver.core.settings.converters import (
    Choice,
    Choices,
    Converter,
    Flag,
    Folder,
    Hashes,
    Host,
    Hosts,
    Number,
    Origins,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Setting:
    """One environment variable.

    Attributes:
        name: of the variable; the field of ``Settings`` is the same in lower case.
        default: as it would stand in the environment.
        converter: turns the text into the value; names the allowed values.
        unit: of the value, empty if it has none.
        sentence: its effect, for the documentation.
        secret: the value is never shown, not even in an error.
    """

    name: str
    default: str
    converter: Converter
    unit: str
    sentence: str
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> Any:
        """Convert the variable's value, or the default if it is unset or blank.

        Raises:
            SettingError: the value is not allowed.
        """
        text = environ.get(self.name, "").strip()
        if not text:
            return self.converter(self.default)
        try:
            return self.converter(text)
        except (ValueError, OverflowError) as error:
            shown = "***" if self.secret else text[:200]
            raise SettingError(self.name, shown, self.converter.allowed) from error


def _count(low: int, high: int) -> Number:
    return Number(int, low, high)


DIALECTS = ("v2", "deepstack", "tfserving", "doods")
"""The words for other servers' protocols; ``web.dialects.table`` has each."""

SETTINGS: tuple[Setting, ...] = (
    Setting("UPLOAD_FOLDER", "./pics", Folder(), "",
        "Where an upload lies while it is evaluated; it is gone afterwards."),
    Setting("DEBUG", "False", Flag(), "",
        "Print every detection with its confidence to stdout, before the threshold."),
    Setting("PORT", "5000", _count(0, 65535), "",
        "The port to listen on; `app_classify`'s default is 5432; 0 is any free one."),
    Setting("MODEL_FOLDER", "./models", Folder(), "",
        "Where the graphs and their label maps lie."),
    Setting("MIN_CONFIDENCE", "0.8", Number(float, 0, 1), "",
        "Detections below this confidence are left out of the answer."),
    Setting("HOST", "127.0.0.1", Host(), "",
        "The address to listen on; any but loopback needs `API_TOKEN` or"
        " `ALLOW_ANONYMOUS=true`."),
    Setting("API_TOKEN", "", Token(), "",
        "When set, requests must carry it as `Authorization: Bearer TOKEN` or"
        " `X-API-Key: TOKEN`.",
        secret=True),
    Setting("ALLOW_ANONYMOUS", "False", Flag(), "",
        "Serve on a non-loopback address without a token: anyone who reaches the port"
        " may use it."),
    Setting("TRUSTED_HOSTS", "", Hosts(), "",
        "What the `Host` header may say, `/livez` and `/readyz` apart; unset: anything"
        " where `API_TOKEN` or `ALLOW_ANONYMOUS` is set, else `localhost` and IP"
        " addresses."),
    Setting("CORS_ORIGINS", "", Origins(), "",
        "Sites whose pages may call from a browser and read the answers; unset: only"
        " this server's own page."),
    Setting("DIALECTS", "all", Choices(DIALECTS), "",
        "Other servers' protocols that are spoken as well, on the same port."),
    Setting("GRPC_PORT", "0", _count(0, 65535), "",
        "The port on which the Open Inference Protocol is spoken over gRPC as well;"
        " 0: on none."),
    Setting("ISOLATION", "process", Choice(("process", "inline")), "",
        "`process`: each model in a process of its own; `inline`: in the server's."),
    Setting("SLOTS", "0", _count(0, 256), "runs",
        "Runs side by side for each model; 0: on a CPU one for each core, on a GPU 2."),
    Setting("MAX_BATCH", "0", _count(0, 1024), "images",
        "The most images in one run; 0: on a CPU 1, on a GPU 32, where runs are filled"
        " up to 1, 2, 4, 8 ... or this many."),
    Setting("BATCH_DELAY_MS", "0", Number(float, 0, 1000), "ms",
        "How long a run waits for more images to join it."),
    Setting("REQUIRE_GPU", "False", Flag(), "",
        "Refuse to start when no GPU can be used, as a TensorFlow process that is"
        " asked first tells; later, load no model on the CPU."),
    Setting("GPU_MEMORY_MB", "0", _count(0, 16_777_216), "MiB",
        "Memory of its GPU that one model's process may take for tensors; with"
        " `ISOLATION=inline` all models together; 0: what it needs."),
    Setting("LOG_FORMAT", "auto", Choice(("auto", "text", "json")), "",
        "Lines on stderr: `text`, `json`, or `auto`: JSON, and on a terminal text"
        " without what only matters to who looks for a fault."),
    Setting("WORKERS", "0", _count(0, 256), "processes",
        "Processes that speak HTTP, which hold no model; 0: `WEB_CONCURRENCY` if it is"
        " set, else one for each core and 4 at most; with `ISOLATION=inline` 1."),
    Setting("THREADS", "0", _count(0, 4096), "threads",
        "Requests that each of these processes handles side by side; 0 is enough for"
        " two models' runs and full queues and 16 more."),
    Setting("QUEUE_LENGTH", "64", _count(1, 10_000), "images",
        "Images that may wait for one model; one more is refused with 503."),
    Setting("MAX_QUEUE_WAIT_S", "1.0", Number(float, 0.01, 3600), "s",
        "An image that would wait longer for its model, by the rate measured so far, is"
        " refused with 503."),
    Setting("MAX_UPLOAD_MB", "32", _count(1, 2047), "MiB",
        "The largest request body; a larger one is refused with 413."),
    Setting("MAX_TENSOR_MB", "32", _count(1, 2047), "MiB",
        "The largest tensor that a request may feed a graph as it is, and the most that"
        " all of its outputs to one may have; a larger one is refused with 413, larger"
        " outputs with 500."),
    Setting("MAX_IMAGE_PIXELS", "25_000_000", _count(1, 1_000_000_000), "pixels",
        "The largest image after decoding, which may be at a reduced size."),
    Setting("MAX_HEADER_PIXELS", "200_000_000", _count(1, 4_000_000_000), "pixels",
        "The largest image by what its header says, before decoding."),
    Setting("MAX_PIXELS_IN_FLIGHT", "100_000_000", _count(1, 10_000_000_000), "pixels",
        "Decoded pixels that one model's waiting and running images may hold; all"
        " models' together may hold twice as many. A photo beyond waits for as long as"
        " its queue allows, then it is refused with 503."),
    Setting("DECODE_TIMEOUT_S", "5", Number(float, 0.1, 3600), "s",
        "Processor time that a photo may take to be decoded; one that takes longer is"
        " refused with 422."),
    Setting("FULL_DECODE", "False", Flag(), "",
        "Always decode JPEGs in full, never at a reduced size."),
    Setting("SCORE_FLOOR", "0.01", Number(float, 0, 1), "",
        "Detectors drop boxes below this score early; lowered by itself to what"
        " `MIN_CONFIDENCE` asks for."),
    Setting("REWRITE_GRAPHS", "True", Flag(), "",
        "Rewrite graphs at load so that they run faster; off runs them untouched."),
    Setting("SUPPRESSION_ON_CPU", "True", Flag(), "",
        "On a GPU, keep the suppression of old detectors, which is done for each class"
        " by itself, on the CPU."),
    Setting("LOAD_TIMEOUT_S", "120", Number(float, 1, 3600), "s",
        "The longest a model may take to load, once TensorFlow is imported."),
    Setting("GPU_LOAD_TIMEOUT_S", "600", Number(float, 1, 7200), "s",
        "The same where it runs on a GPU: one that is newer than this TensorFlow has"
        " all its kernels compiled first."),
    Setting("RUN_TIMEOUT_S", "60", Number(float, 0.1, 3600), "s",
        "A run that takes longer has its model's process killed and started anew."),
    Setting("MODEL_MEMORY_MB", "0", _count(0, 16_777_216), "MiB",
        "Memory that one model's process may use; 0: 4096 and 3 times the graph's file,"
        " and while it serves 1024 more for each of its slots."),
    Setting("TRUSTED_MODELS", "", Hashes(), "",
        "SHA-256 of graph files that may use any op; `/models` names it where a graph"
        " is refused for one."),
    Setting("STRICT_READY", "False", Flag(), "",
        "Answer `/readyz` with 503 as soon as any model does not serve."),
    Setting("RELOAD_S", "2", Number(float, 0, 3600), "s",
        "How often the model folder is looked at for new, changed and removed models;"
        " 0: only when SIGHUP says so."),
    Setting("MAX_MODELS", "0", _count(0, 10_000), "models",
        "The most models in memory at a time; a request for another has the least"
        " recently used one make room; 0: no limit."),
    Setting("REQUEST_TIMEOUT_S", "30", Number(float, 0.1, 3600), "s",
        "The longest a request may take; a client asks for less with the header"
        " `X-Request-Timeout-Ms`."),
)  # fmt: skip


def markdown_table(settings: Iterable[Setting] = SETTINGS) -> str:
    """Write the settings as the Markdown table of ``docs/settings.md``."""
    head = "| variable | default | allowed | what it does |\n|---|---|---|---|\n"
    return head + "".join(map(_row, settings))


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else "(none)"
    unit = f", in {setting.unit}" if setting.unit else ""
    allowed = setting.converter.allowed + unit
    return f"| `{setting.name}` | {default} | {allowed} | {setting.sentence} |\n"
