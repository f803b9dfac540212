"""The client with folders: as many photos on their way as the server takes."""

from __future__ import annotations

import itertools
import os
import queue
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

from modelserver.client import calls, photos
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
from modelserver.client.sync import SyncClient

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from typing_extensions import Unpack

    from modelserver.client.calls import Call, ClassifyOptions, DetectOptions
    from modelserver.client.results import Classification, Detections

Sources: TypeAlias = Union[str, "os.PathLike[str]", "Iterable[str | os.PathLike[str]]"]
"""A folder or file, or several of both."""

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
"""The suffixes of a folder's photos, in small letters."""

# No other photo would fare better.
_HOPELESS = (NotFound, Unauthorized, Unreachable)
# A server may be full for long, where each photo takes seconds.
_FULL = Policy(retries=None, total_s=300.0)
_REFRESHES = 4  # a second: drawing is not to cost a server on this machine anything


class File(NamedTuple):
    """A photo's file, and its name in results."""

    path: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """The outcome for one photo: a result, or an error.

    Attributes:
        name: of the file, relative to the folder if one folder was given.
    """

    path: Path
    name: str
    result: Detections | Classification | None = None
    error: ClientError | None = None


class Client(SyncClient):
    """Talk to one server, a photo or a folder at a time; safe to share between threads.

    A context manager; the caller who makes one closes it. The arguments are those of
    ``AsyncClient``.
    """

    def detect_folder(
        self,
        folder: Sources,
        modelname: str | None = None,
        *,
        workers: int = WORKERS,
        recursive: bool = False,
        progress: bool = True,
        **options: Unpack[DetectOptions],
    ) -> Generator[Outcome]:
        """Yield the detections in each photo of a folder, as the answers come.

        A photo that fails is yielded with its error and the others go on. If the
        server is full, fewer photos are sent at a time.

        Args:
            folder: or files, or several of both.
            modelname: may be left out if the server has one detector.
            workers: threads with a connection each, so at most this many photos are on
                their way.
            recursive: search the folders within folders, too.
            progress: show a bar on stderr, if that is a terminal.

        Raises:
            BadImage: there is no such folder or file, or no photo in it.
            Unreachable, Unauthorized, NotFound, NoSingleModel: no photo would be
                answered.
        """
        labels = options.get("labels")
        if labels is not None and not isinstance(labels, str):
            options["labels"] = tuple(labels)  # may be an iterator: once for all photos

        name = modelname or self.find(calls.DETECTION)

        def ask(photo: bytes) -> Call[Detections]:
            return calls.detect(name, photo, options)

        files = find(folder, recursive=recursive)
        return run(self, files, ask, workers=workers, progress=progress)

    def classify_folder(
        self,
        folder: Sources,
        modelname: str | None = None,
        *,
        workers: int = WORKERS,
        recursive: bool = False,
        progress: bool = True,
        **options: Unpack[ClassifyOptions],
    ) -> Generator[Outcome]:
        """Yield the class of each photo of a folder; see ``detect_folder``."""
        name = modelname or self.find(calls.CLASSIFICATION)

        def ask(photo: bytes) -> Call[Classification]:
            return calls.classify(name, photo, options)

        files = find(folder, recursive=recursive)
        return run(self, files, ask, workers=workers, progress=progress)


def find(sources: Sources, *, recursive: bool = False) -> list[File]:
    """Return the photos of a folder, or of several folders and files, in order.

    In a folder, files count whose suffix is one of ``SUFFIXES`` and whose name begins
    without a dot; files that are named are taken as they are.

    Args:
        recursive: search the folders within folders, too.

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
    client: SyncClient,
    files: Sequence[File],
    ask: Callable[[bytes], Call[Any]],
    *,
    workers: int = WORKERS,
    progress: bool = False,
) -> Generator[Outcome]:
    """Yield the outcome of each photo, as the answers come.

    Photos are read, sent and their answers decoded in threads. If the caller takes the
    outcomes more slowly than they come, no more photos are sent meanwhile. Closing the
    iterator ends the run, once the photos on their way are answered.

    Args:
        ask: return the call for an image file's bytes.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        Unreachable, Unauthorized, NotFound: no photo would be answered.
    """
    folder_run = _FolderRun(client, ask, workers)
    with (
        _bar(len(files), shown=progress) as step,
        closing(folder_run.outcomes(files)) as outcomes,
    ):
        for outcome in outcomes:
            step(outcome)
            yield outcome


class _FolderRun:
    """The state of one ``run``."""

    def __init__(
        self, client: SyncClient, ask: Callable[[bytes], Call[Any]], workers: int
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
            # One more each, so that no thread waits for the caller.
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
            pool.submit(self._evaluate, file).add_done_callback(self._done.put)

    def _evaluate(self, file: File) -> Outcome:
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
                self._pace.note_refusal()
                wait_s = refusals.wait_after(error)
            except ClientError as error:
                wait_s = tries.wait_after(error)
            else:
                self._pace.note_answer()
                return result
            self._pace.pause(wait_s)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[Outcome], None]]:
    """Yield a function that counts an outcome, on a bar if there is a terminal."""
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
