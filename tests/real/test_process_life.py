"""Signals, killed workers, full disks for logs and wrong starts, on real servers."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modelserver.core.errors import START_FAILED
from support import tiny_graphs
from support.app_client import photo
from support.repeating import Repeating
from support.servers import (
    SECONDS,
    alive,
    children,
    command,
    engine,
    started,
    wait_for,
)

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
MODELS = ("one", "two", "three")
TO_A_FULL_DISK = (
    "import os, runpy, sys; full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1);"
    " sys.argv = ['app.py']; runpy.run_path('app.py', run_name='__main__')"
)
UNDER_A_LIMIT = (
    "import resource, runpy, sys; limit = getattr(resource, sys.argv[1]);"
    " resource.setrlimit(limit, (int(sys.argv[2]),) * 2);"
    " sys.argv = ['app.py']; runpy.run_path('app.py', run_name='__main__')"
)


@pytest.fixture
def echo(folder):
    """A model folder with an echoing detector."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    return folder


class Load(Repeating):
    """Clients that ask again and again.

    Attributes:
        statuses: of all requests; 0 where a connection was not taken or broke.
        clients: how many there are.
    """

    def __init__(self, server, clients=4):
        super().__init__(clients)
        self.statuses = []
        self.clients = clients
        self._server = server

    def ask(self):
        """Ask once, and note the status."""
        try:
            answer = self._server.post("/detect", "echo", photo())
        except httpx.TransportError:
            self.statuses.append(0)
        else:
            self.statuses.append(answer.status_code)

    def good(self):
        """How many were answered with 200."""
        return self.statuses.count(200)


