"""Gunicorn's options and hooks."""

import importlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from modelserver import web
from modelserver.core.errors import StartError
from modelserver.core.settings import Settings
from modelserver.web.server import config as serving

SECONDS = 60  # nothing here takes as long


def options(**environ):
    """Return the options for a few variables."""
    return serving.options(Settings.from_environ(environ))


def config(**changes):
    """Return gunicorn's configuration: our table, then changes."""
    cfg = Config()
    for name, value in {**options(), **changes}.items():
        cfg.set(name, value)
    return cfg


@pytest.fixture
def descriptors(monkeypatch):
    """Set the limits on open files, as the module sees them; give what it sets."""
    raised = []

    def limit(files, most=None):
        limits = (files, files if most is None else most)
        monkeypatch.setattr(resource, "getrlimit", lambda _what: limits)
        return raised

    monkeypatch.setattr(resource, "setrlimit", lambda _what, new: raised.append(new))
    return limit


class Door:
    """Stands for an app's door, and counts calls."""

    def __init__(self):
        self.started = self.scans = 0
        self.closed = threading.Event()

    def start(self):
        """Count a start."""
        self.started += 1

    def greet(self, address):
        """Note the app's address."""
        self.address = address

    def rescan(self):
        """Count a scan."""
        self.scans += 1

    def close(self):
        """Note the close."""
        self.closed.set()


@pytest.fixture
def door():
    """Return a door whose app a fake worker holds."""
    return Door()


@pytest.fixture
def worker(door):
    """Yield a worker with an app; the process's signal handlers are restored."""
    signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in signals]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SimpleNamespace(
            wsgi=SimpleNamespace(extensions={"modelserver": door}),
            app=SimpleNamespace(),
            sockets=[listener],
        )
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def test_gunicorn_takes_every_option():
    """Each option exists in gunicorn and has a value that it accepts."""
    cfg = config()
    assert cfg.worker_class_str == "modelserver.web.server.worker.Worker"
    assert (cfg.max_requests, cfg.preload_app) == (0, False)
    assert cfg.control_socket_disable is True
    assert cfg.accesslog is None
    cfg.validate()


@pytest.mark.parametrize(
    ("cores", "workers"), [(None, 1), (1, 1), (2, 2), (4, 4), (64, 4)]
)
def test_there_is_a_worker_for_each_core_up_to_four(cores, workers, monkeypatch):
    """Workers hold no models, so that there may be several."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert options()["workers"] == workers


@pytest.mark.parametrize(
    ("environ", "concurrency", "command_line", "workers"),
    [
        pytest.param({"WORKERS": "3"}, "5", "--workers 7", 7, id="command-line"),
        pytest.param({"WORKERS": "3"}, "5", "", 3, id="setting"),
        pytest.param({}, "5", "", 5, id="concurrency"),
        pytest.param({"WORKERS": "0"}, "5", "", 5, id="zero-is-unset"),
        pytest.param({"ISOLATION": "inline"}, "5", "", 1, id="inline"),
        pytest.param({"ISOLATION": "inline", "WORKERS": "2"}, "5", "", 2, id="refused"),
    ],
)
def test_who_says_how_many_workers(
    environ, concurrency, command_line, workers, monkeypatch
):
    """Gunicorn's option wins, then WORKERS, then WEB_CONCURRENCY."""
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", command_line)
    assert serving._application("an app", options(**environ)).cfg.workers == workers


@pytest.mark.parametrize("number", ["many", "-1", "0", "1.5"])
def test_a_wrong_concurrency_is_named(number, monkeypatch):
    """A value of WEB_CONCURRENCY that is no number stops the start."""
    monkeypatch.setenv("WEB_CONCURRENCY", number)
    with pytest.raises(StartError, match="WEB_CONCURRENCY"):
        options()


@pytest.mark.parametrize(
    ("host", "bind", "address"),
    [
        ("127.0.0.1", "127.0.0.1:81", ("127.0.0.1", 81)),
        ("localhost", "localhost:81", ("localhost", 81)),
        ("::1", "[::1]:81", ("::1", 81)),
    ],
)
def test_bind_is_host_and_port(host, bind, address):
    """HOST and PORT are where gunicorn listens; IPv6 goes into brackets."""
    table = options(HOST=host, PORT="81")
    assert table["bind"] == bind
    assert config(bind=table["bind"]).address == [address]


