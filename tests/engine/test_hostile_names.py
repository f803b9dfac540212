"""Names that clients send, which never name a file on this machine."""

import sys

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
_heard = []
_listening = []


def _hear(event, arguments):
    if _listening and event.startswith(("open", "os.")):
        _heard.append((event, repr(arguments)))


sys.addaudithook(_hear)  # there is no way to take one back


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:9]))
def test_a_models_name_is_looked_up_in_memory_only(name, folder, serving):
    """Python asks the system for the upload's own file, and for none by that name."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(RELOAD_S=0)
    post_form(client, "/detect", form({"modelname": "m"}, photo()))
    _heard.clear()
    _listening.append(True)
    answer = post_form(client, "/detect", form({"modelname": name}, photo()))
    _listening.clear()
    assert answer.status_code == 404
    # The upload's file, and Python's object around its descriptor.
    assert [event for event, _ in _heard] == ["open"] * 2
    assert not any(str(folder) in arguments for _, arguments in _heard)
    assert len(answer.json["detail"]) < 1000
