"""gunicorn's threaded worker, less all waiting for clients in its threads."""

from __future__ import annotations

import contextlib
import errno
import heapq
import http
import itertools
import logging
import math
import selectors
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from modelserver.core.errors import BodyTooSlow
from modelserver.tasks import TASKS
from modelserver.web.access import BodyCheck
from modelserver.web.problems import plain_answer, plain_problem, status_of
from modelserver.web.server.arrivals import Rules, TlsInsteadOfPlainHttp
from modelserver.web.server.bodies import words_of
from modelserver.web.server.connections import (
    AnswerSocket,
    Connection,
    Lingering,
    accept,
    has_data,
    peek,
)
from modelserver.web.server.request_heads import HEAD_BYTES, Head
from modelserver.web.server.upload_pace import TooSlow

if TYPE_CHECKING:
    from collections import deque
    from concurrent.futures import Future

    from modelserver.core.errors import RequestError
    from modelserver.web.server.spread import Seat

log = logging.getLogger(__name__)

# So that a busy connection does not keep a thread from others for ever.
_STAY_REQUESTS = 64
# A burst of connections is taken at once, without looking at others in between.
_ACCEPTS = 64
# How long the main loop waits for more to refuse while it refuses photos, and how long
# it does so after the last one: other doors are told of each connection, too.
_GATHER_S = 0.01
_REFUSING_S = 0.05
# How long a new connection may be silent.
_SILENT_S = 5.0
# Bytes of a body in memory, and of all of them, before they go to the upload folder.
_MOST_IN_MEMORY = 256 * 1024
_ALL_IN_MEMORY = 64 * 1024 * 1024
# How often requests are looked for that come too slowly, and how many are given up at a
# time: an answer takes some 50 us.
_EXPIRE_S = 0.25
_EXPIRED = 100
# How often a door that lets others take connections looks whether it is still ahead:
# they may be ahead by then, and let this one go first.
_LOOK_S = 0.002
# How often one is looked for that can be closed, if there was none and is no room.
_FULL_S = 0.05
# So many of the slowest are given up if there is no room, but none that is new.
_EVICTED = 16
_NEW_S = 1.0
# A request that began so long ago, or less, is soon whole; more of them do not count.
_SOON_S = 0.1
_MOST_COMING = 16
_NO_MORE_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BREATH_S = 0.05
_WARN_S = 1.0
# How often the log says that clients speak TLS: scanners do so all day.
_TELL_TLS_S = 60.0
# The arbiter looks at a worker's sign of life each second.
_NOTIFY_S = 0.5
_STATUSES = {
    errors.LimitRequestLine: http.HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: http.HTTPStatus.EXPECTATION_FAILED,
    TooSlow: http.HTTPStatus.REQUEST_TIMEOUT,
}


