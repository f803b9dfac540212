"""Which tasks an app serves, as the engine's command line says it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modelserver
from modelserver.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Flask

    from modelserver.tasks import Task


def describe(tasks: Iterable[Task[Any]]) -> list[str] | None:
    """Return the arguments by which another process knows tasks.

    Kinds, then for each task from outside ``--import`` and the module that registers
    it.

    Returns:
        ``None`` if such a module has no name that another process could import.
    """
    kinds, modules = [], []
    for task in tasks:
        kinds.append(task.kind)
        module = type(task).__module__
        if module == "__main__":
            spec = sys.modules[module].__spec__
            if spec is None:
                return None
            module = spec.name
        if not module.startswith("modelserver."):
            modules += ["--import", module]
    return kinds + modules


def of_app(app: Flask) -> list[str] | None:
    """Return :func:`describe`'s words for an app of ``create_app``."""
    return describe(app.extensions["modelserver"].tasks)


def of_gunicorn(application: Any) -> list[str] | None:
    """Return :func:`describe`'s words for what gunicorn's own command serves.

    Args:
        application: gunicorn's, which knows how to import the app. The two that this
            package brings are known without that.
    """
    module = str(getattr(application, "app_uri", None)).partition(":")[0]
    for task in TASKS.values():
        here = Path(task.app)
        ours = Path(modelserver.__file__).parents[1] / here
        if here.stem == module and here.exists() and ours.exists():
            return [task.kind] if here.samefile(ours) else ask_app(application.wsgi)
    return ask_app(application.wsgi)


def ask_app(load: Callable[[], Flask]) -> list[str] | None:
    """Load an app in a process of its own, and return :func:`describe`'s words for it.

    This process stays without whatever the app imports and starts.

    Args:
        load: imports the app, or raises.

    Returns:
        ``None`` if it cannot be loaded: whoever serves it will say why.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(load, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    words: list[str] | None = json.loads(said or b"null")
    return words


def _answer(load: Callable[[], Flask], writing: int) -> None:
    """Write the words for an app to a pipe, and end this process."""
    try:
        # What the app says while it is loaded, it says again where it is served.
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        with os.fdopen(writing, "w") as pipe:
            json.dump(of_app(load()), pipe)
    finally:
        # Neither handlers nor the caller's own code may run in this copy of it.
        os._exit(0)
