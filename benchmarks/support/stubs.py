"""Stand-ins for the processes of models and decoders, and cores for each process.

A server starts those processes as ``python -m MODULE``. Python runs a file
``sitecustomize.py`` first, if there is one on its path: ours becomes another module, so
that the server under measurement has no place that is made for it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.support.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RUNNER, DECODER = "modelserver.runner.child", "modelserver.decoder.process"
_CUSTOM = """
import os, sys
replaced = {replaced!r}
module = sys.orig_argv[2:3]
if sys.orig_argv[1:2] == ["-m"] and module and module[0] in replaced:
    words = [sys.executable, "-m", *replaced[module[0]], *sys.orig_argv[3:]]
    os.execv(sys.executable, words)
"""


@contextlib.contextmanager
def replaced(
    run_ms: float | None = None, *, decoders: bool = False
) -> Iterator[dict[str, str]]:
    """Yield the environment of a server with stand-ins.

    Args:
        run_ms: models wait for so long instead of a run; ``None`` leaves them as they
            are.
        decoders: decoders decode nothing.
    """
    words: dict[str, list[str]] = {}
    if run_ms is not None:
        words[RUNNER] = ["benchmarks.support.stub_runner", str(run_ms)]
    if decoders:
        words[DECODER] = ["benchmarks.support.stub_decoder"]
    with tempfile.TemporaryDirectory(prefix="modelserver-stubs-") as folder:
        custom = Path(folder) / "sitecustomize.py"
        custom.write_text(_CUSTOM.format(replaced=words))
        path = [folder, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        yield {"PYTHONPATH": os.pathsep.join(path)}


def write_model(folder: Path, name: str) -> None:
    """Write files that a stand-in serves as a model; no graph is in them."""
    (folder / f"{name}.frozen.pb").write_bytes(b"\n\x00")
    (folder / f"{name}.label_map.pbtxt").write_text('item { id: 1 name: "thing" }\n')


def pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Have processes, with all their threads, run on some cores only."""
    wanted = set(cores) & os.sched_getaffinity(0) or os.sched_getaffinity(0)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), wanted)


def processor_s(pid: int) -> float:
    """Return the seconds that a process's living threads have had of processors.

    By the scheduler's own clock, of nanoseconds.
    """
    spent = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            spent += int(task.read_text().split()[0])
    return spent / 1e9


def environ(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with some variables."""
    return {**os.environ, **more}
