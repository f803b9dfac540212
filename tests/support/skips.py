"""Which tests may be left out where every change is checked, and why.

There (the variable ``CI`` is set) a skipped test is a failure, unless its reason is
listed here: a browser that nobody installed must not look like a page that works.
"""

import os

MAY_BE_SKIPPED = {
    "generated": "the file is made by a generator and checked as what it is made from",
    "no mounts for this user": "a full disk is a mount, which takes a privilege",
    "no bubblewrap for this user": "a sandbox takes user namespaces of the kernel",
    "no user namespaces for this user": "being PID 1 takes namespaces of the kernel",
    "the clients of other servers cannot be fetched": "there is no way to the packages",
    "perf_analyzer is not installed": "it comes with Triton, and needs CUDA's libraries",
    "no real graphs are there": "they lie beside the checkout, or nowhere",
    "the folder of graphs is not there": "it lies beside the checkout, or nowhere",
    "got empty parameter set for (path)": "the files lie beside the checkout, or nowhere",
    "the odd images are not here": "they lie beside the checkout, or nowhere",
}

_forbidden = []


def _reason(report):
    return report.longrepr[2].removeprefix("Skipped: ")


def pytest_runtest_logreport(report):
    """Note a test that was skipped for a reason that is not listed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        if reason not in MAY_BE_SKIPPED:
            _forbidden.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report):
    """Note a file that was skipped as a whole."""
    pytest_runtest_logreport(report)


def pytest_sessionfinish(session):
    """Fail where every change is checked and something else was skipped."""
    if _forbidden and os.environ.get("CI") and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    """Say what was skipped without being listed, and what that means here."""
    if not _forbidden:
        return
    fails = "fails with" if os.environ.get("CI") else "would fail in CI with"
    terminalreporter.section(f"this run {fails} tests that must not be skipped")
    for line in _forbidden:
        terminalreporter.write_line(line)