@pytest.mark.parametrize(
    ("request_s", "graceful_s"), [("30", 35), ("1", 35), ("30.5", 36), ("120", 125)]
)
def test_an_end_waits_for_longer_than_a_request_may_take(request_s, graceful_s):
    """An end waits longer than a request may take."""
    assert options(REQUEST_TIMEOUT_S=request_s)["graceful_timeout"] == graceful_s


def test_there_are_many_more_threads_than_runs(descriptors):
    """Threads suffice for two models with full queues, and 16 more."""
    descriptors(100_000)
    table = options(SLOTS="4", QUEUE_LENGTH="50")
    assert table["threads"] == 2 * (4 + 50) + 16
    assert table["worker_connections"] == 1000


def test_slots_default_to_cores(descriptors, monkeypatch):
    """Automatic slots are counted as cores, one at least."""
    descriptors(100_000)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert options(QUEUE_LENGTH="50")["threads"] == 2 * (1 + 50) + 16


def test_threads_can_be_set(descriptors):
    """THREADS wins, and connections grow with it."""
    descriptors(resource.RLIM_INFINITY)
    table = options(THREADS="500")
    assert (table["threads"], table["worker_connections"]) == (500, 1000)


@pytest.mark.parametrize("files", [3, 64, 256, 1024, 4096])
def test_connections_leave_descriptors_free(descriptors, files):
    """Connections stay under half of the files that may be open, threads below them."""
    descriptors(files)
    table = options(THREADS="4000")
    assert table["worker_connections"] < max(files / 2, 3)
    assert 1 <= table["threads"] < table["worker_connections"]


@pytest.mark.parametrize(
    ("limits", "raised", "connections"),
    [
        ((1024, 20_000), [(4096, 20_000)], 1000),
        ((256, 1024), [(1024, 1024)], 511),
        ((1024, resource.RLIM_INFINITY), [(4096, resource.RLIM_INFINITY)], 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), [], 1000),
        ((8192, 8192), [], 1000),
    ],
)
def test_a_soft_limit_on_files_is_raised(limits, raised, connections, descriptors):
    """The soft limit on files is raised up to the hard one."""
    set_to = descriptors(*limits)
    assert options()["worker_connections"] == connections
    assert set_to == raised


def test_without_memory_files_gunicorn_chooses(monkeypatch, tmp_path):
    """The worker's heartbeat file lies in memory if the machine can."""
    monkeypatch.setattr(serving, "_MEMORY", tmp_path)
    assert options()["worker_tmp_dir"] == str(tmp_path)
    monkeypatch.setattr(serving, "_MEMORY", tmp_path / "none")
    assert options()["worker_tmp_dir"] is None


@pytest.mark.parametrize(
    ("argv", "port"),
    [
        (["gunicorn", "app:app"], 5000),
        (["gunicorn", "app_classify:app"], 5432),
        (["gunicorn", "--threads", "9", "app_classify"], 5432),
        (["gunicorn"], 5000),
    ],
)
def test_the_app_decides_the_port(argv, port, monkeypatch):
    """Gunicorn's configuration finds the default port by the app on the command line."""
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.delenv("HOST", raising=False)
    assert serving.configuration(argv)["bind"] == f"127.0.0.1:{port}"


def test_a_bad_setting_is_one_sentence(monkeypatch, capsys):
    """A bad value ends gunicorn with one line, without a traceback."""
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(SystemExit) as caught:
        serving.configuration(["gunicorn", "app:app"])
    assert caught.value.code == serving.START_FAILED
    err = capsys.readouterr().err
    assert err.startswith("modelserver: PORT='http' is not allowed")
    assert err.count("\n") == 1


def test_without_stderr_the_code_remains(monkeypatch):
    """A failed start with stderr closed still ends with its code."""
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as caught, serving.start_errors():
        raise StartError("no")
    assert caught.value.code == serving.START_FAILED


def test_ctrl_c_at_the_start_ends_it_without_a_traceback(capsys):
    """With the code that a shell gives it."""
    with pytest.raises(SystemExit) as caught, serving.start_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == ""


