"""How soon the page is painted, and what it costs to load.

    python -m benchmarks.page [MODEL_FOLDER] [--rounds 10] [--out FILE]

Opens the page in a fresh profile of Chromium again and again: first paint and first
contentful paint by the browser's own clock, the time until its scripts have run, and
bytes with headers. ``again`` is the second visit of a profile. The bar is a first paint
of 300 ms in the median. Needs requirements-dev.txt and ``chromium``.
"""

from __future__ import annotations

import shutil
import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.support import results
from benchmarks.support.servers import started

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser, Page

# Paints come a moment after the document is complete, so they are waited for.
FACTS = """() => new Promise((tell) => {
  const paints = () => Object.fromEntries(
    performance.getEntriesByType("paint").map((one) => [one.name, one.startTime]));
  const [page] = performance.getEntriesByType("navigation");
  const all = [page, ...performance.getEntriesByType("resource")];
  const told = () => tell({
    first_paint_ms: paints()["first-paint"],
    first_contentful_paint_ms: paints()["first-contentful-paint"],
    loaded_ms: page.loadEventStart,
    bytes: all.reduce((sum, one) => sum + one.transferSize, 0),
    requests: all.length,
  });
  const painted = () => "first-contentful-paint" in paints();
  const wait = () => (painted() ? told() : setTimeout(wait, 5));
  wait();
})"""


def load(page: Page, url: str) -> dict[str, float]:
    """Open the page and return what the browser noted."""
    page.goto(url, wait_until="load")
    facts: dict[str, float] = page.evaluate(FACTS)
    return facts


def visits(browser: Browser, url: str) -> tuple[dict[str, float], dict[str, float]]:
    """Open the page twice in a fresh profile; returns first and second."""
    context = browser.new_context()
    page = context.new_page()
    first, second = load(page, url), load(page, url)
    context.close()
    return first, second


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each fact, and the slowest first paint."""
    middle = {
        name: statistics.median(one[name] for one in rounds) for name in rounds[0]
    }
    return {**middle, "worst_first_paint_ms": max(r["first_paint_ms"] for r in rounds)}


def measure(url: str, rounds: int) -> dict[str, Any]:
    """Measure a server that runs, after one visit that is not counted.

    Raises:
        SystemExit: there is no browser.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a tool of tests

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        visits(browser, url)
        pairs = [visits(browser, url) for _ in range(rounds)]
        version = browser.version
        browser.close()
    first, again = zip(*pairs, strict=True)
    return {"chromium": version, "first": medians(first), "again": medians(again)}


def main() -> None:
    """Measure and write."""
    parser = results.options(__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with (
        results.subject(given) as (files, _),
        started(files.graph.parent) as server,
    ):
        row = measure(server.url, given.rounds)
    results.write({"rounds": given.rounds, **row}, given.out)


if __name__ == "__main__":
    main()
