"""Small servers to be measured in tests, in a thread of the test's own process."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMING = "decode;dur=1.5, queue;dur=0.25, run;dur=20.00, post;dur=0.1, total;dur=22.1"


class StandIn(ThreadingHTTPServer):
    """Answers POSTs as it is told and notes what it was sent.

    Attributes:
        answer: from the number of a POST, from 0, to its status and body.
        headers_too: sent with each of these answers.
        states: of the models, for each /readyz; the last one for ever.
        posts: path, headers and body of each POST.
        connections: how many there were.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = lambda _number: (200, b"[]")
        self.headers_too = {"Server-Timing": TIMING}
        self.states = [{}]
        self.posts = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()

    def get_request(self):
        """Count a connection."""
        self.connections += 1
        return super().get_request()

    def handle_error(self, request, client_address):
        """Say nothing: tests break connections."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a stand-in."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        """Note the request and answer as told; status 0 closes the connection."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            number = len(self.server.posts)
            self.server.posts.append((self.path, dict(self.headers), body))
        status, answer = self.server.answer(number)
        if status == 0:
            self.close_connection = True
            return
        self.reply(status, answer, self.server.headers_too)

    def do_GET(self):
        """Answer /readyz: the next of the states, the last one for ever."""
        states = self.server.states
        state = states.pop(0) if len(states) > 1 else states[0]
        self.reply(503, json.dumps({"ready": False, "models": state}).encode(), {})

    def reply(self, status, body, headers):
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Say nothing."""


@contextmanager
def stand_in():
    """A stand-in that runs."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def raw_server(answer):
    """A server that sends the same bytes to whoever connects, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connected, _ = listener.accept()
                except OSError:
                    return
                with connected:
                    connected.recv(65536)
                    connected.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def unused_url():
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