def test_other_errors_pass():
    """Only errors of the start become sentences; a bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError), serving.start_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"preload_app": True}, "--preload", id="preload"),
        pytest.param({"worker_class": "sync", "threads": 1}, "'sync'", id="class"),
        pytest.param({"certfile": "x"}, "a proxy in front", id="certificate"),
        pytest.param({"protocol": "uwsgi"}, "HTTP/1.1 alone", id="protocol"),
        pytest.param({"http2_cleartext": "both"}, "HTTP/1.1 alone", id="HTTP/2"),
        pytest.param({"keyfile": "x"}, "a proxy in front", id="key"),
        pytest.param({"bind": "0.0.0.0:1"}, "API_TOKEN", id="everywhere"),
        pytest.param({"bind": ":1"}, "every address", id="no-host"),
        pytest.param({"bind": ["127.0.0.1:1", "[::]:1"]}, "::", id="second"),
    ],
)
def test_what_is_refused(changes, words):
    """Options that double the models or let strangers in are refused."""
    with pytest.raises(StartError, match=words.replace("[", r"\[")):
        serving.check(config(**changes), {})


def test_several_workers_are_refused_where_each_would_hold_every_model():
    """With ISOLATION=inline there is no engine for them to share."""
    with pytest.raises(StartError, match="2 workers are refused with ISOLATION"):
        serving.check(config(workers=2), {"ISOLATION": "inline"})
    serving.check(config(workers=1), {"ISOLATION": "inline"})


@pytest.mark.parametrize(
    ("changes", "environ"),
    [
        ({}, {}),
        ({"workers": 9, "max_requests": 100}, {}),
        ({"bind": "unix:/tmp/x"}, {}),
        ({"bind": "fd://7"}, {}),
        ({"bind": "0.0.0.0:1"}, {"API_TOKEN": "x"}),
        ({"bind": "0.0.0.0:1"}, {"ALLOW_ANONYMOUS": "true"}),
    ],
)
def test_what_is_let_through(changes, environ):
    """Loopback, Unix sockets and descriptors pass; other hosts with leave."""
    serving.check(config(**changes), environ)


def fake_arbiter(**changes):
    """Return an arbiter with a configuration and a log that keeps its lines."""
    lines = []
    log = SimpleNamespace(warning=lines.append)
    return SimpleNamespace(
        app=SimpleNamespace(),
        cfg=config(**changes),
        log=log,
        lines=lines,
        num_workers=2,
    )


def test_the_first_hook_checks(capsys):
    """The check runs when gunicorn first hears of its number of workers."""
    with pytest.raises(SystemExit):
        serving._check_workers(fake_arbiter(preload_app=True), 1, None)
    assert "--preload" in capsys.readouterr().err


def test_the_check_sees_gunicorns_variables():
    """A token given by gunicorn's --env counts."""
    arbiter = fake_arbiter(bind="0.0.0.0:1", raw_env=["API_TOKEN=x"])
    serving._check_workers(arbiter, 1, None)


def test_a_second_worker_is_let_in_where_there_is_an_engine():
    """SIGTTIN adds a worker that holds no model."""
    arbiter = fake_arbiter()
    arbiter.app.engine = object()
    serving._check_workers(arbiter, 2, 1)
    assert (arbiter.num_workers, arbiter.lines) == (2, [])


def test_a_second_worker_is_refused_where_it_would_hold_every_model():
    """SIGTTIN changes nothing but the log."""
    arbiter = fake_arbiter()
    serving._check_workers(arbiter, 2, 1)
    assert arbiter.num_workers == 1
    assert "second worker" in arbiter.lines[0]


