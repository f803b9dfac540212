"""The worker's threads if the system gives no more of them."""

import logging
import threading
from types import SimpleNamespace

import pytest

from modelserver.web.server.worker import Threads, Worker

SECONDS = 20


@pytest.fixture
def pool(monkeypatch):
    """Yield the worker's pool; ``no_more`` lets no thread start from then on."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    worker = SimpleNamespace(cfg=SimpleNamespace(threads=4))
    made = Worker.get_thread_pool(worker)
    made.no_more = lambda: monkeypatch.setattr(threading.Thread, "start", refuse)
    with made:
        yield made


def test_a_thread_that_is_there_takes_what_another_could_not(pool, caplog):
    """One thread takes all work, and the log warns once."""
    free = threading.Event()
    first = pool.submit(free.wait, SECONDS)
    pool.no_more()
    with caplog.at_level(logging.WARNING):
        waiting = [pool.submit(int, number) for number in range(5)]
    free.set()
    assert first.result(SECONDS)
    assert [future.result(SECONDS) for future in waiting] == [0, 1, 2, 3, 4]
    assert [record.message for record in caplog.records] == [
        "Out of threads: 1 must do."
    ]


def test_without_any_thread_the_worker_is_of_no_use(pool):
    """Without any thread the worker ends, and another starts."""
    pool.no_more()
    with pytest.raises(RuntimeError, match="new thread"):
        pool.submit(int)


def test_as_many_threads_start_as_there_may_be():
    """As many threads start as are allowed."""
    with Threads(2) as pool:
        met = threading.Barrier(2)
        both = [pool.submit(met.wait, SECONDS) for _ in range(2)]
        assert sorted(future.result(SECONDS) for future in both) == [0, 1]
