"""The page's address and the line to try are logged once, when they work."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from types import SimpleNamespace

import httpx
import pytest

from modelserver.engine import startup_hint
from modelserver.engine.catalogue import State
from modelserver.engine.startup_hint import command, greet
from modelserver.tasks import CLASSIFICATION, DETECTION
from support import tiny_graphs
from support.app_client import make_settings, photo
from support.servers import SECONDS, started, wait_for

HERE = ("127.0.0.1", 5000)


@pytest.fixture(autouse=True)
def no_samples(monkeypatch, tmp_path):
    """Have no sample photos in any current folder."""
    monkeypatch.setattr(startup_hint, "_SAMPLES", tmp_path / "samples")


def test_it_is_a_line_for_the_shell():
    """The line has the app's address and any model's name, quoted."""
    assert command(DETECTION, make_settings(), "m", HERE) == (
        "curl -F modelname=m -F file=@photo.jpg http://127.0.0.1:5000/detect"
    )
    line = command(CLASSIFICATION, make_settings(), "two words'", HERE)
    assert shlex.split(line)[2] == "modelname=two words'"
    assert line.endswith("/classify")


def test_it_takes_a_sample_photo_where_there_is_one(monkeypatch, tmp_path):
    """The line names the first sample photo, and the cat before all others."""
    monkeypatch.setattr(startup_hint, "_SAMPLES", tmp_path)
    for name, first in (
        ("b", "b"),
        ("a", "a"),
        ("chelsea", "chelsea"),
        ("c", "chelsea"),
    ):
        (tmp_path / f"{name}.png").touch()
        line = command(DETECTION, make_settings(), "m", HERE)
        assert f"file=@{tmp_path / first}.png " in line


@pytest.mark.parametrize(
    ("address", "end"),
    [
        (("0.0.0.0", 8), " http://127.0.0.1:8/detect"),
        (("::", 8, 0, 0), " http://[::1]:8/detect"),
        (("192.0.2.7", 8), " http://192.0.2.7:8/detect"),
        ("/run/a b", " --unix-socket '/run/a b' http://localhost/detect"),
    ],
)
def test_it_has_the_address_that_is_listened_at(address, end):
    """The line has the listened address, or one that leads there."""
    line = command(DETECTION, make_settings(), "m", address)
    assert line.endswith(end)


def test_it_asks_for_the_token_without_telling_it():
    """The shell puts the token in, not the log."""
    line = command(DETECTION, make_settings(API_TOKEN="s3cret-token"), "m", HERE)
    assert '-H "X-API-Key: $API_TOKEN"' in line
    assert "s3cret" not in line


class Models(list):
    """A registry that changes by hand."""

    def __init__(self):
        self.closed = False
        self.changed = threading.Condition()

    def wait(self, done, timeout_s=None):
        with self.changed:
            self.changed.wait_for(lambda: done(self), timeout_s)

    def put(self, entry):
        with self.changed:
            self.append(entry)
            self.changed.notify_all()

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Entry:
    """One model."""

    def __init__(self, name, state):
        self.name, self.state = name, state
        self.files = SimpleNamespace(kind="detection")


@pytest.fixture
def greeted(caplog):
    """Return a registry with a waiting greeter, and the logged lines."""
    caplog.set_level("INFO")
    models = Models()
    thread = threading.Thread(
        target=greet,
        args=(models, make_settings()),
        kwargs={"address": HERE, "since": 0.0},
    )
    thread.start()
    yield models, thread, caplog
    models.close()
    thread.join()


def test_it_is_told_when_the_first_model_serves(greeted):
    """The line is logged once, not before a model serves."""
    models, thread, log = greeted
    models.put(Entry("bad", State.FAILED))
    models.put(Entry("good", State.READY))
    models.put(Entry("next", State.READY))
    thread.join()
    page, line = log.messages
    assert page == "Open http://127.0.0.1:5000 in a browser"
    assert "modelname=good" in line


def test_it_is_not_told_where_no_model_ever_served(greeted):
    """Without a model the thread ends with the registry."""
    models, thread, log = greeted
    models.put(Entry("bad", State.FAILED))
    models.close()
    thread.join()
    assert log.messages == []


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
def test_the_line_in_the_log_works(folder, uploads, tmp_path):
    """The line works as it is, and its request is counted."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (tmp_path / "photo.jpg").write_bytes(photo())
    token = "s3cret-token"
    with started(
        "app.py",
        folder=folder,
        uploads=uploads,
        tmp_path=tmp_path,
        API_TOKEN=token,
        LOG_FORMAT="json",
    ) as server:
        log = tmp_path / "stderr"
        wait_for(lambda: "try: curl" in log.read_text(), "the line is in the log")
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        (line,) = [event for event in events if event.startswith("try: ")]
        line = re.sub(r"file=@\S+", "file=@photo.jpg", line.removeprefix("try: "))
        environ = {**os.environ, "API_TOKEN": token}
        bearer = {"Authorization": f"Bearer {token}"}
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            check=True,
        )
        assert done.stdout.startswith(b'[{"class":'), done.stdout
        (page,) = [event for event in events if event.startswith("Open ")]
        assert "<html" in httpx.get(page.split()[1], headers=bearer).text
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 400"

        def counted() -> bool:
            nonlocal text
            text = httpx.get(server.url + "/metrics", headers=bearer).text
            served = 'requests_total{model="m",route="/detect",status="200"} 1.0'
            refused = 'requests_total{model="",route="",status="400"} 1.0'
            return served in text and refused in text

        text = ""
        wait_for(counted, "the other door's counts have come")
    (memory,) = re.findall(r'resident_bytes{model="m"} (\S+)', text)
    assert float(memory) > 1 << 20
    assert any("is ready on" in event for event in events)
