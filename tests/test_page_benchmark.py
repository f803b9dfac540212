"""The driver that measures how soon the page is painted."""

import json

import pytest
from browser import chromium, served

from benchmarks import page

pytestmark = pytest.mark.real


def test_medians_are_of_each_fact():
    """And the worst first paint is not hidden by them."""
    rounds = [{"first_paint_ms": ms, "bytes": 10} for ms in (1.0, 2.0, 9.0)]
    assert page.medians(rounds) == {
        "first_paint_ms": 2.0,
        "bytes": 10,
        "worst_first_paint_ms": 9.0,
    }


def test_a_page_is_measured(folder, uploads):
    """Numbers that JSON can hold; the second visit costs fewer bytes."""
    with chromium() as browser:
        version = browser.version
    with served("detection", folder, uploads) as url:
        result = json.loads(json.dumps(page.measure(url, 1)))
    assert result["chromium"] == version
    assert result["first"]["first_paint_ms"] > 0
    assert result["again"]["bytes"] < result["first"]["bytes"] < 100_000
    assert result["first"]["requests"] >= 9
