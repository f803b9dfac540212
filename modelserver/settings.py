"""The settings: read from the environment once, checked, then never changed.

``SETTINGS`` is the only place that knows a setting's name, default, converter, unit and
sentence; ``docs/settings.md`` is tested against it. An empty variable counts as unset,
as ``FOO= python app.py`` is what people write to mean it.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelserver.errors import SettingError, StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Isolation = Literal["process", "inline"]
LogFormat = Literal["auto", "text", "json"]


@dataclass(frozen=True)
class Flag:
    """Converts the words people use for yes and no, in any case."""

    allowed: str = "one of true, false, 1, 0, yes, no, on, off"

    def __call__(self, text: str) -> bool:
        """Convert, or raise ``ValueError``."""
        word = text.lower()
        if word in {"true", "1", "yes", "on"}:
            return True
        if word in {"false", "0", "no", "off"}:
            return False
        raise ValueError(self.allowed)


@dataclass(frozen=True)
class Number:
    """Converts a number of one kind between two bounds, both allowed."""

    kind: type[int | float]
    low: float
    high: float

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        what = "a whole number" if self.kind is int else "a number"
        high = f"{self.high:_}" if self.high >= 100_000 else str(self.high)  # noqa: PLR2004 - what reads well
        return f"{what} from {self.low} to {high}"

    def __call__(self, text: str) -> float:
        """Convert, or raise ``ValueError``; NaN is in no range, so it is refused."""
        number = self.kind(text)
        if not self.low <= number <= self.high:
            raise ValueError(self.allowed)
        return number


@dataclass(frozen=True)
class Choice:
    """Converts one word of a few, in any case."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return "one of " + ", ".join(self.words)

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``."""
        word = text.lower()
        if word not in self.words:
            raise ValueError(self.allowed)
        return word


@dataclass(frozen=True)
class Folder:
    """Converts a path; ``~`` is the user's home, as no shell expanded it in a file."""

    allowed: str = "a folder"

    def __call__(self, text: str) -> Path:
        """Convert; a home that cannot be found stays as written."""
        return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises instead


@dataclass(frozen=True)
class Host:
    """Converts a host to bind: a name or an address, without scheme or port."""

    allowed: str = "a host name or an IP address, without a port"

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``; brackets around IPv6 go."""
        bare = text[1:-1] if text[:1] + text[-1:] == "[]" else text
        if ":" in bare:
            return str(ipaddress.IPv6Address(bare))
        if not bare.isascii() or not bare.replace("-", "").replace(".", "").isalnum():
            raise ValueError(self.allowed)
        return bare


@dataclass(frozen=True)
class Token:
    """Converts the API token: what an HTTP header can carry as one word."""

    allowed: str = "visible ASCII characters without spaces"

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``."""
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError(self.allowed)
        return text


Converter = Flag | Number | Choice | Folder | Host | Token


@dataclass(frozen=True)
class Setting:
    """One environment variable.

    Attributes:
        name: of the variable; the field of ``Settings`` is the same in lower case.
        default: as it would stand in the environment.
        converter: turns the text into the value; says what is allowed.
        unit: of the value, empty where it has none.
        sentence: what it does, for the documentation.
        secret: the value is never shown, not even in an error.
    """

    name: str
    default: str
    converter: Converter
    unit: str
    sentence: str
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> Any:
        """Convert the variable's value, or the default where it is unset or blank.

        Raises:
            SettingError: the value is not allowed.
        """
        text = environ.get(self.name, "").strip()
        if not text:
            return self.converter(self.default) if self.default else ""
        try:
            return self.converter(text)
        except (ValueError, OverflowError) as error:
            shown = "***" if self.secret else text[:200]
            raise SettingError(self.name, shown, self.converter.allowed) from error


