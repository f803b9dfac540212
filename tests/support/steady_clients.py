"""Clients that send again on a connection that closed unanswered.

Half of them keep their connections, half make one for each request.
"""

import http.client

from support.repeating import Repeating
from support.servers import SECONDS

# What a request meets whose connection was closed before its answer began.
UNANSWERED = (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)
# A server that takes no connection for this many tries in a row is away.
TRIES = 5


class Steady(Repeating):
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
        super().__init__(clients)
        self.statuses = []
        self.lost = 0
        self._port = port
        self._send = ask

    def _connect(self):
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)

    def repeat(self, number):
        """Ask on a connection that each second thread keeps."""
        connection = self._connect()
        while not self.over.is_set():
            try:
                self.statuses.append(self._try(connection))
            except (OSError, http.client.HTTPException) as error:
                self.statuses.append(repr(error))
            if number % 2:
                connection.close()
        connection.close()

    def _try(self, connection):
        for last in range(TRIES):
            fresh = connection.sock is None
            try:
                return self._send(connection)
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
