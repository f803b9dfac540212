"""Says in one sentence that Python is too old, or that a package is not installed.

Imported before all else, also by Pythons that cannot read the rest of this package: the
language in here must be old.
"""

import importlib.util
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_OLDEST = (3, 10)
# ``core.errors`` has it, too, for newer Pythons.
_START_FAILED = 3


@contextmanager
def checked(*packages: str) -> "Iterator[None]":
    """End the process with a sentence if what is imported in here cannot be.

    Ctrl-C ends it without a word meanwhile; imports would be a long traceback.

    Args:
        packages: that are imported later, by other processes.

    Raises:
        SystemExit: with code 3.
    """
    if sys.version_info < _OLDEST:
        version = ".".join(map(str, sys.version_info[:2]))
        _stop(
            f"Python {version} ({sys.executable}) is too old, 3.10 to 3.13 will do:"
            " script/server looks for one; or name it yourself, as in python3.12"
            f" {sys.argv[0]}."
        )
    for package in packages:
        if importlib.util.find_spec(package) is None:
            _stop_without(package)
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "modelserver", *sys.stdlib_module_names}:
            raise
        _stop_without(package)
    finally:
        if interrupts is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupts)


def _stop_without(package: str) -> "NoReturn":
    from modelserver.core import extras  # noqa: PLC0415 - not for old Pythons

    script = "" if extras.is_installed() else "script/server brings it and starts; or "
    _stop(
        f"The package {package} is not installed for {sys.executable}: {script}"
        f"{extras.install_command('cpu')}, or with an NVIDIA GPU"
        f" {extras.install_command('gpu')}."
    )


def _stop(sentence: str) -> "NoReturn":
    sys.stderr.write("modelserver: " + sentence + "\n")
    raise SystemExit(_START_FAILED)
