"""What the processes of a server hold in memory. Linux only."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """Process ids of a process's children, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def front_and_runners(arbiter: int) -> tuple[int, list[int]]:
    """Process ids of a server's worker, which holds the socket, and of its runners."""
    (front,) = children(arbiter)
    return front, children(front)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory in MB: ``rss``, and ``pss``, which shares out shared pages."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return parse_rollup(text)


def parse_rollup(text: str) -> dict[str, float]:
    """Read ``Rss`` and ``Pss`` from a ``smaps_rollup``, in MB."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name.lower()] = int(rest.split()[0]) / 1024
    return found
