"""How gunicorn runs an app: one table for ``python app.py`` and ``gunicorn app:app``.

``python app.py`` calls ``serve``; ``gunicorn`` reads ``gunicorn.conf.py`` from the
current folder, which takes the same table. The arbiter process listens and watches; its
one worker answers with many threads and starts the models. ``GUNICORN_CMD_ARGS`` works
for both ways, within what ``check`` allows.

gunicorn is imported inside functions: on Windows it cannot be, and this module must say
so in a sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelserver import __version__
from modelserver.core import background_stream, logs
from modelserver.core.errors import START_FAILED, SettingError, StartError
from modelserver.core.process_limits import end_with_parent, give_freed_memory_back
from modelserver.core.settings import Settings, near_misses
from modelserver.engine import admission, startup_hint, system_limits
from modelserver.tasks import DETECTION, TASKS
from modelserver.web.server import engine_keeper, served_tasks
from modelserver.web.server.engine_keeper import EngineKeeper
from modelserver.web.server.grpc_keeper import GrpcKeeper, check_packages
from modelserver.web.server.spread import Board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flask import Flask
    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config
    from gunicorn.workers.base import Worker

log = logging.getLogger(__name__)

_MIN_CONNECTIONS = 1000
_MOST_WORKERS = 4
_FILES = 4096
_STDERR = 2
# As a shell calls a program that Ctrl-C ended.
_INTERRUPTED = 128 + signal.SIGINT
# Lines of gunicorn's, by its own words, about what nobody asked for.
_ROUTINE = frozenset(
    {
        "Starting gunicorn %s",
        "Listening at: %s (%s)",
        "Using worker: %s",
        "Booting worker with pid: %s",
        "Worker exiting (pid: %s)",
    }
)
_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn makes a safe name in it


@contextlib.contextmanager
def start_errors() -> Iterator[None]:
    """Turn a ``StartError`` into one sentence on stderr and the end of the process.

    Ctrl-C ends it without one.
    """
    try:
        yield
    except StartError as error:
        _stop(error)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _stop(reason: object) -> NoReturn:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr closed
        sys.stderr.write(f"modelserver: {logs.escape(str(reason))}\n")
        sys.stderr.flush()
    # gunicorn stops at a worker's end with this code instead of starting the next one.
    raise SystemExit(START_FAILED)


def serve(
    app: Flask, default_port: int, arguments: Sequence[str] | None = None
) -> None:
    """Run gunicorn in this very process until it is told to stop.

    Args:
        app: from ``create_app``; it is served as it is, nothing is imported again.
        default_port: used if ``PORT`` is unset.
        arguments: of the command line, of which only ``--help`` is known; this
            process's own when not given.

    Raises:
        SystemExit: always, with gunicorn's exit code.
    """
    _answer_arguments(default_port, arguments)
    _keep_standard_descriptors()
    with start_errors(), contextlib.suppress(KeyboardInterrupt):
        settings = Settings.from_environ(port=default_port)
        tasks = partial(served_tasks.of_app, app)
        _application(app, options(settings, tasks)).run()


def _answer_arguments(default_port: int, arguments: Sequence[str] | None) -> None:
    """End the process if the command line asks for something."""
    parser = argparse.ArgumentParser(
        description=f"Serve models over HTTP, on 127.0.0.1 and port {default_port}.",
        epilog="Settings are variables of the environment: MODEL_FOLDER=/models PORT=80"
        " and so on; docs/settings.md has all.",
        allow_abbrev=False,
    )
    parser.parse_args(arguments)


def _keep_standard_descriptors() -> None:
    """Open those of descriptors 0 to 2 that were closed.

    A socket of ours that got one of these numbers would be taken for a standard stream
    by every process that is started.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(opened, True)  # noqa: FBT003 - has no other way
    os.close(opened)


def _application(app: Flask, table: Mapping[str, Any]) -> Any:
    from gunicorn.app.base import Application  # noqa: PLC0415 - see the module's words

    class Served(Application):  # type: ignore[misc] # gunicorn has no types
        """Gunicorn's own application, around an app that is there already."""

        def load_config(self) -> None:
            for name, value in table.items():
                self.cfg.set(name, value)
            given = self.cfg.parser().parse_args(self.cfg.get_cmd_args_from_env())
            if given.config:
                self.load_config_from_file(given.config)
            for name, value in vars(given).items():
                if value is not None and name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Flask:
            return app

    return Served()


def configuration(argv: Sequence[str]) -> dict[str, Any]:
    """Return the table for ``gunicorn.conf.py``, or end the process with a sentence.

    Args:
        argv: the command line. A configuration file is read before gunicorn knows the
            app, so the default of ``PORT`` is taken from the app's name in there.
    """
    modules = {word.partition(":")[0] for word in argv}
    named = (t for t in TASKS.values() if t.app.removesuffix(".py") in modules)
    endpoint = next(named, DETECTION).endpoint
    with start_errors():
        return options(Settings.from_environ(port=endpoint.port))


