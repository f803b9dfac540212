"""The page's address and a line for the shell, logged when the first model serves."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from modelserver.core import logs
from modelserver.engine import startup_screen
from modelserver.tasks import by_kind

if TYPE_CHECKING:
    from typing import Any

    from modelserver.core.settings import Settings
    from modelserver.engine.catalogue import Registry
    from modelserver.tasks import Task

log = logging.getLogger(__name__)

# The folder of the default models' sample photos.
_SAMPLES = Path("samples")
# The one in which both default models are sure of something: a cat.
_FIRST = "chelsea.png"

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listened at


def greet(
    registry: Registry[Any],
    settings: Settings,
    *,
    address: object,
    since: float,
) -> None:
    """Wait until a model serves, or all are closed, and log what to try.

    On a terminal until each was tried, which is shown meanwhile.

    Args:
        registry: the app's models.
        settings: the server's.
        address: the server's own, as a socket's ``getsockname`` gives it.
        since: when the start began, in seconds of ``time.monotonic``.
    """
    if logs.is_live():
        startup_screen.show(registry, since)
    registry.wait(lambda _: registry.closed or bool(_serving(registry)))
    serving = _serving(registry)
    if serving:
        name, kind = serving[0]
        if isinstance(address, tuple):
            log.info("Open %s in a browser", url(address), extra=logs.BARE)
        line = command(by_kind(kind), settings, name, address)
        log.info("try: %s", line, extra=logs.BARE)


def _serving(registry: Registry[Any]) -> list[tuple[str, str]]:
    """Return name and kind of the models that serve, or will once asked for."""
    return [
        (one.name, one.files.kind)
        for one in registry
        if one.state in startup_screen.ABLE
    ]


def command(
    task: Task[Any],
    settings: Settings,
    model: str,
    address: object,
) -> str:
    """Return a line for the shell that evaluates a photo.

    It names a sample photo if there is one. A token is read from the
    shell's ``API_TOKEN``: it does not belong in a log.
    """
    words = ["curl"]
    if settings.api_token:
        words.append('-H "X-API-Key: $API_TOKEN"')
    words.append(f"-F {shlex.quote(f'modelname={model}')}")
    words.append(f"-F {shlex.quote(f'file=@{_photo(_SAMPLES)}')}")
    if isinstance(address, tuple):
        base = url(address)
    else:
        words.append(f"--unix-socket {shlex.quote(str(address))}")
        base = "http://localhost"
    words.append(f"{base}{task.endpoint.route}")
    return " ".join(words)


def url(address: tuple[Any, ...]) -> str:
    """Return the URL at which this machine reaches a listening address."""
    host = _ANY.get(str(address[0]), str(address[0]))
    return (
        f"http://[{host}]:{address[1]}"
        if ":" in host
        else f"http://{host}:{address[1]}"
    )


def _photo(folder: Path) -> str:
    photos = sorted(folder.glob("*.png"), key=lambda one: (one.name != _FIRST, one))
    return str(photos[0]) if photos else "photo.jpg"