def test_a_port_in_use_is_one_sentence(capsys):
    """A port that another server has ends the start at once."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arbiter = fake_arbiter(bind=f"127.0.0.1:{port}")
        with pytest.raises(SystemExit):
            serving._check_addresses_are_free(arbiter)
    assert f"Cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_a_free_port_passes():
    """Free ports pass, of both families; Unix sockets are not tried."""
    binds = ["127.0.0.1:0", "unix:/tmp/x"]
    if socket.has_ipv6:
        binds.append("[::1]:0")
    serving._check_addresses_are_free(fake_arbiter(bind=binds))


@pytest.mark.parametrize("name", ["GUNICORN_FD", "LISTEN_FDS"])
def test_inherited_sockets_are_not_tried(name, monkeypatch):
    """Ports of inherited sockets are in use, and are not tried."""
    monkeypatch.setenv(name, "3")
    with socket.create_server(("127.0.0.1", 0)) as ours:
        bind = f"127.0.0.1:{ours.getsockname()[1]}"
        serving._check_addresses_are_free(fake_arbiter(bind=bind))


def test_what_really_listens_is_checked(monkeypatch, capsys):
    """A descriptor for a socket that strangers reach is refused, a local one is not."""
    for name in ("API_TOKEN", "ALLOW_ANONYMOUS"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as ours:
        serving._check_listeners(SimpleNamespace(LISTENERS=[ours]))
    with socket.create_server(("0.0.0.0", 0)) as theirs, pytest.raises(SystemExit):
        serving._check_listeners(SimpleNamespace(LISTENERS=[theirs]))
    assert "0.0.0.0" in capsys.readouterr().err


def test_models_start_in_the_worker(worker, door):
    """The worker starts the models, and leaves Ctrl-C to the arbiter."""
    serving._start_models(worker)
    assert door.started == 1
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert door.address == worker.sockets[0].getsockname()
    signal.raise_signal(signal.SIGHUP)
    assert door.scans == 1


def test_models_close_at_once_when_interrupted(worker, door):
    """SIGQUIT closes the models from a thread; a second one does nothing."""
    serving._close_on_demand(worker)
    assert not door.closed.is_set()
    serving._close_models(worker)
    assert door.closed.wait(SECONDS)
    signal.raise_signal(signal.SIGQUIT)


def test_a_worker_without_an_app_closes_nothing(worker, door):
    """A worker that is stopped before it has started its models just ends."""
    serving._close_models(worker)
    assert not door.closed.is_set()


def test_windows_is_told_about_wsl(monkeypatch):
    """On Windows one sentence says where the server runs, before all imports."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="WSL2"):
        importlib.reload(web)


def test_the_application_serves_the_app_that_is_there(monkeypatch, tmp_path):
    """Gunicorn gets the very app, our table, and what GUNICORN_CMD_ARGS changes."""
    extra = tmp_path / "extra.py"
    extra.write_text("keepalive = 7\nthreads = 3\n")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--threads 9 --config {extra}")
    front = serving._application("an app", options(PORT="81"))
    assert front.load() == "an app"
    assert front.cfg.address == [("127.0.0.1", 81)]
    assert (front.cfg.threads, front.cfg.keepalive, front.cfg.backlog) == (9, 7, 1024)


def test_gunicorn_logs_our_way(capsys):
    """Gunicorn's lines, the access log's too, have the format of all others."""
    table = options(LOG_FORMAT="json")
    logger = table["logger_class"]()(config(accesslog="-"))
    logger.info("hello")
    logger.access_log.info("GET /")
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line)["event"] for line in err.splitlines()] == [
        "hello",
        "GET /",
    ]


def test_gunicorns_routine_is_set_aside_by_its_exact_words(capsys):
    """Its start is of level debug; its warnings, and what is new, are not."""
    table = options(LOG_FORMAT="json")
    logger = table["logger_class"]()(config())
    logger.info("Booting worker with pid: %s", 5)
    logger.info("Booting something new")
    logger.warning("Using worker: %s", "w")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["debug", "info", "warning"]
    assert lines[0]["event"] == "Booting worker with pid: 5"


def test_log_files_stay_gunicorns(tmp_path):
    """Log files that the operator gave gunicorn are used."""
    access, errors = tmp_path / "access.log", tmp_path / "errors.log"
    cfg = config(accesslog=str(access), errorlog=str(errors))
    logger = options()["logger_class"]()(cfg)
    logger.info("hello")
    logger.access_log.info("GET /")
    assert "hello" in errors.read_text()
    assert "GET /" in access.read_text()


@pytest.fixture(autouse=True)
def loggers():
    """Give the loggers back as they were, and close their files."""
    mine = [logging.getLogger(n) for n in (None, "gunicorn.error", "gunicorn.access")]
    before = [(log.handlers[:], log.level, log.propagate) for log in mine]
    yield
    for log, (handlers, level, propagate) in zip(mine, before, strict=True):
        for handler in set(log.handlers) - set(handlers):
            if isinstance(handler, logging.FileHandler):
                handler.close()
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
