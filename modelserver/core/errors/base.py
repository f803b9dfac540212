"""The roots of the tree, and what stops a whole program."""

from __future__ import annotations


class ModelServerError(Exception):
    """Base of everything this package raises on purpose."""


class StartError(ModelServerError):
    """The server cannot start; the message is the one sentence the operator sees."""


class SettingError(StartError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: {allowed}")
        self.name = name


class InstallError(ModelServerError):
    """A default model cannot be installed; the message says why and what to do."""


class ConversionError(ModelServerError):
    """A model of another format cannot be turned into a frozen graph."""
