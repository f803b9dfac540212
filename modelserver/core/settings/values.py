"""The settings' values, read once and checked together."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from modelserver.core.errors import SettingError, StartError
from modelserver.core.settings.table import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Isolation = Literal["process", "inline"]
LogFormat = Literal["auto", "text", "json"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting's value. Immutable, so safe to share between threads.

    Field names are the variables' in lower case; ``SETTINGS`` describes each.
    ``slots``, ``max_batch``, ``workers`` and ``threads`` are 0 if the choice is
    automatic.
    """

    upload_folder: Path
    debug: bool
    port: int
    model_folder: Path
    min_confidence: float
    host: str
    api_token: str = field(repr=False)
    allow_anonymous: bool
    trusted_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    dialects: tuple[str, ...]
    grpc_port: int
    isolation: Isolation
    slots: int
    max_batch: int
    batch_delay_ms: float
    require_gpu: bool
    gpu_memory_mb: int
    log_format: LogFormat
    workers: int
    threads: int
    queue_length: int
    max_queue_wait_s: float
    max_upload_mb: int
    max_tensor_mb: int
    max_image_pixels: int
    max_header_pixels: int
    max_pixels_in_flight: int
    decode_timeout_s: float
    full_decode: bool
    score_floor: float
    rewrite_graphs: bool
    suppression_on_cpu: bool
    load_timeout_s: float
    gpu_load_timeout_s: float
    run_timeout_s: float
    model_memory_mb: int
    trusted_models: tuple[str, ...]
    strict_ready: bool
    reload_s: float
    max_models: int
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
                the variable, its value and the allowed values.
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
        if self.grpc_port and self.grpc_port == self.port:
            raise SettingError("GRPC_PORT", str(self.port), "another port than PORT's")
        if self.grpc_port and self.isolation == "inline":
            raise SettingError(
                "GRPC_PORT",
                str(self.grpc_port),
                "with ISOLATION=process alone; unset one of them",
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

    def check_model_folder(self) -> None:
        """Refuse a model folder that can only be a mistake; a folder may come later.

        Raises:
            StartError: neither it nor the folder that it would lie in is there, or
                its path is no text, as messages between processes are.
        """
        folder = os.path.abspath(self.model_folder)  # noqa: PTH100 - follows no link
        if folder != folder.encode(errors="ignore").decode():
            raise StartError(
                f"MODEL_FOLDER={folder!r} has bytes that are no UTF-8: rename the"
                " folder."
            )
        parent = os.path.dirname(folder)  # noqa: PTH120 - of a text
        if not (os.path.lexists(folder) or os.path.isdir(parent)):  # noqa: PTH112 - never raises
            raise StartError(
                f"MODEL_FOLDER={folder!r} is not there, nor is {parent!r}: mend the"
                " path, or make the folder."
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host name or address.

    Of names only ``localhost`` counts: the meaning of others is up to a resolver.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # Python 3.12 and older ignore it
    return bool((mapped or address).is_loopback)
