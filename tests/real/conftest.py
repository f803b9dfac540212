"""Fixtures of the tests in a browser."""

import pytest

from support.browser import chromium


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of a file."""
    with chromium() as browser:
        yield browser