def options(
    settings: Settings, tasks: Callable[[], list[str] | None] | None = None
) -> dict[str, Any]:
    """Return gunicorn's options: the same for both ways to start.

    Args:
        settings: the server's.
        tasks: tells which the app serves, as ``served_tasks.of_app`` does; if not
            given, gunicorn's app is asked.
    """
    threads, connections = _threads_and_connections(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": "modelserver.web.server.worker.Worker",  # gthread, and more
        "workers": _workers(settings),
        "threads": threads,
        "worker_connections": connections,
        "backlog": 1024,
        "timeout": 120,  # of the worker's main loop, not of a request
        # Longer than a request may take.
        "graceful_timeout": max(35, math.ceil(settings.request_timeout_s) + 5),
        "keepalive": 5,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "limit_request_line": 2048,
        "limit_request_fields": 50,
        "limit_request_field_size": 4096,
        "forwarded_allow_ips": "127.0.0.1",
        # Nothing may say by a header that the server's paths begin elsewhere: a proxy's
        # rules for /metrics would not see it.
        "forwarder_headers": "",
        "accesslog": None,
        # The worker's sign of life is a file's time: a slow disk would kill it.
        "worker_tmp_dir": str(_MEMORY) if _MEMORY.is_dir() else None,
        "logger_class": lambda: _logger_class(settings),
        "nworkers_changed": _check_workers,
        "on_starting": partial(_prepare, settings, tasks),
        "when_ready": _announce,
        "child_exit": _clear_seat,
        "post_fork": partial(_never_wait_for_readers, settings),
        "post_worker_init": _start_models,
        "worker_int": _close_models,
    }


def _has_engine(settings: Settings) -> bool:
    """Return whether models are to be served from a process of their own."""
    return engine_keeper.ENGINE_PROCESS and settings.isolation != "inline"


