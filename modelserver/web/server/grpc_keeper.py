"""The door for gRPC as gunicorn's arbiter keeps it: started, brought back, ended."""

from __future__ import annotations

import importlib.util
import time
from functools import wraps
from typing import TYPE_CHECKING

from modelserver.core.errors import StartError
from modelserver.core.extras import install_command
from modelserver.web.server.process_keeper import ProcessKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelserver.web.server.engine_keeper import EngineKeeper

MODULE = "modelserver.web.grpc_door.process"
"""What the door's process runs."""

_PACKAGES = ("grpc", "grpc_health", "grpc_reflection")
# A door hangs that says nothing for so long; it speaks each second.
_SILENT_S = 60.0
# What a door is given at least to end in.
_CLOSE_S = 1.0


def check_packages() -> None:
    """Refuse to start without what gRPC takes.

    Raises:
        StartError: a package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(
            f"GRPC_PORT is set, but {', '.join(missing)} cannot be imported:"
            f" {install_command('grpc')} brings what gRPC takes."
        )


class GrpcKeeper(ProcessKeeper):
    """Starts the door for gRPC and brings it back. For the arbiter's thread.

    Args:
        engine: what the door talks to; opened.
        tasks: those that the engine serves, as it is given them.
        environ: the door's variables.
        grace_s: how long requests in flight have at the end.
        owner: user and group that it runs as; this process's own if not given.
        clock: seconds; never goes back.
    """

    def __init__(
        self,
        engine: EngineKeeper,
        tasks: Sequence[str],
        environ: Mapping[str, str],
        grace_s: float,
        *,
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("door for gRPC", environ, owner, clock)
        self._engine = engine
        self._tasks = tuple(tasks)
        self._grace_s = grace_s

    def start(self) -> None:
        """Start the door; it says itself what it has to say.

        Raises:
            OSError: the system has no process for it.
        """
        self._heard_at = self._clock()
        engine = self._engine
        self._start(MODULE, (engine.connectable, engine.page), self._tasks)

    def _is_silent(self) -> bool:
        return self._clock() - self._heard_at >= _SILENT_S

    def end(self) -> None:
        """Have the door take no new calls, and never start it again."""
        super().end()
        self._close_control()

    def _around(self, stop: Callable[[bool], None]) -> Callable[[bool], None]:
        @wraps(stop)
        def stop_all(graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's
            """End the door beside the workers, which have the same time."""
            until = self._clock() + (self._grace_s if graceful else 0.0)
            self.end()
            stop(graceful)
            self.close(max(_CLOSE_S, until - self._clock()))

        return stop_all
