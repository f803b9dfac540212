"""The server with next to no rights: a read-only machine but for its upload folder."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support import tiny_graphs
from support.app_client import photo
from support.servers import SECONDS, wait_for

ROOT = Path(__file__).parents[2]
BUBBLE = shutil.which("bwrap")


def allowed(command):
    """Whether this user may do something."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def bubble(uploads):
    """The arguments that give a process nothing but one folder to write to."""
    return [
        *(BUBBLE, "--die-with-parent", "--new-session"),
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--ro-bind", "/", "/"),
        *("--dev", "/dev", "--proc", "/proc", "--bind", uploads, uploads),
    ]


pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        BUBBLE is None or not allowed([*bubble(ROOT), "true"]),
        reason="no bubblewrap for this user",
    ),
]


@pytest.mark.parametrize("where", ["uploads", "root"])
def test_nothing_else_can_be_written(where, uploads):
    """The bubble is one: a process in it writes to the upload folder only."""
    folder = {"uploads": uploads, "root": ROOT}[where]
    command = [*bubble(uploads), "touch", folder / "written"]
    assert allowed(command) == (where == "uploads")
    assert (folder / "written").exists() == (where == "uploads")
    (folder / "written").unlink(missing_ok=True)


def test_photos_are_answered_with_next_to_no_rights(folder, uploads, tmp_path):
    """No user of the machine, no capability, nothing to write but uploads."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    said = tmp_path / "said"
    environ = {"MODEL_FOLDER": folder, "UPLOAD_FOLDER": uploads, "PORT": "0"}
    given = [f"{name}={value}" for name, value in environ.items()]
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*bubble(uploads), "env", *given, sys.executable, "app.py"],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    try:
        listening = r"Listening at: (http://[\d.]+:\d+)"
        wait_for(lambda: re.search(listening, said.read_text()), "it listens")
        url = re.search(listening, said.read_text())[1]
        ready = f"{url}/readyz"
        wait_for(
            lambda: httpx.get(ready, timeout=SECONDS).status_code == 200, "it is ready"
        )
        for size in ((32, 24), (3000, 2000)):
            answer = httpx.post(
                url + "/detect",
                data={"modelname": "echo"},
                files={"file": photo(size=size)},
                timeout=SECONDS,
            )
            assert answer.status_code == 200
    finally:
        process.terminate()
        process.wait(SECONDS)
