"""Clients that do something again and again while a test looks on."""

import threading


class Repeating:
    """Threads that call :meth:`ask` again and again, from ``with`` to its end.

    Attributes:
        over: set at the end, which ``ask`` and ``repeat`` should not hold up.
    """

    def __init__(self, clients):
        self.over = threading.Event()
        self._threads = [
            threading.Thread(target=self.repeat, args=(number,))
            for number in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self._threads:
            thread.join()

    def repeat(self, number):
        """Do what one thread does; ``number`` counts them from 0."""
        del number
        while not self.over.is_set():
            self.ask()

    def ask(self):
        """Do it once."""
        raise NotImplementedError
