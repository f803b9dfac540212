"""Write the results as Markdown: to stdout, or into a document between marks.

    python -m benchmarks.tables RESULTS [--into docs/benchmarks.md]

A table stands between ``<!-- name -->`` and ``<!-- /name -->``; the document's own
words stay. A result that was not measured leaves its table as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plot import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Result = dict[str, Any]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ms(value: float | None) -> str:
    """Write milliseconds, a tenth only where it counts."""
    if value is None:
        return "-"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"  # noqa: PLR2004 - said


def photo(facts: Result) -> str:
    """Write what was sent."""
    width, height = facts["size"]
    return f"{width}x{height}, {facts['bytes'] / 1000:.0f} kB"


def machine(facts: Result) -> str:
    """Write what was measured on."""
    return (
        f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gb']} GB,"
        f" TensorFlow {facts['tensorflow']}, Python {facts['python']},"
        f" {facts['date']}.\n"
    )


def startup(result: Result) -> str:
    """Write how soon a server answers."""
    medians = result["medians"]
    bars = {
        "/livez, s": "1.5",
        "/readyz, s": "15",
        "front, MB": "150",
        "TensorFlow in the front": "0",
    }
    rows = [(name, bars.get(name, ""), f"{medians[name]:.2f}") for name in medians]
    return markdown(("median", "at most", "measured"), rows)


def throughput(result: Result) -> str:
    """Write our server against the same work without one."""
    head = ("clients", "server", "p50", "p99", "in-process limit", "share")
    rows = [
        (
            str(row["clients"]),
            f"{row['server']['per_second']:.1f}/s",
            ms(row["server"]["p50_ms"]),
            ms(row["server"]["p99_ms"]),
            f"{row['in_process']['per_second']:.1f}/s",
            f"{row['ratio']:.2f}",
        )
        for row in result["rows"]
    ]
    what = f"`{result['model']}`, {photo(result['photo'])}:\n\n"
    return what + markdown(head, rows)


def overhead(result: Result) -> str:
    """Write what a server adds."""
    one, many = result["one"], result["many"]
    rows = [
        ("1 client, p50, HTTP", ms(one["server"]["p50_ms"])),
        ("1 client, p50, decode and run alone", ms(one["in_process"]["p50_ms"])),
        ("added", ms(one["added_p50_ms"])),
        (f"{many['clients']} clients", f"{many['per_second']:.0f}/s"),
        ("of that, cores the load generator takes", f"{many['load_cores']:.2f}"),
    ]
    return markdown((f"do-nothing graph, {photo(result['photo'])}", "measured"), rows)


def memory(result: Result) -> str:
    """Write what requests leave behind."""
    before, after = result["before_mb"], result["after_mb"]
    first, most = result["requests"]
    head = (f"`{result['model']}`", f"after {first}", f"after {most}", "ratio")
    rows = [
        (
            f"{name}, {kind.upper()}",
            f"{before[part][kind]:.0f} MB",
            f"{after[part][kind]:.0f} MB",
            f"{after[part][kind] / before[part][kind]:.3f}",
        )
        for part, name in (("front", "front"), ("runners", "runner"), ("all", "both"))
        for kind in ("rss", "pss")
    ]
    return markdown(head, rows)


def peers(result: Result) -> str:
    """Write each case beside each peer, and against the better of them."""
    head = ["model and photo", "clients", "peer", "answers/s: ours, theirs", "ratio"]
    head += ["p50: ours, theirs", "ratio"]
    # Cases together, in the order of the first peer; sorting keeps the peers' order.
    cases = [(row["model"], row["photo"], row["clients"]) for row in result["rows"]]
    ordered = sorted(
        result["rows"],
        key=lambda row: cases.index((row["model"], row["photo"], row["clients"])),
    )
    rows = [
        (
            f"`{row['model']}`, {photo(row['photo'])}",
            str(row["clients"]),
            PEERS[row["peer"]],
            f"{row['ours']['per_second']:.1f}, {row['theirs']['per_second']:.1f}",
            f"{row['per_second_ratio']:.2f}",
            f"{ms(row['ours']['p50_ms'])}, {ms(row['theirs']['p50_ms'])}",
            f"{row['p50_ratio']:.2f}",
        )
        for row in ordered
    ]
    return markdown(head, rows) + "\n" + better(result["rows"])


def better(rows: Sequence[Result]) -> str:
    """Write the ratios against the better peer of each case."""
    cases: dict[tuple[str, str, int], list[Result]] = {}
    for row in rows:
        key = (row["model"], photo(row["photo"]), row["clients"])
        cases.setdefault(key, []).append(row)
    lines = [
        (
            f"`{model}`, {what}, {clients} client" + "s" * (clients != 1),
            f"{min(row['per_second_ratio'] for row in some):.2f}",
            f"{max(row['p50_ratio'] for row in some):.2f}",
        )
        for (model, what, clients), some in cases.items()
    ]
    return markdown(("against the better peer", "answers/s", "p50"), lines)


WRITERS = {
    "machine": machine,
    "startup": startup,
    "throughput": throughput,
    "overhead": overhead,
    "memory": memory,
    "peers": peers,
}


def replaced(document: str, name: str, table: str) -> str:
    """Return a document with what stands between two marks replaced.

    Raises:
        ValueError: the document does not have the marks, once.
    """
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(marks.findall(document)) != 1:
        raise ValueError(f"there is not one place for {name!r}")
    return marks.sub(lambda match: match[1] + table + match[2], document)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="what benchmarks.all wrote")
    parser.add_argument("--into", type=Path, help="a document with marks")
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    tables = {name: w(results[name]) for name, w in WRITERS.items() if name in results}
    if given.into is None:
        print("\n".join(tables.values()))
        return
    document = given.into.read_text()
    for name, table in tables.items():
        document = replaced(document, name, table)
    given.into.write_text(document)


if __name__ == "__main__":
    main()
