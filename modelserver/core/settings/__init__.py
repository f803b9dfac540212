"""The settings: read from the environment once, checked, then never changed.

``SETTINGS`` is the only place that knows a setting's name, default, converter, unit and
sentence; ``docs/settings.md`` is tested against it. An empty variable counts as unset,
as people mean it by ``FOO= python app.py``.
"""

from modelserver.core.settings.converters import (
    Choice,
    Choices,
    Flag,
    Folder,
    Hashes,
    Host,
    Hosts,
    Number,
    Origins,
    Token,
)
from modelserver.core.settings.near_misses import near_misses
from modelserver.core.settings.table import SETTINGS, Setting, markdown_table
from modelserver.core.settings.values import Isolation, LogFormat, Settings, is_loopback

__all__ = [
    "SETTINGS",
    "Choice",
    "Choices",
    "Flag",
    "Folder",
    "Hashes",
    "Host",
    "Hosts",
    "Isolation",
    "LogFormat",
    "Number",
    "Origins",
    "Setting",
    "Settings",
    "Token",
    "is_loopback",
    "markdown_table",
    "near_misses",
]
