"""``modelserver serve``: the server itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelserver.engine import discovery
from modelserver.tasks import TASKS
from modelserver.web.factory import create_app
from modelserver.web.server.config import serve, start_errors

if TYPE_CHECKING:
    from modelserver.web.backend import Backend

_TASKS = {task.endpoint.word: [task] for task in TASKS.values()}
_TASKS["all"] = [*TASKS.values()]


@click.command("serve")
@click.argument("task", type=click.Choice([*_TASKS]), default="detect")
@click.option("--host", metavar="ADDRESS", help="Where to listen; loopback by default.")
@click.option(
    "--port", metavar="NUMBER", help="To listen on; 5000 by default, classify 5432."
)
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    help="The folder with the models; MODEL_FOLDER, else ./models.",
)
def serve_models(
    *, task: str, host: str | None, port: str | None, models: Path | None
) -> None:
    """Serve a folder's models over HTTP: detectors, classifiers, or all on one port.

    Settings come from the environment (docs/settings.md); a flag sets one of them.
    """
    flags = {"HOST": host, "PORT": port, "MODEL_FOLDER": models}
    # gunicorn's hooks and the models' processes read the environment, too.
    os.environ.update({k: str(v) for k, v in flags.items() if v is not None})
    served = _TASKS[task]
    with start_errors():
        app = create_app(served)
    _tell_if_empty(app.extensions["modelserver"])
    serve(app, default_port=served[0].endpoint.port, arguments=())


def _tell_if_empty(server: Backend) -> None:
    """Tell what to do where there is no model; the server finds those that come."""
    folder = server.settings.model_folder
    found = discovery.discover(folder, *server.tasks)
    if not found.models:
        hint = found.hint or discovery.hint(*server.tasks)
        click.echo(
            f"modelserver: there is no model in {str(folder)!r} yet. "
            f"{hint[0].upper()}{hint[1:]}. It is "
            "found while the server runs. To try the server without one of yours, "
            "'modelserver models install all --samples' downloads two.",
            err=True,
        )