def _workers(settings: Settings) -> int:
    """Return how many workers there are, unless gunicorn's own options say otherwise.

    More than four leave the cores to decoding and runs, which take most of the time.
    """
    if settings.workers or not _has_engine(settings):
        return settings.workers or 1
    given = os.environ.get("WEB_CONCURRENCY", "").strip()
    if given:
        return _count_of("WEB_CONCURRENCY", given)
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def _count_of(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise SettingError(name, text, "a whole number from 1")
    return int(text)


def _threads_and_connections(settings: Settings) -> tuple[int, int]:
    """Return how many requests are handled, and how many connections held.

    A connection takes a descriptor for its socket and one for its upload; running out
    of them costs connections. Many are cheap, and under load most of them only wait for
    their clients to read a refusal.
    """
    import resource  # noqa: PLC0415 - not on Windows

    threads = admission.threads(settings)
    files, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard_limit == resource.RLIM_INFINITY else min(_FILES, hard_limit)
    if resource.RLIM_INFINITY != files < wanted:
        # The soft limit is for programs that use select, which nothing here does.
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard_limit))
        files = wanted
    ceiling = files // 2 - 1 if files != resource.RLIM_INFINITY else sys.maxsize
    connections = max(min(max(_MIN_CONNECTIONS, 2 * threads), ceiling), 2)
    return min(threads, connections * 3 // 4), connections


def _logger_class(settings: Settings) -> type:
    from gunicorn.glogging import Logger  # noqa: PLC0415 - see the module's words

    class ServerLogger(Logger):  # type: ignore[misc] # gunicorn has no types
        """Gunicorn's logger, writing the way of the rest of the server."""

        def setup(self, cfg: Config) -> None:
            super().setup(cfg)
            logs.configure(settings.log_format)
            if cfg.errorlog == "-":
                self.error_log.addFilter(_set_aside)
                logs.adopt(self.error_log)
            if cfg.accesslog == "-":
                logs.adopt(self.access_log)

    return ServerLogger


def _set_aside(record: logging.LogRecord) -> bool:
    """Mark a line of gunicorn's own start and end as one for no person."""
    if record.msg in _ROUTINE and record.levelno <= logging.INFO:
        record.__dict__.update(logs.ASIDE)
    return True


def check(cfg: Config, environ: Mapping[str, str]) -> None:
    """Refuse options that double the models, hang TensorFlow or let strangers in.

    And TLS, which gunicorn speaks in a request's own thread, without time limits.

    Args:
        cfg: gunicorn's configuration, from any source.
        environ: the variables that the app will see.

    Raises:
        StartError: with the change to make.
    """
    from gunicorn.workers.gthread import ThreadWorker  # noqa: PLC0415 - see above

    if cfg.preload_app:
        raise StartError(
            "Preloading is refused: the app belongs in gunicorn's workers, and each"
            " opens its own. Leave out --preload."
        )
    settings = Settings.from_environ(environ)
    if cfg.workers > 1 and not _has_engine(settings):
        raise StartError(
            f"{cfg.workers} workers are refused with ISOLATION=inline: each would hold"
            " every model. Leave out WORKERS and --workers, or set them to 1."
        )
    if not issubclass(cfg.worker_class, ThreadWorker):
        raise StartError(
            f"The worker class {cfg.worker_class_str!r} is refused: the server needs"
            " gthread. Leave out --worker-class."
        )
    if cfg.is_ssl:
        raise StartError(
            "TLS is refused: the server speaks HTTP only, and a proxy in front of it"
            " speaks TLS, as in deploy/nginx.conf. Leave out --certfile and --keyfile."
        )
    if cfg.protocol != "http" or cfg.http2_cleartext != "off":
        raise StartError(
            "Another protocol is refused: the server's workers read HTTP/1.1 alone."
            " Leave out --protocol and --http2-cleartext."
        )
    # A file descriptor or a Unix socket names no host here; see _check_listeners.
    hosts = [address[0] for address in cfg.address if isinstance(address, tuple)]
    settings.check_bind(hosts)


def _check_workers(arbiter: Arbiter, workers: int, before: int | None) -> None:
    """Check everything; gunicorn's earliest hook, before it preloads or listens.

    It comes at the start, at a reload (SIGHUP) and when SIGTTIN asks for a worker more.
    """
    alone = getattr(arbiter.app, "engine", None) is None
    if alone and before is not None and workers > max(before, 1):
        arbiter.log.warning("a second worker was refused: it would hold every model")
        arbiter.num_workers = before
        return
    with start_errors():
        check(arbiter.cfg, {**os.environ, **arbiter.cfg.env})


def _prepare(
    settings: Settings,
    tasks: Callable[[], list[str] | None] | None,
    arbiter: Arbiter,
) -> None:
    _check_addresses_are_free(arbiter)
    with start_errors():
        settings.check_model_folder()
        system_limits.check(settings)
        if settings.grpc_port:
            check_packages()
            settings.check_bind([settings.host])
            _try_to_bind(settings.host, settings.grpc_port, "GRPC_PORT")
    for given, name in near_misses(os.environ):
        arbiter.log.warning("%s is set, and is no setting: %s is one", given, name)
    # gunicorn looks the handler up by this name when the signal comes, both for
    # ``serve`` and for the ``gunicorn`` command.
    arbiter.handle_hup = partial(_rescan_models, arbiter)
    # Workers have gunicorn's application, but not its arbiter.
    arbiter.app.board = Board()
    if _has_engine(settings):
        _start_engine(settings, tasks, arbiter)


def _start_engine(
    settings: Settings,
    tasks: Callable[[], list[str] | None] | None,
    arbiter: Arbiter,
) -> None:
    """Start the engine's process, or have one worker hold the models itself."""
    words = tasks() if tasks else served_tasks.of_gunicorn(arbiter.app)
    environ = {"PORT": str(settings.port), **os.environ}
    keeper = EngineKeeper(words or (), environ, _other_owner(arbiter.cfg))
    try:
        if words is None:
            raise OSError("the app does not tell its tasks")  # noqa: TRY301
        keeper.open()
    except (OSError, AttributeError) as error:
        arbiter.log.warning(
            "One worker holds the models itself, as there can be no engine: %s", error
        )
        if settings.grpc_port:
            arbiter.log.warning("GRPC_PORT is of no effect: gRPC takes an engine.")
        arbiter.num_workers = 1
        return
    try:
        keeper.start()
    except OSError as error:
        _stop(f"The engine cannot be started: {error.strerror or error}.")
    if settings.grpc_port:
        _start_grpc(keeper, words or (), environ, arbiter)
    # Behind the door for gRPC: the engine goes last.
    keeper.attach(arbiter)
    arbiter.app.engine = keeper


def _start_grpc(
    engine: EngineKeeper,
    words: Sequence[str],
    environ: Mapping[str, str],
    arbiter: Arbiter,
) -> None:
    """Start the process that speaks gRPC."""
    cfg = arbiter.cfg
    keeper = GrpcKeeper(
        engine,
        words,
        environ,
        cfg.graceful_timeout,
        owner=_other_owner(cfg),
    )
    try:
        keeper.start()
    except OSError as error:
        _stop(f"The door for gRPC cannot be started: {error.strerror or error}.")
    keeper.attach(arbiter)
    arbiter.app.grpc = keeper


def _other_owner(cfg: Config) -> tuple[int, int] | None:
    """Return the user and group of gunicorn's workers, if they are not ours."""
    owner = (cfg.uid, cfg.gid)
    return None if owner == (os.geteuid(), os.getegid()) else owner


def _rescan_models(arbiter: Arbiter) -> None:
    """Pass SIGHUP on to the worker, which looks for new models and lives on.

    gunicorn's own way is a new worker with the settings read again: its models would
    have to be loaded first, next to those of the old one.
    """
    arbiter.log.info("SIGHUP: looking for new models; settings need a restart")
    arbiter.kill_workers(signal.SIGHUP)


def _clear_seat(arbiter: Arbiter, worker: Worker) -> None:
    """Have the other doors wait no longer for one that has ended."""
    arbiter.app.board.clear(worker.age)


def _check_addresses_are_free(arbiter: Arbiter) -> None:
    """Refuse an address in use at once, not after gunicorn's five seconds."""
    if {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys() or arbiter.cfg.reuse_port:
        return
    for address in arbiter.cfg.address:
        if isinstance(address, tuple):
            _try_to_bind(*address)


def _try_to_bind(host: str, port: int, name: str = "PORT") -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        why = error.strerror or error
        _stop(
            f"Cannot listen on {host}, port {port}: {why}. {name} and HOST choose"
            " others."
        )


def _check_listeners(arbiter: Arbiter) -> None:
    """Check the real listeners, for sockets that came as file descriptors."""
    names = [listener.getsockname() for listener in arbiter.LISTENERS]
    hosts = [name[0] for name in names if isinstance(name, tuple)]
    with start_errors():
        Settings.from_environ(os.environ).check_bind(hosts)


def _never_wait_for_readers(
    settings: Settings, _arbiter: Arbiter, _worker: Worker
) -> None:
    """Have a door, once forked, log without waiting for a terminal or a pager."""
    background_stream.replace_standard_streams()
    logs.configure(settings.log_format)


def _announce(arbiter: Arbiter) -> None:
    """Check the listeners, and log where they are."""
    _check_listeners(arbiter)
    names = [listener.getsockname() for listener in arbiter.LISTENERS]
    places = [
        startup_hint.url(name) if isinstance(name, tuple) else f"unix:{name}"
        for name in names
    ]
    log.info("ModelServer %s · %s", __version__, " ".join(places), extra=logs.BARE)


def _start_models(worker: Worker) -> None:
    # Ctrl-C reaches every process of the terminal, and the arbiter then sends SIGQUIT:
    # gunicorn's handler, interrupted by itself, waits for its own lock for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    give_freed_memory_back()
    backend = worker.wsgi.extensions["modelserver"]
    engine = getattr(worker.app, "engine", None)
    if engine is not None:
        engine.leave()
        grpc = getattr(worker.app, "grpc", None)
        if grpc is not None:
            grpc.leave()
        _end_with_arbiter(worker)
        backend.join(engine.address, engine.page)
    signal.signal(signal.SIGHUP, lambda _signal, _frame: backend.rescan())
    signal.siginterrupt(signal.SIGHUP, False)  # noqa: FBT003 - has no other way
    with start_errors():
        backend.start()
    backend.greet(worker.sockets[0].getsockname())
    # Objects made by now stay: the collector need not look at them again and again.
    gc.freeze()
    _close_on_demand(worker)


def _end_with_arbiter(worker: Worker) -> None:
    """Have the kernel end this door with the arbiter, even if it is stopped or hangs.

    Not before gunicorn has given up its rights, which would undo it.
    """
    end_with_parent()
    if os.getppid() != worker.ppid:  # too late
        raise SystemExit(0)


def _close_on_demand(worker: Worker) -> None:
    """Start the thread that closes the models when ``_close_models`` asks it to."""
    close = worker.wsgi.extensions["modelserver"].close
    interrupted: queue.SimpleQueue[None] = queue.SimpleQueue()
    worker.interrupted = interrupted

    def close_when_asked() -> None:
        interrupted.get()
        close()

    threading.Thread(target=close_when_asked, name="close-models", daemon=True).start()


def _close_models(worker: Worker) -> None:
    """End the models at SIGQUIT, so that requests in flight end soon.

    gunicorn calls this in the signal's handler, and the interpreter then waits for the
    requests before ``atexit`` would close anything. A handler must not wait for locks
    that its own thread may hold, not even for those of a thread that it starts: so a
    thread waits already, on the one queue that a handler may put into. A second SIGQUIT
    changes nothing: the arbiter kills a worker that takes too long.
    """
    signal.signal(signal.SIGQUIT, lambda _signal, _frame: None)
    # Not there before the app was imported and its models were started.
    interrupted = getattr(worker, "interrupted", None)
    if interrupted is not None:
        interrupted.put(None)
