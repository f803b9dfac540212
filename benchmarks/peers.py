"""Our server beside Flask with gunicorn and LitServe: same graph, same photo, in turns.

    python -m benchmarks.peers MODEL_FOLDER --case NAME:PHOTO:CLIENTS [--case ...]

CLIENTS are numbers such as ``1,8``. The peers are set up once, in an environment of
their own under ``--cache``. For each peer and case, rounds of ours and rounds of the
peer's take turns, so that a machine that gets slower is slower for both; a ratio is the
median of the rounds' ratios. NAME is a detector where MODEL_FOLDER has
``NAME.frozen.pb``, else a classifier. Linux only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.inprocess import find
from modelserver import bench
from modelserver.bench.starting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.discovery import ModelFiles
    from modelserver.signatures import Kind

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers-requirements.txt"
CACHE = Path.home() / ".cache" / "modelserver-benchmarks"
PEERS = ("flask_gunicorn", "litserve")
READY_S = 120
END_S = 20
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Case:
    """A model, a photo and the numbers of clients to measure."""

    model: str
    photo: Path
    clients: tuple[int, ...]

    @classmethod
    def read(cls, text: str) -> Case:
        """Read ``NAME:PHOTO:1,8``."""
        name, _, rest = text.partition(":")
        photo, _, clients = rest.rpartition(":")
        return cls(name, Path(photo), tuple(results.counts(clients)))


def environment(cache: Path) -> Path:
    """Return the peers' own interpreter's folder; install them the first time."""
    venv, wanted = cache / "venv", REQUIREMENTS.read_text()
    done = cache / "installed.txt"
    if not done.exists() or done.read_text() != wanted:
        results.say(f"setting up the peers in {cache}, once")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = str(venv / "bin" / "pip")
        install = [pip, "install", "-q", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True)
        done.write_text(wanted)
    return venv / "bin"


def command(peer: str, programs: Path, port: int) -> list[str]:
    """Return how a peer is started."""
    if peer == "litserve":
        return [str(programs / "python"), "peer_litserve.py", str(port)]
    where = f"127.0.0.1:{port}"
    gunicorn = str(programs / "gunicorn")
    return [gunicorn, "-k", "gthread", "--threads", "8", "-b", where, "peer_flask:app"]


@contextmanager
def serving(peer: str, files: ModelFiles, programs: Path) -> Iterator[str]:
    """Start a peer with a model; give its URL once it is ready; end it."""
    port = free_port()
    environ = os.environ | {
        "PEER_GRAPH": str(files.graph),
        "PEER_LABELS": str(files.labels),
        "PEER_KIND": files.kind,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    process = subprocess.Popen(
        command(peer, programs, port),
        cwd=HERE,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its workers end with it
    )
    try:
        wait(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def wait(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a peer is ready."""
    limit = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < limit:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"The peer at {url} does not start.")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a peer and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
        return


def compare(
    ours: bench.Target, theirs: bench.Target, clients: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Measure one number of clients in turns."""
    for target in (ours, theirs):
        bench.run(target, clients, min(WARM_UP_S, given.seconds))
    pairs: tuple[list[bench.Round], list[bench.Round]] = ([], [])
    for _ in range(given.rounds):
        for target, rounds in zip((ours, theirs), pairs, strict=True):
            rounds.append(bench.run(target, clients, given.seconds))
    summaries = [results.figures(bench.summarise(rounds)) for rounds in pairs]
    return {
        "clients": clients,
        "ours": summaries[0],
        "theirs": summaries[1],
        "per_second_ratio": results.median_ratio(*map(results.rates, pairs)),
        "p50_ratio": results.median_ratio(*map(results.medians_ms, pairs)),
    }


def kind_of(folder: Path, name: str) -> Kind:
    """Tell a detector from a classifier, by its file's name."""
    there = (folder / f"{name}.frozen.pb").exists()
    return "detection" if there else "classification"


def measure(cases: list[Case], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every case beside every peer."""
    folder = given.folder.resolve()
    by_model = defaultdict(list)
    for case in cases:
        by_model[case.model].append(case)
    with ExitStack() as stack:
        urls: dict[Kind, str] = {}
        for kind in sorted({kind_of(folder, name) for name in by_model}):
            urls[kind] = stack.enter_context(bench.started(folder, kind)).url
        return [
            row
            for peer in given.peers.split(",")
            for name, some in by_model.items()
            for row in beside(
                peer, find(folder, kind_of(folder, name), name), some, urls, given
            )
        ]


def beside(
    peer: str,
    files: ModelFiles,
    cases: list[Case],
    urls: dict[Kind, str],
    given: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Start a peer with a model and measure the model's cases beside it."""
    with serving(peer, files, environment(given.cache)) as theirs:
        for case in cases:
            facts, targets = prepare(case, urls[files.kind], theirs, files)
            for clients in case.clients:
                results.say(f"{peer}: {case.photo.name}, {clients} clients")
                yield {"peer": peer, **facts, **compare(*targets, clients, given)}


def prepare(
    case: Case, our_url: str, their_url: str, files: ModelFiles
) -> tuple[dict[str, Any], tuple[bench.Target, bench.Target]]:
    """Return a case's facts, and where to send what: to us, and to the peer."""
    photo = [bench.read_photo(case.photo)]
    ours = bench.Target.of(our_url, bench.PATHS[files.kind], case.model, photo)
    theirs = bench.Target.of(their_url, "/predict", case.model, photo)
    bench.check(ours)
    bench.check(theirs)
    facts = {"model": case.model, "photo": results.photo_facts(case.photo)}
    return facts, (ours, theirs)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", type=Case.read, required=True)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--cache", type=Path, default=CACHE)
    results.add_common(parser, seconds=5)
    given = parser.parse_args()
    rows = measure(given.case, given)
    result = {"seconds": given.seconds, "rounds": given.rounds, "rows": rows}
    results.write(result, given.out)


if __name__ == "__main__":
    main()