class Threads(ThreadPoolExecutor):
    """A pool that carries on if the system gives it no more threads.

    ``submit`` queues first and asks for a thread then, so a running one takes the
    queued call. It still raises ``RuntimeError`` if there is none at all.
    """

    _warn_at = 0.0

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            # At most once a second: a burst would be logged again and again.
            if self._warn_at <= time.monotonic():
                self._warn_at = time.monotonic() + _WARN_S
                log.warning("Out of threads: %d must do.", len(self._threads))


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Reads requests in its main loop, and gives those that are whole to threads.

    So a thread never waits for a client's bytes, and clients that are slow cost no more
    than a connection each. It stays with a busy connection for a while: the base class
    hands a kept connection back to its main loop after each answer, which then hands it
    to a thread again, two thread changes a request.

    Photos that would only be refused get their answer in the main loop, before their
    form is read: that costs a tenth of a thread's work.
    """

    _notified = 0.0
    _warn_at = 0.0
    _tell_tls_at = 0.0
    # Connections that threads have, or wait for one; the main loop's.
    _handled = 0
    _lingering: Lingering
    # Why photos are refused in this turn of the main loop, when one was last, and when
    # the loop looked last while it refused some.
    _refusal: RequestError | None = None
    _refused = -math.inf
    _looked = 0.0
    # When to look next for requests that come too slowly.
    _expire_at = 0.0
    # Until when other doors may take new connections first.
    _back_until = 0.0

    @cached_property
    def _photos(self) -> tuple[bytes, ...]:
        """How requests begin that are refused without a thread when models are full."""
        routes = [task.endpoint.route for task in TASKS.values()]
        return tuple(f"POST {one}{end}".encode() for one in routes for end in " ?")

    @cached_property
    def _head_bytes(self) -> int:
        """How many of a request's bytes are needed for that."""
        return max(map(len, self._photos))

    @cached_property
    def _shares_paths(self) -> bool:
        """Whether photos for the same paths come in a dialect too."""
        dialects = self.wsgi.extensions["modelserver"].dialects
        return any(route.content_type for each in dialects for route in each.routes)

    @cached_property
    def _arriving(self) -> dict[Connection, None]:
        """Connections of which a request is being read; the latest heard from, last."""
        return {}

    @cached_property
    def _seat(self) -> Seat | None:
        """Where doors tell each other of their connections, if there may be others."""
        board = getattr(self.app, "board", None)
        return board.seat(self.age) if board is not None else None

    @cached_property
    def _rules(self) -> Rules:
        backend = self.wsgi.extensions["modelserver"]
        settings = backend.settings
        routes = [task.endpoint.route for task in backend.tasks]
        check = BodyCheck(settings.api_token, routes, backend.dialects)
        return Rules(
            backend.spool,
            settings.max_upload_mb * 1024 * 1024,
            lambda: min(_MOST_IN_MEMORY, _ALL_IN_MEMORY // (1 + len(self._arriving))),
            check,
            check.form_key,
        )

    def init_process(self) -> None:
        """Prepare the main loop, then run it."""

        def count(change: int) -> None:
            self.nr_conns += change

        # The base class makes the poller here, too late for anything that uses it.
        self._lingering = Lingering(lambda: self.poller, count)
        super().init_process()

    def get_thread_pool(self) -> Threads:
        """Make the threads; a system that has no more of them must not end the loop."""
        return Threads(self.cfg.threads)

    def run(self) -> None:
        """Serve, once the app knows how many threads there really are."""
        self.wsgi.extensions["modelserver"].has_threads(self.cfg.threads)
        super().run()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; while photos are refused, for some at a time.

        To wake for each costs as much as to refuse it, and each time the threads that
        decode lose the interpreter's lock.
        """
        self._refusal = None
        now = time.monotonic()
        if now < self._refused + _REFUSING_S:
            time.sleep(max(0.0, self._looked + _GATHER_S - now))
            self._looked = time.monotonic()
        self._lingering.look()
        self._tell()
        if self.nr_conns >= self.worker_connections:
            timeout = min(timeout, _FULL_S)
        if self._back_until:
            timeout = min(timeout, _LOOK_S)
        super().wait_for_and_dispatch_events(timeout)

    def _tell(self) -> None:
        """Tell other doors how many connections this one has."""
        if self._seat is not None and self.alive:
            # Those that linger are closed within a second.
            self._seat.tell(self.nr_conns - len(self._lingering))

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's
        """Take new connections from now on, or no more for now."""
        if enabled and self._back_until:
            is_ahead = self._seat is not None and self._seat.is_ahead()
            if is_ahead and time.monotonic() < self._back_until:
                return
            self._back_until = 0.0
            if self._seat is not None:
                left = is_ahead and any(map(has_data, self.sockets))
                self._seat.come_back(waiting=left)
        if self._seat is not None and not self.alive:
            self._seat.leave()
        super().set_accept_enabled(enabled)

    def _let_others_first(self) -> bool:
        """Step back if another door has clearly fewer connections; return if so."""
        back_s = self._seat.step_back() if self._seat is not None else 0.0
        if back_s:
            self._back_until = time.monotonic() + back_s
            self.set_accept_enabled(False)
        return bool(back_s)

    def accept(self, listener: Any) -> None:
        """Take the connections that have come, and make room if there is none."""
        server = listener.getsockname()
        for _ in range(_ACCEPTS):
            if self.nr_conns >= self.worker_connections or self._let_others_first():
                return
            try:
                accepted = accept(listener)
            except OSError as error:
                if error.errno not in _NO_MORE_FILES:
                    raise
                self._no_files_left()
                return
            if accepted is None:
                return
            self._take(*accepted, server)
            self._tell()

    def _no_files_left(self) -> None:
        if self._warn_at <= time.monotonic():
            self._warn_at = time.monotonic() + _WARN_S
            self.log.warning("There are no file descriptors left for connections.")
        if not self._evict():
            # The listener stays readable: the loop would come here again and again.
            time.sleep(_BREATH_S)

    def _take(self, sock: Any, client: Any, server: Any) -> None:
        if self.nr_conns >= self.worker_connections - 1:
            self._evict()
        start = peek(sock, self._head_bytes)
        if start is not None and self._refuse(sock, start):
            return
        self.nr_conns += 1
        conn = Connection(
            self.cfg,
            sock,
            (client, server),
            rules=self._rules,
            lingering=self._lingering,
        )
        conn.timeout = time.monotonic() + _SILENT_S
        if start is None:
            self._watch(conn, self.pending_conns)
        else:
            self._read(conn)

    def _watch(self, conn: Connection, waiting: deque[Connection] | None) -> None:
        """Wait for a connection's bytes.

        Args:
            waiting: those that are silent as this one is; ``None`` if some of a request
                is there.
        """
        if waiting is None:
            self._arriving[conn] = None
        else:
            waiting.append(conn)
        if not conn.is_watched:
            conn.is_watched = True
            readable = partial(self._readable, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _unwatch(self, conn: Connection) -> None:
        """Wait no longer for a connection's bytes."""
        self._arriving.pop(conn, None)
        for waiting in (self.pending_conns, self.keepalived_conns):
            with contextlib.suppress(ValueError):
                waiting.remove(conn)
        if conn.is_watched:
            conn.is_watched = False
            self.poller.unregister(conn.sock)

    def _readable(self, conn: Connection, _sock: Any) -> None:
        """Take what a connection's client has sent."""
        if not conn.is_watched:  # evicted since the poller told of it
            return
        if conn not in self._arriving:
            start = peek(conn.sock, self._head_bytes)
            if start is None:
                return
            if start.strip(b"\r\n"):
                self._unwatch(conn)
                if self._refuse(conn.sock, start):
                    self.nr_conns -= 1
                    return
        self._read(conn)

    def _read(self, conn: Connection) -> None:
        """Take what has come; who sends empty lines alone stays as silent as before."""
        was_silent = conn not in self._arriving
        # Those from which nothing comes are first in line.
        self._arriving.pop(conn, None)
        if conn.read():
            self._unwatch(conn)
            self.enqueue_req(conn)
        elif conn.parser.begun:
            if was_silent:
                self._unwatch(conn)
            self._watch(conn, None)
        elif not conn.is_watched:
            self._watch(conn, self.pending_conns)

    def _drop(self, conn: Connection, *, graceful: bool = False) -> None:
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close(graceful)

    def _evict(self) -> bool:
        """Close one that was silent for a while, or the slowest, or any silent one.

        Those that only linger, and may still read their answers, come last.
        """
        return (
            self._evict_silent(self.pending_conns, _SILENT_S - _NEW_S)
            or self._evict_slow()
            or self._evict_silent(self.keepalived_conns)
            or self._evict_silent(self.pending_conns)
            or self._lingering.evict()
        )

    def _evict_silent(
        self, waiting: deque[Connection], left_s: float = math.inf
    ) -> bool:
        """Close the one that has been silent for longest, if it has so much time left.

        Args:
            left_s: until it would be closed anyway, at most.
        """
        # One that has sent something is not silent: it may be the loop's next event.
        conn = next((conn for conn in waiting if not has_data(conn.sock)), None)
        if conn is None or conn.timeout > time.monotonic() + left_s:
            return False
        self._drop(conn)
        return True

    def _evict_slow(self) -> bool:
        """Give up some of the requests that come most slowly, if there are any."""
        now = time.monotonic()
        old = [c for c in self._arriving if c.parser.pace.began < now - _NEW_S]
        slow = heapq.nsmallest(_EVICTED, old, key=lambda c: c.parser.pace.rate(now))
        for conn in slow:
            self._give_up(conn)
        return bool(slow)

    def _give_up(self, conn: Connection) -> None:
        """Answer a request that comes too slowly."""
        request = conn.parser.request
        conn.parser.give_up(TooSlow())
        self._unwatch(conn)
        backend = self.wsgi.extensions["modelserver"]
        if request is None or backend.unread_headers is None:
            self.enqueue_req(conn)
            return
        # Without a thread: there may be a thousand of them.
        self._answer_unread(conn.sock, BodyTooSlow(), Head.of(request))
        self._drop(conn, graceful=True)

    def _answer_unread(
        self, sock: socket.socket, error: RequestError, head: Head
    ) -> None:
        """Answer, and count, a request that no thread is given, in its dialect."""
        backend = self.wsgi.extensions["modelserver"]
        dialect = head.dialect(backend.dialects)
        status = status_of(error, dialect)
        backend.count_refusal(error, head.path, status, dialect)
        self._answer(sock, plain_problem(error, backend.unread_headers, dialect))

    @staticmethod
    def _answer(sock: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            sock.send(answer, socket.MSG_DONTWAIT)

    def enqueue_req(self, conn: Connection) -> None:
        """Give a connection to a thread, or say at once that nothing can be read."""
        error = conn.parser.error
        if error is None:
            self._handled += 1
            super().enqueue_req(conn)
            return
        is_said = not isinstance(error, (StopIteration, OSError))
        if isinstance(error, errors.ParseException):
            head = Head.of_bytes(conn.parser.start)
            self._refuse_unreadable(conn.sock, conn.client, error, head)
        elif is_said:
            self.handle_error(None, conn.sock, conn.client, error)
        self._drop(conn, graceful=is_said)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Take a connection back from its thread."""
        self._handled -= 1
        if fs.cancelled() or fs.exception() is not None:
            self._drop(conn)
        elif not fs.result():
            self._drop(conn, graceful=True)
        elif conn.parser.ready:
            self.enqueue_req(conn)
        elif conn.parser.begun:
            self._watch(conn, None)
        else:
            conn.set_timeout()
            if not self.alive:
                limit = time.monotonic() + STOP_KEEPALIVE_LINGER
                conn.timeout = min(conn.timeout, limit)
            self._watch(conn, self.keepalived_conns)

    def _cap_keepalive(self, deadline: float) -> None:
        """Have a worker that ends wait no longer for new connections than for old."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's
        """Close kept connections whose time is over, or all."""
        self._expire(self.keepalived_conns, math.inf if force else time.monotonic())

    def murder_pending(self) -> None:
        """Close all others whose time is over."""
        now = time.monotonic()
        self._expire(self.pending_conns, now)
        self._lingering.expire()
        if self.nr_conns >= self.worker_connections:
            self._evict()
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRE_S
            late = (c for c in self._arriving if c.parser.pace.deadline <= now)
            for conn in list(itertools.islice(late, _EXPIRED)):
                self._give_up(conn)

    def _expire(self, waiting: deque[Connection], now: float) -> None:
        while waiting and waiting[0].timeout <= now:
            self._drop(waiting[0])

    def _refuse(self, sock: socket.socket, start: bytes) -> bool:
        """Answer a photo that no model would take now, in the main loop.

        Args:
            start: of the request, which is not read.
        """
        if not start.startswith(self._photos):
            return False
        backend = self.wsgi.extensions["modelserver"]
        # Once a turn: with many models it is not cheap, and while the turn lasts none
        # of them is given a photo.
        refusal = self._refusal or backend.refusal(self._handled + self._coming())
        if refusal is None:
            return False
        self._refusal = refusal
        self._refused = time.monotonic()
        if self._shares_paths:
            start = peek(sock, HEAD_BYTES) or start
        self._answer_unread(sock, refusal, Head.of_bytes(start))
        self._lingering.take(sock, watch=False)
        return True

    def _coming(self) -> int:
        """Return how many requests will soon be whole, as far as one can tell."""
        since = time.monotonic() - _SOON_S
        latest = itertools.islice(reversed(self._arriving), _MOST_COMING)
        return sum(conn.parser.pace.began > since for conn in latest)

    def notify(self) -> None:
        """Send a heartbeat, but not at each of a thousand events a second."""
        now = time.monotonic()
        if now - self._notified > _NOTIFY_S:
            self._notified = now
            super().notify()

    def init_signals(self) -> None:
        """Take signals as the base class does; SIGHUP must not end a starting worker.

        It reads the model folder soon anyway, and has a handler of its own from then.
        """
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End soon, without the base class's look into the thread pool.

        That takes the pool's lock, which the very thread that the signal interrupts
        may hold: it would wait for itself for ever. At its exit the interpreter shuts
        the pool anyway.
        """
        super(ThreadWorker, self).handle_quit(sig, frame)

    def handle(self, conn: Connection) -> Any:
        """Answer a connection's request, and those that follow at once."""
        if not isinstance(conn.sock, AnswerSocket):
            conn.sock = AnswerSocket.of(conn.sock)
        for _ in range(_STAY_REQUESTS):
            result = super().handle(conn)
            if result is not True:
                break
            conn.parser.go_on()
            # More requests than threads: another one waits for this thread.
            if not self.alive or self._handled > self.cfg.threads:
                break
            if not conn.read_on():
                break
        return result

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Answer a request; what is sent goes out in as few packets as can be."""
        conn.sock.head_at = conn.parser.head_at
        conn.sock.hold()
        try:
            return super().handle_request(req, conn)
        finally:
            conn.sock.release()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer a request that gunicorn itself refuses, before any app sees it."""
        of_the_app = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
        if isinstance(exc, of_the_app) or not isinstance(exc, errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        head = Head() if req is None else Head.of(req)
        self._refuse_unreadable(client, addr, exc, head)

    def _refuse_unreadable(
        self, sock: socket.socket, addr: Any, exc: Exception, head: Head
    ) -> None:
        """Answer a request that cannot be read, in its dialect if that can be told."""
        status = _STATUSES.get(type(exc), http.HTTPStatus.BAD_REQUEST)
        backend = self.wsgi.extensions["modelserver"]
        backend.count_unreadable(status)
        self.log.debug("Refused a request from %s: %s", addr, type(exc).__name__)
        if isinstance(exc, TlsInsteadOfPlainHttp):
            self._tell_of_tls()
        reason = words_of(exc)
        detail = f"The request cannot be read: {status.phrase} ({reason})."
        try:
            headers = backend.unread_headers or ""
            dialect = head.dialect(backend.dialects)
            answer = plain_answer(status, detail, headers, dialect)
            util.write_nonblock(sock, answer)
        except OSError:
            self.log.debug("The client did not wait for the answer.")

    def _tell_of_tls(self) -> None:
        if self._tell_tls_at <= time.monotonic():
            self._tell_tls_at = time.monotonic() + _TELL_TLS_S
            log.info("A client speaks TLS, and this port does not: say http://.")
