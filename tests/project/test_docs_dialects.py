"""``docs/dialects.md`` says what is so: its commands, its routes and their tests."""

import json
import re
import shutil
import subprocess

import pytest

from modelserver.core.settings.table import DIALECTS as WORDS
from modelserver.web.dialects.table import DIALECTS
from support.servers import ROOT, started

PAGE = ROOT / "docs" / "dialects.md"
TEXT = PAGE.read_text()


def test_every_route_of_a_dialect_is_in_its_table():
    """With its verb, and a test file that there is and that asks for the path."""
    rows = re.findall(r"^\| (.*`.*) \| .* \| `(test_\w+\.py)` \|$", TEXT, re.MULTILINE)
    told = {
        (verb, path): test
        for paths, test in rows
        for verb in re.findall(r"`(GET|POST) ", paths)
        for path in re.findall(r"(/[^`,]*)`", paths)
    }
    for dialect in DIALECTS.values():
        for route in dialect.routes:
            test = told.pop((route.verb, route.path))
            (file,) = ROOT.glob(f"tests/**/{test}")
            part = max(re.split(r"<[^>]*>", route.path), key=len).rstrip("/")
            last = part.rpartition("/")[2]
            assert last in file.read_text(), (route.path, test)
    assert not told


def test_every_dialect_can_be_chosen_by_its_word():
    """The page shows one being chosen, and each is one of the setting's words."""
    chosen = re.findall(r"`DIALECTS=([\w,-]+)`", TEXT)
    assert chosen
    assert {word for each in chosen for word in each.split(",")} <= set(WORDS)


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
def test_the_commands_of_the_dialects_work(zoo_folder, uploads, tmp_path):
    """Each is answered by a server with the default models, over HTTP."""
    commands = re.findall(r"^(curl .*)$", TEXT, re.MULTILINE)
    assert len(commands) >= len(DIALECTS)
    server = started(
        *("-m", "modelserver", "serve", "all"),
        folder=zoo_folder,
        uploads=uploads,
        tmp_path=tmp_path,
    )
    with server as here:
        here.wait()
        for command in commands:
            line = re.sub(r"http://127\.0\.0\.1:\d+", here.url, command)
            got = subprocess.run(
                ["bash", "-c", line], cwd=zoo_folder, capture_output=True, check=True
            )
            body = json.loads(got.stdout)
            assert not body.get("error"), body
            assert "cat" in got.stdout.decode(), body
