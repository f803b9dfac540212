"""All commands by name, imported when they are asked for."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

import click

from modelserver.core.extras import install_command, made_python

if TYPE_CHECKING:
    from collections.abc import Sequence


class Incomplete(click.ClickException):
    """A command's packages are not installed; the exit code of wrong usage."""

    exit_code = 2


@dataclass(frozen=True)
class Entry:
    """Where a command is.

    Attributes:
        module: of this package, which has the command.
        name: of the command in there.
        summary: the first sentence of its help.
        needs: packages that it comes to need after its module was imported.
    """

    module: str
    name: str
    summary: str
    needs: Sequence[str] = ()


_TENSORFLOW = ("tensorflow",)
ENTRIES = {
    "bench": Entry("bench", "measure", "Measure a running server."),
    "check": Entry(
        "doctor", "check_folder", "Load and run every model in FOLDER.", _TENSORFLOW
    ),
    "doctor": Entry("doctor", "doctor_group", "Tell what is wrong with this machine."),
    "import": Entry(
        "imports", "import_model", "Turn a model into a frozen graph.", _TENSORFLOW
    ),
    "inspect": Entry(
        "doctor", "inspect_graph", "Tell what a graph takes and gives.", _TENSORFLOW
    ),
    "labels": Entry("imports", "convert_labels", "Make a label map of class names."),
    "models": Entry("models", "models", "List and install the default models."),
    "predict": Entry("predict", "predict", "Write what a server finds in photos."),
    "serve": Entry("serve", "serve_models", "Serve a folder's models.", _TENSORFLOW),
}


class Commands(click.Group):
    """The group of all commands, which imports only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*ENTRIES, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; where its packages are not there, one that says so."""
        entry = ENTRIES.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        try:
            module = importlib.import_module(f"modelserver.tools.cli.{entry.module}")
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in {"", "modelserver", *sys.stdlib_module_names}:
                raise
            return _incomplete(entry, package)
        for package in entry.needs:
            if find_spec(package) is None:
                return _incomplete(entry, package)
        command: click.Command = getattr(module, entry.name)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the summaries, for which no command is imported."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, entry.summary) for name, entry in ENTRIES.items()]
            )


def _incomplete(entry: Entry, package: str) -> click.Command:
    """Return a command that only says what to install before it can do anything."""

    def fail(**_parameters: object) -> NoReturn:
        ctx = click.get_current_context()
        python = made_python()
        there = f"{python} has them; else " if python else ""
        raise Incomplete(
            f"{ctx.command_path} needs the server's packages, and {package} is not "
            f"installed: {there}{install_command('cpu')} brings them, or with an "
            f"NVIDIA GPU {install_command('gpu')}."
        )

    return click.Command(
        None,
        callback=fail,
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        help=entry.summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
