"""Real servers around a stand-in app, started both ways."""

import http.client
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelserver.core.errors import START_FAILED

ROOT = Path(__file__).parents[2]
SECONDS = 60  # nothing here takes as long
pytestmark = pytest.mark.real


class Server:
    """A real server around the stand-in app.

    Its stderr is read line by line and kept; both pipes end when all processes have.
    """

    def __init__(self, command, folder, cwd=None, **environ):
        shutil.copy(ROOT / "gunicorn.conf.py", folder)
        shutil.copy(ROOT / "tests" / "support" / "standin.py", folder / "app.py")
        # One process: the app is all that is looked at here.
        variables = {
            "ISOLATION": "inline",
            "PORT": "0",
            "LOG_FORMAT": "text",
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd or folder,
            env={**os.environ, **variables, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.errors = ""

    def until(self, words):
        """Read stderr up to a line with these words; give that line."""
        for line in self.process.stderr:
            self.errors += line
            if words in line:
                return line
        pytest.fail(f"no {words!r} in {self.errors}")

    def said(self):
        """Read one line of stdout."""
        return self.process.stdout.readline().strip()

    def get(self, path):
        """GET a path; give the response and its text."""
        if not hasattr(self, "port"):
            self.port = int(self.until("Listening at").split(":")[-1].split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response, text

    def ask(self, path):
        """GET a path from a thread; give the thread and the list for its text."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.get(path)[1]))
        thread.start()
        return thread, answers

    def end(self):
        """Wait for the end of all processes; give the code and stdout's rest."""
        out, err = self.process.communicate(timeout=SECONDS)
        self.errors += err
        return self.process.returncode, out


BOTH = pytest.mark.parametrize(
    "command",
    [["app.py"], ["-m", "gunicorn", "app:app"]],
    ids=["python", "gunicorn"],
)


@pytest.fixture
def start(tmp_path):
    """Start servers, and kill what is left of them."""
    servers = []

    def start(command, **more):
        servers.append(Server(command, tmp_path, **more))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.communicate()


@BOTH
def test_a_server_answers(start, command):
    """Both ways listen on loopback, answer from the worker and keep quiet about us."""
    server = start(command)
    response, pid = server.get("/pid")
    assert server.said() == f"started in {pid}"
    assert int(pid) != server.process.pid
    assert response.getheader("Server") == "gunicorn"
    assert "http://127.0.0.1:" in server.errors


@BOTH
def test_sigterm_lets_requests_finish(start, command, tmp_path):
    """At SIGTERM a request in flight gets its answer, then the models are closed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    server = start(command, FIFO=str(fifo))
    _, pid = server.get("/pid")
    thread, answers = server.ask("/hold")
    assert server.said() == f"started in {pid}"
    assert server.said() == "holding"
    server.process.terminate()
    server.until("Handling signal: term")
    fifo.write_text("the answer")
    thread.join(SECONDS)
    code, out = server.end()
    assert (code, answers) == (0, ["the answer"])
    assert f"closed in {pid}" in out
    assert "Traceback" not in server.errors


@BOTH
def test_ctrl_c_ends_quietly(start, command):
    """Ctrl-C, even twice, closes the models, which frees requests that wait for them."""
    server = start(command)
    _, pid = server.get("/pid")
    thread, answers = server.ask("/wait")
    assert server.said() == f"started in {pid}"
    assert server.said() == "waiting"
    os.killpg(server.process.pid, signal.SIGINT)
    os.killpg(server.process.pid, signal.SIGINT)
    thread.join(SECONDS)
    code, out = server.end()
    assert (code, answers) == (0, ["closed"])
    assert f"closed in {pid}" in out
    assert "Traceback" not in server.errors
    assert "was sent SIGKILL" not in server.errors


@BOTH
def test_a_worker_does_not_outlive_its_arbiter(start, command):
    """When the arbiter is killed, the worker sees it, closes the models and ends."""
    server = start(command)
    _, pid = server.get("/pid")
    server.process.kill()
    _, out = server.end()
    assert f"closed in {pid}" in out


def test_sigttin_starts_no_worker(start):
    """Asking a running gunicorn for a worker more is refused in the log."""
    server = start(["app.py"])
    server.get("/pid")
    server.process.send_signal(signal.SIGTTIN)
    server.until("a second worker was refused")
    server.process.terminate()
    code, out = server.end()
    assert (code, out.count("started in")) == (0, 1)


@BOTH
@pytest.mark.parametrize(
    ("environ", "words"),
    [
        pytest.param({"HOST": "0.0.0.0"}, "API_TOKEN", id="host"),
        pytest.param({"GUNICORN_CMD_ARGS": "-b :5001"}, "API_TOKEN", id="bind"),
        pytest.param({"GUNICORN_CMD_ARGS": "--preload"}, "Preloading", id="preload"),
        pytest.param({"GUNICORN_CMD_ARGS": "-w 2"}, "2 workers", id="workers"),
        pytest.param({"GUNICORN_CMD_ARGS": "--certfile x"}, "TLS is", id="certfile"),
        pytest.param({"GUNICORN_CMD_ARGS": "--keyfile x"}, "TLS is", id="keyfile"),
        pytest.param({"GUNICORN_CMD_ARGS": "-c tls.py"}, "TLS is", id="own-file"),
        pytest.param({"MIN_CONFIDENCE": "2"}, "MIN_CONFIDENCE='2'", id="setting"),
    ],
)
def test_a_refused_start(start, command, environ, words, tmp_path):
    """What is refused ends both ways with one line, before anything listens."""
    own = (ROOT / "gunicorn.conf.py").read_text() + 'certfile = keyfile = "x.pem"'
    (tmp_path / "tls.py").write_text(own)
    server = start(command, **environ)
    code, out = server.end()
    assert code == START_FAILED
    assert server.errors.startswith("modelserver: ")
    assert words in server.errors
    assert server.errors.count("\n") == 1
    assert "started" not in out


@pytest.mark.parametrize(
    "options", ["-b 0.0.0.0:5001", "--preload", "-w 3", "--certfile x --keyfile y"]
)
def test_a_refused_command_line(start, options):
    """The same goes for gunicorn's own command line."""
    server = start(["-m", "gunicorn", *shlex.split(options), "app:app"])
    assert server.end()[0] == START_FAILED
    assert server.errors.count("\n") == 1


@BOTH
@pytest.mark.parametrize("fault", ["FAIL_APP", "FAIL_START"])
def test_a_failed_start(start, command, fault):
    """An app or models that cannot start end the server, not in a circle of workers."""
    server = start(command, **{fault: "1"})
    code, out = server.end()
    assert code == START_FAILED
    assert server.errors.count("modelserver: The") == 1
    assert "Traceback" not in server.errors
    assert "started" not in out


def test_the_folder_does_not_matter(start, tmp_path):
    """``python app.py`` works from any folder, also beside a foreign gunicorn.conf.py."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "gunicorn.conf.py").write_text("raise RuntimeError('foreign')")
    server = start([str(tmp_path / "app.py")], cwd=elsewhere)
    _, pid = server.get("/pid")
    assert server.said() == f"started in {pid}"
