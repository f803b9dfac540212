"""Names that clients send, which never name a file on this machine."""

import builtins
import io
import os

import pytest

from support import tiny_graphs
from support.app_client import form, photo, post_form

NAMES = [
    "../x",
    "/etc",
    ".",
    "a\0b",
    "a/b",
    "a\\b",
    "m" * 10_000,
    "__proto__",
    "CON",
]
# What asks the system about a file by its name.
ASKS = [
    *((os, name) for name in ("open", "stat", "lstat", "scandir", "listdir", "access")),
    *((os, name) for name in ("readlink", "mkdir", "unlink", "rename", "replace")),
    *((module, "open") for module in (builtins, io)),
]


@pytest.fixture
def heard():
    """A list of what is asked from now on: how, and the first argument.

    An audit hook would hear it, too, but could never be taken away. One in Python lets
    threads begin to be traced at once, which CPython 3.11 refuses one of them: it dies.
    """
    calls = []

    def listened(name, real):
        def call(*arguments, **options):
            calls.append((name, arguments[0]))
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for owner, name in ASKS:
            patched.setattr(owner, name, listened(name, getattr(owner, name)))
        yield calls


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:9]))
def test_a_models_name_is_looked_up_in_memory_only(
    name, folder, uploads, serving, heard
):
    """Python asks the system for the upload's own file, and for none by that name."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(RELOAD_S=0)
    post_form(client, "/detect", form({"modelname": "m"}, photo()))
    heard.clear()
    answer = post_form(client, "/detect", form({"modelname": name}, photo()))
    asked = [*heard]
    assert answer.status_code == 404
    # The upload's file alone.
    assert [how for how, _ in asked] == ["open"]
    assert str(asked[0][1]).startswith(str(uploads))
    assert len(answer.json["detail"]) < 1000
