"""A folder of photos: as many on their way at a time as the server takes."""

from __future__ import annotations

import itertools
import os
import queue
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from modelserver.client import photos
from modelserver.client.errors import (
    BadImage,
    ClientError,
    NotFound,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from modelserver.client.pace import Pace
from modelserver.client.retries import Attempts, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from modelserver.client.calls import Call
    from modelserver.client.results import Classification, Detections

T = TypeVar("T")

WORKERS = 8
"""Enough for a server's best rate, and few enough for its queue."""

SUFFIXES = frozenset(
    (
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".png",
        ".webp",
    )
)
"""What files of a folder are photos, in small letters."""

# No other photo would fare better.
_HOPELESS = (NotFound, Unauthorized, Unreachable)
# A server may be full for long, where each photo takes seconds.
_FULL = Policy(retries=None, total_s=300.0)
_REFRESHES = 4  # a second: drawing is not to cost a server on this machine anything


class File(NamedTuple):
    """A photo's file, and what it is called in results."""

    path: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: a result, or an error.

    Attributes:
        name: of the file, within the folder where one folder was given.
    """

    path: Path
    name: str
    result: Detections | Classification | None = None
    error: ClientError | None = None


class Sender(Protocol):
    """What sends a request once, from any thread."""

    def send(self, call: Call[T]) -> T:
        """Send it; raises ``ClientError``."""
        raise NotImplementedError

    @property
    def policy(self) -> Policy:
        """How patient it is."""
        raise NotImplementedError


def find(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = False,
) -> list[File]:
    """Return the photos of a folder, or of several folders and files, in order.

    Of a folder, the files whose names end as a photo's do and begin with no dot; files
    that are named are taken as they are.

    Args:
        recursive: take the folders within folders, too.

    Raises:
        BadImage: there is no such folder or file, or no photo in any of them.
    """
    given = (
        [Path(sources)]
        if isinstance(sources, (str, os.PathLike))
        else [Path(source) for source in sources]
    )
    found = []
    for source in given:
        if not source.exists():
            raise BadImage(f"There is no folder or file {str(source)!r}.")
        if not source.is_dir():
            found.append(File(source, str(source)))
            continue
        for path in _photos(source, recursive=recursive):
            alone = len(given) == 1
            name = path.relative_to(source).as_posix() if alone else str(path)
            found.append(File(path, name))
    if not found:
        raise BadImage(
            f"There is no photo in {', '.join(map(str, given)) or 'nothing'}."
        )
    return found


def _photos(folder: Path, *, recursive: bool) -> Iterator[Path]:
    paths = folder.rglob("*") if recursive else folder.iterdir()
    for path in sorted(paths):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def run(
    client: Sender,
    files: Sequence[File],
    ask: Callable[[bytes], Call[Any]],
    *,
    workers: int = WORKERS,
    progress: bool = False,
) -> Generator[Outcome]:
    """Yield what becomes of each photo, as the answers come.

    Photos are read, sent and their answers decoded in threads. Those that are done wait
    for whoever takes them here, and then no more are sent. Closing the iterator ends
    it, once the photos on their way are answered.

    Args:
        ask: makes the request of an image file's bytes.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        Unreachable, Unauthorized, NotFound: no photo would be answered.
    """
    work = _Work(client, ask, workers)
    with (
        _bar(len(files), shown=progress) as step,
        closing(work.outcomes(files)) as outcomes,
    ):
        for outcome in outcomes:
            step(outcome)
            yield outcome


class _Work:
    """The state of one ``run``."""

    def __init__(
        self, client: Sender, ask: Callable[[bytes], Call[Any]], workers: int
    ) -> None:
        self._client = client
        self._ask = ask
        self._workers = workers
        self._pace = Pace(workers)
        self._done: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()

    def outcomes(self, files: Sequence[File]) -> Generator[Outcome]:
        remaining = iter(files)
        pool = ThreadPoolExecutor(self._workers, "modelserver-client")
        try:
            # One more each, so that no thread waits for whoever takes the outcomes.
            self._submit(pool, itertools.islice(remaining, 2 * self._workers))
            for _ in files:
                outcome = self._done.get().result()
                self._submit(pool, itertools.islice(remaining, 1))
                yield outcome
        finally:
            self._pace.stop()
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, files: Iterable[File]) -> None:
        for file in files:
            pool.submit(self._one, file).add_done_callback(self._done.put)

    def _one(self, file: File) -> Outcome:
        try:
            call = self._ask(photos.read(file.path))
            return Outcome(*file, result=self._answer(call))
        except _HOPELESS:
            raise
        except ClientError as error:
            return Outcome(*file, error=error)

    def _answer(self, call: Call[Any]) -> Any:
        tries, refusals = Attempts(self._client.policy), Attempts(_FULL)
        while True:
            try:
                with self._pace.turn():
                    result = self._client.send(call)
            except Unavailable as error:
                self._pace.refused()
                wait_s = refusals.wait_after(error)
            except ClientError as error:
                wait_s = tries.wait_after(error)
            else:
                self._pace.answered()
                return result
            self._pace.pause(wait_s)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[Outcome], None]]:
    """Give a function that counts an outcome, on a bar if there is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _outcome: None
        return
    from rich.console import Console  # noqa: PLC0415 - tens of ms, and only here
    from rich.progress import (  # noqa: PLC0415 - same
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=_REFRESHES,
    ) as bar:
        task = bar.add_task("photos", total=total)
        failed = itertools.count(1)

        def step(outcome: Outcome) -> None:
            if outcome.error is not None:
                bar.update(task, description=f"photos, {next(failed)} failed")
            bar.advance(task)

        yield step