def test_sigterm_under_load_loses_no_request_that_was_taken(echo, uploads, tmp_path):
    """Each evaluation that was made reached its client; the end is a clean one."""
    with started("app.py", folder=echo, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        family = server.descendants()
        with Load(server) as load:
            wait_for(lambda: load.good() > 50, "it is under load")
            assert server.end() == 0
        evaluated = server.stdout.count("echo ")
    assert load.good() == evaluated
    assert set(load.statuses) <= {200, 503, 0}
    wait_for(lambda: not any(map(alive, family)), "all are gone")


def test_a_killed_door_is_replaced(echo, uploads, tmp_path):
    """Its own requests fail; engine, model and the other door do not notice."""
    with started(
        "app.py", folder=echo, uploads=uploads, tmp_path=tmp_path, WORKERS=2
    ) as server:
        server.wait()
        wait_for(lambda: len(server.doors()) == 2, "both are there")
        (killed, other), engine = server.doors(), server.engine()
        runners = server.runners()
        with Load(server) as load:
            wait_for(lambda: load.good() > 20, "it is under load")
            os.kill(killed, signal.SIGKILL)
            before = len(load.statuses)
            wait_for(lambda: load.good() > before + 20, "it serves on")
            wait_for(
                lambda: len(doors := server.doors()) == 2 and killed not in doors,
                "there is another",
            )
        assert set(load.statuses) <= {200, 0}
        # Each client had one request at a time.
        assert load.statuses.count(0) <= load.clients
        assert other in server.doors()
        assert (server.engine(), server.runners()) == (engine, runners)
        assert server.end() == 0


def test_a_killed_engine_is_replaced(echo, uploads, tmp_path):
    """No photo is answered until the model is loaded again; the doors live on."""
    with started("app.py", folder=echo, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        doors, engine, runners = server.doors(), server.engine(), server.runners()
        with Load(server) as load:
            wait_for(lambda: load.good() > 20, "it is under load")
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda: 503 in load.statuses, "photos are refused")
            assert httpx.get(server.url + "/livez", timeout=10).status_code == 200
            good = load.good()
            wait_for(lambda: load.good() > good + 20, "it serves again")
        assert set(load.statuses) == {200, 503}
        assert (server.doors(), server.engine() == engine) == (doors, False)
        wait_for(lambda: not any(map(alive, runners)), "the old runner is gone")
        assert server.end() == 0


@pytest.mark.parametrize("second", [signal.SIGQUIT, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_requests(second, folder, uploads, tmp_path):
    """SIGTERM lets a long run finish; who insists does not wait for it."""
    tiny_graphs.write(folder / "slow.frozen.pb", tiny_graphs.slow_detector(8.0))
    answers = []

    def ask():
        try:
            answers.append(server.post("/detect", "slow", photo()).status_code)
        except httpx.TransportError:
            answers.append(0)

    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        client = threading.Thread(target=ask)
        client.start()
        wait_for(server.uploads, "the photo is there")
        server.process.terminate()
        log = tmp_path / "stderr"
        wait_for(lambda: "Handling signal: term" in log.read_text(), "it is heard")
        server.end(second)
        client.join(SECONDS)
    assert answers[0] != 200


def run(*arguments, **environ):
    """Start an app that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environ.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def test_a_port_in_use_ends_the_start_with_a_line(folder, uploads):
    """The port is named, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("app.py", PORT=port, MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads)
    assert done.returncode == START_FAILED
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("modelserver: ")
    assert f"port {port}" in last


@pytest.mark.parametrize(
    ("limit", "value", "option"),
    [
        ("RLIMIT_FSIZE", 1 << 20, "-f"),
        ("RLIMIT_NOFILE", 32, "-n"),
        ("RLIMIT_AS", 1 << 30, "-v"),
    ],
)
def test_a_limit_that_is_too_low_ends_the_start_with_a_line(
    limit, value, option, folder, uploads
):
    """It is named, with what to do; the models would only fail one by one."""
    words = ("-c", UNDER_A_LIMIT, limit, value)
    done = run(*map(str, words), PORT=0, MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads)
    assert done.returncode == START_FAILED
    last = done.stderr.splitlines()[-1]
    assert last.startswith("modelserver: A ")
    assert f"(ulimit {option}, " in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("app", ["app.py", "app_classify.py"])
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--port=1", 2)])
def test_arguments_are_answered_and_nothing_is_started(
    app, argument, code, folder, uploads
):
    """An app takes settings from the environment only, and says so."""
    done = run(app, argument, PORT=0, MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads)
    assert done.returncode == code
    text = done.stderr if code else done.stdout
    assert text.startswith(f"usage: {app}")
    assert argument in text if code else "docs/settings.md" in text
    assert "Listening" not in done.stderr


def test_a_model_folder_without_a_parent_ends_the_start_with_a_line(uploads, tmp_path):
    """It can only be a mistake; and a setting's name that is one is pointed out."""
    folder = tmp_path / "not" / "here"
    done = run(
        "app.py",
        PORT=0,
        MODEL_FOLDER=folder,
        UPLOAD_FOLDER=uploads,
        MIN_CONFIDENSE=0.5,
        LOG_FORMAT="text",
    )
    assert done.returncode == START_FAILED
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"modelserver: MODEL_FOLDER={str(folder)!r} is not there")
    assert "Listening" not in done.stderr


def test_a_model_folder_that_comes_later_is_waited_for(uploads, tmp_path):
    """The log says so, and a misspelled setting's right name; models are found then."""
    folder = tmp_path / "later"
    with started(
        "app.py",
        folder=folder,
        uploads=uploads,
        tmp_path=tmp_path,
        MIN_CONFIDENSE=0.5,
        RELOAD_S=0.2,
    ) as server:
        log = tmp_path / "stderr"
        wait_for(lambda: "is waited for" in log.read_text(), "it is said")
        assert "MIN_CONFIDENSE is set, and is no setting" in log.read_text()
        folder.mkdir()
        tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
        server.wait()


@pytest.mark.parametrize(
    "arguments", [["app.py"], ["app_classify.py"], ["-m", "modelserver"]]
)
def test_missing_packages_end_the_start_with_a_line(arguments):
    """The line names one, the Python that lacks it, and the commands that help."""
    done = run("-S", "-E", *arguments)
    assert done.returncode == START_FAILED
    (line,) = done.stderr.splitlines()
    assert re.match(r"modelserver: The package \w+ is not installed for /", line)
    assert "script/server" in line
    assert "pip install -r requirements-cpu.txt" in line


@pytest.mark.parametrize("app", ["app.py", "app_classify.py", "-mmodelserver"])
def test_an_old_python_ends_the_start_with_a_line(app):
    """The line says which it is, and which will do."""
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 18, 'final', 0);"
        f" sys.argv = [{app!r}];"
        " runpy.run_module('modelserver', run_name='__main__', alter_sys=False)"
        f" if {app!r}[0] == '-' else runpy.run_path({app!r}, run_name='__main__')"
    )
    done = run("-c", code)
    assert done.returncode == START_FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith("modelserver: Python 3.9 (")
    assert "3.10 to 3.13" in line


