"""Limits of the system: those that no model could be served under."""

import os
import resource

import pytest

from modelserver.core.errors import StartError
from modelserver.engine import system_limits
from support.app_client import make_settings

MIB = 1 << 20


@pytest.fixture
def limited(monkeypatch):
    """A function that checks under one limit, as a user who is not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def check(limit, value, **environ):
        given = {getattr(resource, limit): value}
        free = resource.RLIM_INFINITY
        monkeypatch.setattr(
            resource, "getrlimit", lambda what: (given.get(what, free), free)
        )
        system_limits.check(make_settings(**environ))

    return check


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("RLIMIT_FSIZE", MIB, r"A file may have 1 MiB .*ulimit -f, LimitFSIZE="),
        ("RLIMIT_NOFILE", 32, r"open 32 files .* takes 64: .*ulimit -n, LimitNOFILE="),
        ("RLIMIT_AS", 1000 * MIB, r"map 1000 MiB .* takes 2048: .*ulimit -v, LimitAS="),
        ("RLIMIT_NPROC", 20, r"20 processes and threads .*ulimit -u, LimitNPROC="),
    ],
)
def test_a_limit_that_is_too_low_is_named_with_its_remedy(limit, value, words, limited):
    """Before anything is started, in one sentence."""
    with pytest.raises(StartError, match=words):
        limited(limit, value)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("RLIMIT_FSIZE", 4096 * MIB),
        ("RLIMIT_NOFILE", 1024),
        ("RLIMIT_AS", 8192 * MIB),
        ("RLIMIT_NPROC", 4096),
    ],
)
def test_a_limit_that_is_high_enough_is_none(limit, value, limited):
    """As distributions set them."""
    limited(limit, value)


def test_the_memory_for_pixels_is_what_a_file_must_hold(limited):
    """It grows with its setting, and is none of one process that does all."""
    limited("RLIMIT_FSIZE", 900 * MIB)
    with pytest.raises(StartError, match="MAX_PIXELS_IN_FLIGHT"):
        limited("RLIMIT_FSIZE", 900 * MIB, MAX_PIXELS_IN_FLIGHT=200_000_000)
    limited("RLIMIT_FSIZE", MIB, ISOLATION="inline")


def test_processes_are_not_counted_for_root(limited, monkeypatch):
    """The kernel does not, either."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    limited("RLIMIT_NPROC", 20)
