"""Clients that send again on a connection that closed unanswered.

Half of them keep their connections, half make one for each request.
"""

import http.client
import threading

from support.servers import SECONDS

# What a request meets whose connection was closed before its answer began.
UNANSWERED = (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)
# A server that takes no connection for this many tries in a row is away.
TRIES = 5


class Steady:
    """Clients that ask again and again, from ``with`` to its end.

    Args:
        port: of the server, on this machine.
        ask: sends one request on a connection, and returns its status.
        clients: how many there are.

    Attributes:
        statuses: of all requests; else the error that one ended with.
        lost: how often a connection closed unanswered whose first request it was: not
            even a server that ends kept connections does so.
    """

    def __init__(self, port, ask, clients=8):
        self.statuses = []
        self.lost = 0
        self._port = port
        self._ask = ask
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,))
            for number in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _connect(self):
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)

    def _run(self, keeps):
        connection = self._connect()
        while not self._over.is_set():
            try:
                self.statuses.append(self._try(connection))
            except (OSError, http.client.HTTPException) as error:
                self.statuses.append(repr(error))
            if not keeps:
                connection.close()
        connection.close()

    def _try(self, connection):
        for last in range(TRIES):
            fresh = connection.sock is None
            try:
                return self._ask(connection)
            except UNANSWERED:
                self.lost += fresh
                connection.close()
                if last == TRIES - 1:
                    raise
        raise AssertionError


def get_slowly(connection):
    """Ask for something that takes some milliseconds."""
    connection.request("GET", "/slow")
    response = connection.getresponse()
    response.read()
    return response.status