def test_an_upload_folder_that_cannot_be_made_ends_the_start(folder, tmp_path):
    """A file where the folder should be."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    done = run("app.py", PORT=0, MODEL_FOLDER=folder, UPLOAD_FOLDER=file / "pics")
    assert done.returncode == START_FAILED
    assert done.stderr.count("modelserver: UPLOAD_FOLDER") == 1
    assert "Traceback" not in done.stderr


def test_a_full_disk_for_stdout_stops_nothing(echo, uploads, tmp_path):
    """What cannot be printed is lost; photos are answered."""
    with started(
        "-c", TO_A_FULL_DISK, folder=echo, uploads=uploads, tmp_path=tmp_path, DEBUG=1
    ) as server:
        server.wait()
        for _ in range(20):
            assert server.post("/detect", "echo", photo()).status_code == 200
        assert server.post("/detect", "nobody", photo()).status_code == 404
        server.process.terminate()
        assert server.process.wait(SECONDS) in (0, 120)  # Python's own last flush


@pytest.mark.parametrize("where", ["full", "closed"])
def test_a_log_that_cannot_be_written_stops_nothing(where, echo, uploads, tmp_path):
    """Neither a full disk nor a closed stderr."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    change = ">/dev/full 2>&1" if where == "full" else ">&- 2>&-"
    variables = {"MODEL_FOLDER": echo, "UPLOAD_FOLDER": uploads, "PORT": port}
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" app.py {change}', sys.executable],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(
            lambda: status(url + "/readyz") == 200 or ended(process), "it is ready"
        )
        files = {"file": photo()}
        for _ in range(20):
            answer = httpx.post(
                url + "/detect",
                data={"modelname": "echo"},
                files=files,
                timeout=SECONDS,
            )
            assert answer.status_code == 200
        # A runner's end is logged, or would be.
        family = children(process.pid)
        (runner,) = (
            pid
            for pid in children(engine(process.pid))
            if b"modelserver.runner" in command(pid)
        )
        os.kill(runner, signal.SIGKILL)
        wait_for(lambda: not alive(runner), "it is gone")
        wait_for(lambda: status(url + "/readyz") == 200, "it is back")
        assert children(process.pid) == family
    finally:
        process.terminate()
        process.wait(SECONDS)


def status(url):
    """The status of an answer; 0 where there is none."""
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.TransportError:
        return 0


def settled(url):
    """Whether a server answers and none of its models loads."""
    if not status(url + "/livez"):
        return False
    return "LOADING" not in httpx.get(url + "/readyz", timeout=10).text


def ended(process):
    """Whether a process has ended, which is no use waiting for."""
    assert process.poll() is None, "the server has ended"
    return False


@pytest.mark.parametrize(
    "times", [20, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_answers_at_once_are_the_answers_one_by_one(times, folder, uploads, tmp_path):
    """Eight threads, sixteen photos and three models: none gets another's answer."""
    for model in MODELS:
        tiny_graphs.write(folder / f"{model}.frozen.pb", graph(model))
    photos = [
        photo((16 * n, 255 - 16 * n, 8 * n), (20 + 7 * n, 90 - 5 * n))
        for n in range(16)
    ]
    cases = list(itertools.product(MODELS, photos))
    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        expected = [ask(server, case) for case in cases]
        assert len(set(expected)) == len(cases)
        with ThreadPoolExecutor(8) as clients:
            order = [(7 * number) % len(cases) for number in range(8 * times)]
            found = list(clients.map(lambda n: ask(server, cases[n]), order))
    assert found == [expected[n] for n in order]


def graph(model):
    """A detector whose class ids tell which model it is."""
    extra = 100 * MODELS.index(model)
    return tiny_graphs.echo_detector(classes=lambda classes: classes + extra)


def ask(server, case):
    """The answer's bytes; a queue that is full is asked again."""
    while True:
        answer = server.post("/detect", *case)
        if answer.status_code != 503:
            assert answer.status_code == 200
            return answer.content
