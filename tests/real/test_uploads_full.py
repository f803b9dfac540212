"""A real upload folder that is full, read-only or gone, and well again afterwards."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.support.servers import started
from support import tiny_graphs
from support.app_client import EDGE, SECONDS, form, photo

# Runs where it may mount: posts files of some sizes, and says what came back. Without
# models every upload that is kept is answered with 404.
SCRIPT = """
import os, subprocess, sys
sys.path[:0] = [{root!r}, {tests!r}]
from support.app_client import make_settings, post
from modelserver.tasks import DETECTION
from modelserver.web.factory import create_app
folder = {folder!r}
app = create_app(DETECTION, make_settings(MODEL_FOLDER={models!r}, UPLOAD_FOLDER=folder))
client = app.test_client()
def send(size):
    answer = post(client, "/detect", "m", os.urandom(size))
    print(answer.status_code, answer.json["type"].rpartition("/")[2])
    assert folder not in answer.text
def mount(*words):
    subprocess.run(["mount", *words], check=True)
{steps}
print("left", os.listdir(folder))
app.extensions["modelserver"].close()
"""


def can_mount():
    """Whether this user may have a mount table of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(tmp_path, options, steps):
    """Run steps with the upload folder on a filesystem of its own; give what is said."""
    folder, models = tmp_path / "pics", tmp_path / "models"
    folder.mkdir()
    models.mkdir()
    tests = Path(__file__).parents[1]
    script = SCRIPT.format(
        root=str(tests.parent),
        tests=str(tests),
        folder=str(folder),
        models=str(models),
        steps=steps,
    )
    mounted = f"mount -t tmpfs -o {options} tmpfs {folder}"
    inside = ["sh", "-c", f'{mounted} && exec "$@"', "sh", sys.executable, "-c", script]
    done = subprocess.run(
        ["unshare", "-Urm", *inside], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not can_mount(), reason="no mounts for this user"),
]


def test_a_full_disk_refuses_what_does_not_fit(tmp_path):
    """Small ones are served all along, and large ones again once there is room."""
    steps = """
send(700_000); send(100_000)
with open(folder + "/mine", "wb") as file: file.write(bytes(250_000))
send(100_000); send(1_000)
os.unlink(folder + "/mine")
send(200_000)
"""
    assert run(tmp_path, "size=300k", steps) == [
        "507 storage-full",
        "404 model-not-found",
        "507 storage-full",
        "404 model-not-found",
        "404 model-not-found",
        "left []",
    ]


def test_a_disk_without_inodes_is_full_too(tmp_path):
    """However much room there is."""
    steps = """
for number in range(8): open(folder + f"/mine{number}", "w").close()
try: open(folder + "/mine8", "w").close()
except OSError: pass
send(1_000)
for name in os.listdir(folder): os.unlink(folder + "/" + name)
send(1_000)
"""
    said = run(tmp_path, "size=9m,nr_inodes=9", steps)
    assert said == ["507 storage-full", "404 model-not-found", "left []"]


def test_a_disk_that_became_read_only_is_unavailable(tmp_path):
    """Until it can be written again."""
    steps = """
send(1_000)
mount("-o", "remount,ro", folder)
send(1_000)
mount("-o", "remount,rw", folder)
send(1_000)
"""
    assert run(tmp_path, "size=9m", steps) == [
        "404 model-not-found",
        "503 storage-unavailable",
        "404 model-not-found",
        "left []",
    ]


def test_the_temporary_folder_is_never_used(tmp_path):
    """One folder and one copy, of whatever size: there may be no other folder at all."""
    steps = """
import tempfile
tempfile.tempdir = "/nowhere"
send(3_000_000)
"""
    assert run(tmp_path, "size=9m", steps) == ["404 model-not-found", "left []"]


def test_a_body_that_comes_to_a_full_disk_is_refused_by_a_real_server(tmp_path):
    """While it is read, with a length or in chunks; then others are served as ever."""
    tiny_graphs.write(tmp_path / "m.frozen.pb", tiny_graphs.echo_detector())
    whole, large = photo(), form({"modelname": "m"}, photo() + bytes(3_000_000))

    def answer(content):
        headers = {"Content-Type": f"multipart/form-data; boundary={EDGE}"}
        return httpx.post(url, content=content, headers=headers, timeout=SECONDS)

    with started(tmp_path, disk="1m") as server:
        url = f"{server.url}/detect"
        for content in (large, iter([large[:1_000_000], large[1_000_000:]])):
            refused = answer(content)
            assert refused.status_code == 507
            assert refused.json()["type"] == "/problems/storage-full"
            assert answer(form({"modelname": "m"}, whole)).status_code == 200
        raw = httpx.post(
            f"{url}?modelname=m", content=bytes(3_000_000), timeout=SECONDS
        )
        assert raw.status_code == 507
        assert answer(form({"modelname": "m"}, whole)).status_code == 200
        assert server.harm() == []