def _count(low: int, high: int) -> Number:
    return Number(int, low, high)


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
    Setting("ISOLATION", "process", Choice(("process", "inline")), "",
        "`process`: each model in a process of its own; `inline`: in the front."),
    Setting("SLOTS", "0", _count(0, 256), "runs",
        "Runs side by side for each model; 0: on a CPU one for each core, on a GPU 2."),
    Setting("MAX_BATCH", "0", _count(0, 1024), "images",
        "The most images in one run; 0 chooses by device."),
    Setting("BATCH_DELAY_MS", "0", Number(float, 0, 1000), "ms",
        "How long a run waits for more images to join it."),
    Setting("REQUIRE_GPU", "False", Flag(), "",
        "Refuse to start when no GPU can be used."),
    Setting("LOG_FORMAT", "auto", Choice(("auto", "text", "json")), "",
        "Lines on stderr: `text`, `json`, or `auto`: text on a terminal, else JSON."),
    Setting("THREADS", "0", _count(0, 4096), "threads",
        "Requests handled side by side; 0 is enough for two models' runs and full"
        " queues and 16 more."),
    Setting("QUEUE_LENGTH", "64", _count(1, 10_000), "images",
        "Images that may wait for one model; one more is refused with 503."),
    Setting("MAX_UPLOAD_MB", "32", _count(1, 2047), "MiB",
        "The largest request body; a larger one is refused with 413."),
    Setting("MAX_IMAGE_PIXELS", "25_000_000", _count(1, 1_000_000_000), "pixels",
        "The largest image after decoding, which may be at a reduced size."),
    Setting("MAX_HEADER_PIXELS", "200_000_000", _count(1, 4_000_000_000), "pixels",
        "The largest image by what its header says, before decoding."),
    Setting("MAX_PIXELS_IN_FLIGHT", "100_000_000", _count(1, 10_000_000_000), "pixels",
        "Decoded pixels that one model's waiting and running images may hold; an image"
        " beyond is refused with 503."),
    Setting("FULL_DECODE", "False", Flag(), "",
        "Always decode JPEGs in full, never at a reduced size."),
    Setting("SCORE_FLOOR", "0.01", Number(float, 0, 1), "",
        "Detectors drop boxes below this score early; lowered by itself to what"
        " `MIN_CONFIDENCE` asks for."),
    Setting("REWRITE_GRAPHS", "True", Flag(), "",
        "Rewrite graphs at load so that they run faster; off runs them untouched."),
    Setting("LOAD_TIMEOUT_S", "120", Number(float, 1, 3600), "s",
        "The longest a model may take to load."),
    Setting("REQUEST_TIMEOUT_S", "30", Number(float, 0.1, 3600), "s",
        "The longest a request may take."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting's value. Immutable, so safe to share between threads.

    Field names are the variables' in lower case; ``SETTINGS`` says what each means.
    ``slots``, ``max_batch`` and ``threads`` are 0 where the choice is automatic.
    """

    upload_folder: Path
    debug: bool
    port: int
    model_folder: Path
    min_confidence: float
    host: str
    api_token: str = field(repr=False)
    allow_anonymous: bool
    isolation: Isolation
    slots: int
    max_batch: int
    batch_delay_ms: float
    require_gpu: bool
    log_format: LogFormat
    threads: int
    queue_length: int
    max_upload_mb: int
    max_image_pixels: int
    max_header_pixels: int
    max_pixels_in_flight: int
    full_decode: bool
    score_floor: float
    rewrite_graphs: bool
    load_timeout_s: float
    request_timeout_s: float

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str] = os.environ, *, port: int = 5000
    ) -> Settings:
        """Read every setting.

        Args:
            environ: the variables, by name.
            port: the default of ``PORT``, which differs by app.

        Raises:
            SettingError: a value, or two together, are not allowed; the message names
                the variable, its value and what is allowed.
        """
        given = {**environ, "PORT": environ.get("PORT", "").strip() or str(port)}
        settings = cls(**{s.name.lower(): s.read(given) for s in SETTINGS})
        settings._check_pairs()
        return settings

    def _check_pairs(self) -> None:
        if self.max_header_pixels < self.max_image_pixels:
            raise SettingError(
                "MAX_HEADER_PIXELS",
                str(self.max_header_pixels),
                f"at least MAX_IMAGE_PIXELS, which is {self.max_image_pixels}",
            )
        if self.max_pixels_in_flight < self.max_image_pixels:
            raise SettingError(
                "MAX_PIXELS_IN_FLIGHT",
                str(self.max_pixels_in_flight),
                f"at least MAX_IMAGE_PIXELS, which is {self.max_image_pixels}",
            )
        if self.api_token and self.allow_anonymous:
            raise SettingError(
                "ALLOW_ANONYMOUS", "true", "only without API_TOKEN; unset one of them"
            )

    def check_bind(self, hosts: Iterable[str]) -> None:
        """Refuse to listen for other machines unless the operator said how.

        Args:
            hosts: names and addresses that the server is about to listen on; the empty
                one is every interface. Unix sockets are not hosts: leave them out.

        Raises:
            StartError: a host is not loopback, and there is neither a token nor leave
                to do without.
        """
        if self.api_token or self.allow_anonymous:
            return
        for host in hosts:
            if not is_loopback(host):
                raise StartError(
                    f"Listening on {host or 'every address'} would let other machines"
                    " in: set API_TOKEN to a secret that clients must send, or"
                    " ALLOW_ANONYMOUS=true to serve without one."
                )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host name or address.

    Of names only ``localhost`` counts: whatever else a name means is up to a resolver.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # Python 3.12 and older ignore it
    return bool((mapped or address).is_loopback)


def markdown_table(settings: Iterable[Setting] = SETTINGS) -> str:
    """Write the settings as the Markdown table of ``docs/settings.md``."""
    head = "| variable | default | allowed | what it does |\n|---|---|---|---|\n"
    return head + "".join(map(_row, settings))


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else "(none)"
    unit = f", in {setting.unit}" if setting.unit else ""
    allowed = setting.converter.allowed + unit
    return f"| `{setting.name}` | {default} | {allowed} | {setting.sentence} |\n"
