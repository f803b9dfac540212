"""Draw docs/img/throughput.svg and docs/img/latency.svg from the results.

    python -m benchmarks.plot RESULTS [--folder docs/img]

The drawings are text, the same for the same results, and readable on a light page as on
a dark one.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 76, 46
TICKS = 5
# About as wide as a letter is in most fonts, and what a legend has beside its letters.
_LETTER, _LEGEND_GAP = 7.5, 56
PEERS = {"flask_gunicorn": "Flask + gunicorn", "litserve": "LitServe"}

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.page { fill: #ffffff }
.grid { stroke: #d1d9e0 }
.line { fill: none; stroke-width: 2.5 }
.dashed { stroke-dasharray: 6 5 }
.a { stroke: #0969da } .b { stroke: #6e7781 } .c { stroke: #bc4c00 } .d { stroke: #1a7f37 }
circle.a { fill: #0969da } circle.b { fill: #6e7781 }
circle.c { fill: #bc4c00 } circle.d { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.page { fill: #0d1117 }
.grid { stroke: #3d444d }
.a { stroke: #58a6ff } .b { stroke: #9198a1 } .c { stroke: #f0883e } .d { stroke: #3fb950 }
circle.a { fill: #58a6ff } circle.b { fill: #9198a1 }
circle.c { fill: #f0883e } circle.d { fill: #3fb950 }
}
"""  # noqa: E501 - as CSS is written


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        points: value by number of clients.
        colour: ``a`` to ``d``.
    """

    name: str
    points: dict[int, float]
    colour: str
    dashed: bool = False


def step(highest: float) -> float:
    """Return the distance of an axis's marks from 0 to a value: 1, 2 or 5 x 10^n."""
    least = highest / TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def chart(title: str, lines: list[Line]) -> str:
    """Return a plot over numbers of clients, as SVG.

    The numbers stand at equal distances, as they usually double.
    """
    lines = [line for line in lines if line.points]
    clients = sorted({x for line in lines for x in line.points})
    highest = max((y for line in lines for y in line.points.values()), default=1.0)
    mark = step(highest or 1.0)
    marks = max(1, math.ceil(highest / mark - 1e-9))

    def across(x: int) -> float:
        room = WIDTH - LEFT - RIGHT
        return LEFT + room * (clients.index(x) + 0.5) / len(clients)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / (mark * marks)

    below = HEIGHT - BOTTOM + 20
    parts = [*_grid(mark, marks, up)]
    parts += [_text(across(x), below, str(x), "middle") for x in clients]
    parts.append(_text(WIDTH / 2, HEIGHT - 8, "clients", "middle"))
    place = float(LEFT)
    for line in lines:
        points = [(across(x), up(y)) for x, y in sorted(line.points.items())]
        parts += _drawn(line, points)
        parts += _legend(line, place)
        place += _LEGEND_GAP + _LETTER * len(line.name)
    return _document(title, parts)


def _document(title: str, parts: list[str]) -> str:
    name = escape(title)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{name}</title>",
            f"<style>{_STYLE}</style>",
            '<rect class="page" width="100%" height="100%" rx="6"/>',
            f'<text class="title" x="{LEFT}" y="24">{name}</text>',
            *parts,
            "</svg>\n",
        )
    )


def _grid(mark: float, marks: int, up: Any) -> list[str]:
    parts = []
    for number in range(marks + 1):
        y = up(number * mark)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" fill="none"/>'
        )
        parts.append(_text(LEFT - 8, y + 4, f"{number * mark:g}", "end"))
    return parts


def _drawn(line: Line, points: list[tuple[float, float]]) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = [
        f'<circle class="{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        for x, y in points
    ]
    return [f'<path class="line {_classes(line)}" d="M{path}"/>', *dots]


def _legend(line: Line, x: float) -> list[str]:
    swatch = f'<path class="line {_classes(line)}" d="M{x:.0f} 48h24"/>'
    return [swatch, _text(x + 30, 52, line.name, "start")]


def _classes(line: Line) -> str:
    return f"{line.colour} dashed" if line.dashed else line.colour


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def from_throughput(
    results: dict[str, Any], side: str, figure: str
) -> dict[int, float]:
    """Return one figure by number of clients."""
    rows = results.get("throughput", {}).get("rows", [])
    return {row["clients"]: row[side][figure] for row in rows}


def from_peers(results: dict[str, Any], peer: str, figure: str) -> dict[int, float]:
    """Return a peer's figure by number of clients, on the same model and photo."""
    ours = results.get("throughput", {})
    return {
        row["clients"]: row["theirs"][figure]
        for row in results.get("peers", {}).get("rows", [])
        if row["peer"] == peer
        and row["model"] == ours.get("model")
        and row["photo"] == ours.get("photo")
    }


def throughput(results: dict[str, Any]) -> str:
    """Draw answers a second."""
    lines = [
        Line("ModelServer", from_throughput(results, "server", "per_second"), "a"),
        Line(
            "in-process limit",
            from_throughput(results, "in_process", "per_second"),
            "b",
            dashed=True,
        ),
    ]
    for (peer, name), colour in zip(PEERS.items(), "cd", strict=True):
        lines.append(Line(name, from_peers(results, peer, "per_second"), colour))
    return chart("Answers a second", lines)


def latency(results: dict[str, Any]) -> str:
    """Draw how long an answer takes."""
    lines = [
        Line("ModelServer", from_throughput(results, "server", "p50_ms"), "a"),
        Line("its p99", from_throughput(results, "server", "p99_ms"), "a", dashed=True),
    ]
    for (peer, name), colour in zip(PEERS.items(), "cd", strict=True):
        lines.append(Line(name, from_peers(results, peer, "p50_ms"), colour))
    return chart("Milliseconds to an answer, median", lines)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="what benchmarks.all wrote")
    parser.add_argument("--folder", type=Path, default=Path("docs/img"))
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "throughput.svg").write_text(throughput(results))
    (given.folder / "latency.svg").write_text(latency(results))


if __name__ == "__main__":
    main()
