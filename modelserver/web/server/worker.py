"""gunicorn's threaded worker, with cheaper busy connections and plainer errors."""

from __future__ import annotations

import contextlib
import errno
import http
import logging
import re
import selectors
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from modelserver.tasks import TASKS
from modelserver.web.problems import plain_answer, plain_problem
from modelserver.web.server.connections import (
    Connection,
    Lingering,
    accept,
    has_data,
    peek,
)
from modelserver.web.server.upload_pace import PacedSocket, TooSlow, pace_body

if TYPE_CHECKING:
    from modelserver.core.errors import RequestError

log = logging.getLogger(__name__)

# How long a thread stays with a connection whose next request may be on its way: a
# client that waits for each answer sends the next request within this time.
_STAY_MS = 2
# So that a busy connection does not keep a thread from others for ever.
_STAY_REQUESTS = 64
# A burst of connections is taken at once, without looking at others in between.
_ACCEPTS = 64
# How long the main loop waits for more to refuse while it refuses photos.
_GATHER_S = 0.006
# How long a new connection may be silent.
_SILENT_S = 5.0
_NO_MORE_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BREATH_S = 0.05
_WARN_S = 1.0
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
    """Stays with a busy connection, and answers refused requests as problems.

    The base class hands a kept connection back to its one main loop after each answer,
    which then hands it to a thread again: two thread changes a request.

    A thread is given to a connection once there is something to read from it, never to
    a silent one. Photos that would only be refused get their answer in the main loop,
    before their form is read: that costs a tenth of a thread's work.
    """

    _notified = 0.0
    _warn_at = 0.0
    # Connections that threads have, or wait for one; the main loop's.
    _handled = 0
    _lingering: Lingering
    # Why photos are refused in this turn of the main loop, and when it looked last.
    _refusal: RequestError | None = None
    _looked = 0.0

    @cached_property
    def _photos(self) -> tuple[bytes, ...]:
        """How requests begin that are refused without a thread when models are full."""
        routes = [task.endpoint.route for task in TASKS.values()]
        return tuple(f"POST {one}{end}".encode() for one in routes for end in " ?")

    @cached_property
    def _head_bytes(self) -> int:
        """How many of a request's bytes are needed for that."""
        return max(map(len, self._photos))

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
        self.wsgi.extensions["modelserver"].service.has_threads(self.cfg.threads)
        super().run()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; while photos are refused, for some at a time.

        To wake for each costs as much as to refuse it, and each time the threads that
        decode lose the interpreter's lock.
        """
        if self._refusal is not None:
            self._refusal = None
            time.sleep(max(0.0, self._looked + _GATHER_S - time.monotonic()))
            self._looked = time.monotonic()
        super().wait_for_and_dispatch_events(timeout)

    def accept(self, listener: Any) -> None:
        """Take the connections that have come, and make room if there is none."""
        server = listener.getsockname()
        for _ in range(_ACCEPTS):
            if self.nr_conns >= self.worker_connections:
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

    def _no_files_left(self) -> None:
        if self._warn_at <= time.monotonic():
            self._warn_at = time.monotonic() + _WARN_S
            self.log.warning("There are no file descriptors left for connections.")
        if not self._evict():
            # The listener stays readable: the loop would come here again and again.
            time.sleep(_BREATH_S)

    def _take(self, sock: Any, address: Any, server: Any) -> None:
        if self.nr_conns >= self.worker_connections - 1:
            self._evict()
        start = peek(sock, self._head_bytes)
        if start is not None and self._refuse(sock, start):
            return
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, address, server)
        conn.lingering = self._lingering
        if start is not None:
            conn.data_ready = True
            self._give_to_thread(conn)
            return
        conn.timeout = time.monotonic() + _SILENT_S
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _evict(self) -> bool:
        """Close the connection that has been silent for longest, if there is one."""
        for waiting in (self.pending_conns, self.keepalived_conns):
            # One that has sent something is not silent: it may be the loop's next
            # event.
            silent = (conn for conn in waiting if not has_data(conn.sock))
            if (conn := next(silent, None)) is not None:
                waiting.remove(conn)
                self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
                return True
        return self._lingering.evict()

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread, or refuse its request at once."""
        if self._shows_its_start(conn):
            start = peek(conn.sock, self._head_bytes)
            if start is not None and self._refuse(conn.sock, start):
                self.nr_conns -= 1
                return
        self._give_to_thread(conn)

    def _shows_its_start(self, conn: Any) -> bool:
        """Return whether the bytes that wait to be read are the start of a request.

        They are not if some were read already.
        """
        read = conn.parser is not None and conn.parser.unreader.buf.getvalue()
        return not read

    def _give_to_thread(self, conn: Any) -> None:
        self._handled += 1
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Take a connection back from its thread."""
        self._handled -= 1
        super().finish_request(conn, fs)

    def _cap_keepalive(self, deadline: float) -> None:
        """Have a worker that ends wait no longer for new connections than for old."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def murder_pending(self) -> None:
        """Close connections whose time is over."""
        super().murder_pending()
        self._lingering.expire()

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
        refusal = self._refusal or backend.refusal(self._handled)
        if refusal is None:
            return False
        self._refusal = refusal
        backend.count_refusal(refusal, start)
        with contextlib.suppress(OSError):  # the client has gone
            answer = plain_problem(refusal, backend.unread_headers)
            sock.send(answer, socket.MSG_DONTWAIT)
        self._lingering.take(sock)
        return True

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

    def handle(self, conn: Any) -> Any:
        """Handle a connection's request, and those that follow at once."""
        if not (conn.initialized or isinstance(conn.sock, PacedSocket)):
            conn.sock = PacedSocket.of(conn.sock)
        result = self._handle_one(conn)
        for _ in range(_STAY_REQUESTS):
            # More connections than threads: another one waits for this thread.
            if not self.alive or self.nr_conns > self.cfg.threads:
                break
            if result is not True or not _next_is_here(conn):
                break
            result = self._handle_one(conn)
        return result

    def _handle_one(self, conn: Any) -> Any:
        if isinstance(conn.sock, PacedSocket):
            conn.sock.begin()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Handle a request whose head was read; its body may take longer."""
        pace_body(req, conn.sock)
        if not isinstance(conn.sock, PacedSocket):
            return super().handle_request(req, conn)
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
        status = _STATUSES.get(type(exc), http.HTTPStatus.BAD_REQUEST)
        backend = self.wsgi.extensions["modelserver"]
        backend.count_unreadable(status)
        self.log.debug("Refused a request from %s: %s", addr, type(exc).__name__)
        # InvalidHeaderName says it, less the capitals; its text may be anything.
        reason = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(exc).__name__).lower()
        detail = f"The request cannot be read: {status.phrase} ({reason})."
        try:
            answer = plain_answer(status, detail, backend.unread_headers or "")
            util.write_nonblock(client, answer)
        except OSError:
            self.log.debug("The client did not wait for the answer.")


def _next_is_here(conn: Any) -> bool:
    """Return whether a connection's next request has begun to arrive."""
    if conn.is_http2 or conn.parser is None:
        return False
    if conn.parser.unreader.buf.getvalue():
        return True
    return has_data(conn.sock, _STAY_MS)
