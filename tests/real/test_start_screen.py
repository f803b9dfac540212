"""The start as a person sees it, in a pseudo-terminal; the same elsewhere in JSON."""

import json
import os
import pty
import re
import select
import signal
import sys

import pytest

from support import tiny_graphs
from support.servers import ROOT, SECONDS, started, wait_for

pytestmark = pytest.mark.real

_LAST = "try: curl"


class Screen:
    """An app in a pseudo-terminal of its own."""

    def __init__(self, *arguments, **environ):
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(  # noqa: S606 - as a shell does
                sys.executable,
                [sys.executable, *arguments],
                {**os.environ, "PORT": "0", **{k: str(v) for k, v in environ.items()}},
            )
        self.text = ""

    def has(self, words):
        """Read what has come; whether the words did."""
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                self.text += os.read(self._terminal, 65536).decode()
            except OSError:  # nobody holds its other side any more
                break
        return words in self.text

    @property
    def lines(self):
        """What stands on the screen, without colours."""
        plain = re.sub(r"\x1b\[\d*m", "", self.text)
        lines = plain.replace("\r\n", "\n").split("\n")
        return [shown for line in lines if (shown := line.split("\r\x1b[K")[-1])]

    def end(self):
        """Stop it as Ctrl-C does; returns the exit code."""
        os.kill(self.pid, signal.SIGINT)
        status = None

        def ended():
            nonlocal status
            self.has("")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return pid

        wait_for(ended, "it has ended")
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def test_the_start_takes_four_lines_on_a_terminal(folder, uploads):
    """Address, what it is at, that it is ready, and what to try: no more."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    screen = Screen("app.py", MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads)
    try:
        wait_for(lambda: screen.has(_LAST), "all was said")
    finally:
        code = screen.end()
    assert code == 0
    assert "loading m (1 of 1)" in screen.text
    name, warning, ready, page, line = screen.lines[:5]
    assert re.fullmatch(r"ModelServer \S+ · http://127\.0\.0\.1:\d+", name)
    assert "m.label_map.pbtxt" in warning
    assert re.fullmatch(r"ready after \d+ s \(\S+, \d+ at a time.*\)", ready)
    assert page == f"Open {name.split()[-1]} in a browser"
    assert line.startswith(f"{_LAST} -F modelname=m ")
    # gunicorn's, about Ctrl-C.
    assert all("[info" in line for line in screen.lines[5:])
    assert len(screen.lines) <= 7


def test_elsewhere_the_log_has_all_of_it(folder, uploads, tmp_path):
    """Each line that a terminal lacks is a JSON object of its own."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path):
        log = tmp_path / "stderr"
        wait_for(lambda: _LAST in log.read_text(), "all was said", SECONDS)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "\x1b" not in json.dumps(lines)
    levels = {line["event"].split(" (")[0]: line["level"] for line in lines}
    assert levels["Using worker: modelserver.web.server.worker.Worker"] == "debug"
    events = " | ".join(levels)
    for words in ("Listening at: ", "ModelServer ", "m is ready on ", "Open http"):
        assert words in events
    printed = [line for line in lines if line["event"].endswith("process printed")]
    assert {line["level"] for line in printed if "oneDNN" in line["line"]} <= {"debug"}
