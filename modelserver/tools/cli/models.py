"""``modelserver models``: the default models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from modelserver.core.errors import ModelServerError
from modelserver.tools import zoo
from modelserver.tools.cli.shared import CliError, folder_option, show_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES_FOLDER = Path("samples")


@click.group()
def models() -> None:
    """List and install the default models."""


@models.command("list")
@folder_option
def list_models(folder: Path) -> None:
    """List the default models and whether they are in the folder."""
    for name in zoo.names():
        state = "installed" if zoo.is_installed(name, folder) else "not installed"
        click.echo(f"{name:28}{zoo.kind(name):16}{state}")


@models.command("install")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@folder_option
@click.option("--samples", is_flag=True, help="Sample photos too, into ./samples.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the downloaded packages in this folder.",
)
def install_models(
    names: Sequence[str], folder: Path, cache: Path | None, *, samples: bool
) -> None:
    """Install default models by NAME; without one, or with 'all', every one."""
    chosen = zoo.names() if not names or "all" in names else names
    try:
        with show_progress(Console()) as report:
            for name in chosen:
                zoo.install(name, folder, cache=cache, progress=report)
            if samples:
                zoo.install_samples(SAMPLES_FOLDER, cache=cache, progress=report)
    except ModelServerError as err:
        raise CliError(str(err)) from err
